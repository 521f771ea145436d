//! Builds GGUF files in memory, for tests of this crate and of its dependents. Not part of the public interface.
//!
//! It checks nothing: tests of the reader need malformed files.

/// A metadata value to write.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Meta {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    /// The type number of the elements, then the elements.
    Array(u32, Vec<Meta>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Meta {
    /// An array of strings.
    pub fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Meta {
        Meta::Array(8, items.into_iter().map(|s| Meta::Str(s.as_ref().to_owned())).collect())
    }

    /// An array of `i32`.
    pub fn i32s(items: impl IntoIterator<Item = i32>) -> Meta {
        Meta::Array(5, items.into_iter().map(Meta::I32).collect())
    }

    /// An array of `f32`.
    pub fn f32s(items: impl IntoIterator<Item = f32>) -> Meta {
        Meta::Array(6, items.into_iter().map(Meta::F32).collect())
    }

    /// The type's number in the specification.
    pub fn type_id(&self) -> u32 {
        match self {
            Meta::U8(_) => 0,
            Meta::I8(_) => 1,
            Meta::U16(_) => 2,
            Meta::I16(_) => 3,
            Meta::U32(_) => 4,
            Meta::I32(_) => 5,
            Meta::F32(_) => 6,
            Meta::Bool(_) => 7,
            Meta::Str(_) => 8,
            Meta::Array(..) => 9,
            Meta::U64(_) => 10,
            Meta::I64(_) => 11,
            Meta::F64(_) => 12,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Meta::U8(v) => out.push(*v),
            Meta::I8(v) => out.extend(v.to_le_bytes()),
            Meta::U16(v) => out.extend(v.to_le_bytes()),
            Meta::I16(v) => out.extend(v.to_le_bytes()),
            Meta::U32(v) => out.extend(v.to_le_bytes()),
            Meta::I32(v) => out.extend(v.to_le_bytes()),
            Meta::F32(v) => out.extend(v.to_le_bytes()),
            Meta::Bool(v) => out.push(u8::from(*v)),
            Meta::Str(v) => write_str(out, v),
            Meta::Array(element, items) => {
                out.extend(element.to_le_bytes());
                out.extend((items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| item.write(out));
            }
            Meta::U64(v) => out.extend(v.to_le_bytes()),
            Meta::I64(v) => out.extend(v.to_le_bytes()),
            Meta::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

impl From<&str> for Meta {
    fn from(value: &str) -> Self {
        Meta::Str(value.to_owned())
    }
}

impl From<u32> for Meta {
    fn from(value: u32) -> Self {
        Meta::U32(value)
    }
}

impl From<f32> for Meta {
    fn from(value: f32) -> Self {
        Meta::F32(value)
    }
}

impl From<bool> for Meta {
    fn from(value: bool) -> Self {
        Meta::Bool(value)
    }
}

struct Tensor {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    /// Overrides the offset of the data.
    offset: Option<u64>,
    data: Vec<u8>,
}

/// Builder of a file.
pub struct GgufWriter {
    version: u32,
    alignment: usize,
    meta: Vec<(String, Meta)>,
    tensors: Vec<Tensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        GgufWriter::new()
    }
}

impl GgufWriter {
    /// An empty version 3 file.
    pub fn new() -> Self {
        GgufWriter { version: 3, alignment: 32, meta: Vec::new(), tensors: Vec::new() }
    }

    /// Sets the version in the header.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets and records the alignment of tensor data.
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.meta("general.alignment", alignment)
    }

    /// Adds a metadata entry.
    pub fn meta(mut self, key: &str, value: impl Into<Meta>) -> Self {
        self.meta.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor of raw bytes in ggml type number `type_id`; dimensions in GGUF order.
    pub fn tensor(self, name: &str, dims: &[u64], type_id: u32, data: Vec<u8>) -> Self {
        self.push(name, dims, type_id, None, data)
    }

    /// Adds an F32 tensor.
    pub fn tensor_f32(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        self.push(name, dims, 0, None, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Adds a tensor that claims to lie at `offset` of the data section.
    pub fn tensor_at(self, name: &str, dims: &[u64], type_id: u32, offset: u64, data: Vec<u8>) -> Self {
        self.push(name, dims, type_id, Some(offset), data)
    }

    fn push(mut self, name: &str, dims: &[u64], type_id: u32, offset: Option<u64>, data: Vec<u8>) -> Self {
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), type_id, offset, data });
        self
    }

    /// The file's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            write_str(&mut out, key);
            out.extend(value.type_id().to_le_bytes());
            value.write(&mut out);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            pad(&mut data, self.alignment);
            write_str(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        pad(&mut out, self.alignment);
        out.extend(data);
        out
    }
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment.max(1)), 0);
}

fn write_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
