//! One file of a model: header, metadata entries, tensor list and the layout of its data section, each
//! checked against the file's size.

use std::ops::Range;
use std::path::{Path, PathBuf};

use foretoken_kernels::quant::GgmlType;

use super::cursor::{Cursor, Subject};
use super::error::GgufError;
use super::map::Bytes;
use super::tensor::TensorInfo;
use super::types::type_name;
use super::value::{self, Value};
use super::value_type::ValueType;

/// More keys or tensors than this in one file is a hostile file, not a model.
const ENTRIES_MAX: u64 = 1 << 16;
/// The specification's limit on the length of a key.
const KEY_BYTES_MAX: usize = 65_535;
/// The specification's limit on the length of a tensor's name.
const NAME_BYTES_MAX: usize = 64;
/// Most dimensions of a tensor.
const DIMS_MAX: usize = 4;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;
/// A key's length field, one byte of key, a type and one byte of value.
const ENTRY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;
/// A name's length field, one byte of name, the number of dimensions, one dimension, a type and an offset.
const INFO_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A metadata entry: the key, and the place of its value in the file.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) ty: ValueType,
    /// The value, without the type before it.
    pub(super) value: Range<usize>,
}

/// One mapped file whose structure has been checked.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) version: u32,
    pub(super) alignment: usize,
    pub(super) entries: Vec<Entry>,
    /// Indices into `entries`, sorted by key.
    by_key: Vec<u32>,
    pub(super) tensors: Vec<TensorInfo>,
    /// Where the data section starts; everything before it is structure.
    pub(super) data_start: usize,
}

impl Part {
    /// Reads and checks the structure. `number` is the part's place in a split model, from 0.
    pub(super) fn parse(path: &Path, bytes: Bytes, number: usize) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(path, &bytes, 0, Subject::Header);
        let version = read_version(path, &mut cursor)?;
        let tensor_count = read_count(&mut cursor, INFO_BYTES_MIN, "tensors")?;
        let entry_count = read_count(&mut cursor, ENTRY_BYTES_MIN, "metadata keys")?;

        let mut entries = Vec::new();
        for n in 0..entry_count {
            entries.push(read_entry(&mut cursor, n)?);
        }
        let by_key = index(&entries, |e| &e.key);
        if let Some([first, second]) = adjacent_equal(&by_key, |i| &entries[i].key) {
            let (entry, other) = (&entries[second], entries[first].value.start);
            let at = entry.value.start;
            let problem = format!("duplicate key; its other value is at byte {other}");
            return Err(Cursor::new(path, &bytes, at, Subject::Key(&entry.key)).fault(at, problem));
        }
        let alignment = read_alignment(path, &bytes, &entries, &by_key)?;

        let mut tensors = Vec::new();
        cursor.subject = Subject::Header;
        for n in 0..tensor_count {
            tensors.push(read_tensor(path, &mut cursor, n, number)?);
        }
        let info_end = cursor.at();
        let data_start = place_tensors(path, &bytes, info_end, alignment, &mut tensors)?;
        let alignment = alignment as usize;
        Ok(Part { path: path.to_path_buf(), version, alignment, entries, by_key, tensors, data_start, bytes })
    }

    /// The entry of `key`.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        find(&self.entries, &self.by_key, key)
    }

    /// Reads an entry's value.
    pub(super) fn value<'a>(&'a self, entry: &'a Entry) -> Result<Value<'a>, GgufError> {
        let bytes = &self.bytes[..entry.value.end];
        let mut cursor = Cursor::new(&self.path, bytes, entry.value.start, Subject::Key(&entry.key));
        Value::read(&mut cursor, entry.ty)
    }
}

/// Indices into `items`, sorted by name.
pub(super) fn index<T>(items: &[T], name: impl Fn(&T) -> &String) -> Vec<u32> {
    // Fits: a part has at most 65,536 entries, a model at most 1,000 parts.
    let mut by_name: Vec<u32> = (0..items.len() as u32).collect();
    by_name.sort_unstable_by(|&a, &b| name(&items[a as usize]).cmp(name(&items[b as usize])).then(a.cmp(&b)));
    by_name
}

/// Two neighbours in a sorted index with the same name, the earlier in the file first.
pub(super) fn adjacent_equal<'a>(by_name: &[u32], name: impl Fn(usize) -> &'a String) -> Option<[usize; 2]> {
    by_name
        .windows(2)
        .map(|pair| [pair[0] as usize, pair[1] as usize])
        .find(|&[first, second]| name(first) == name(second))
}

fn find<'a>(entries: &'a [Entry], by_key: &[u32], key: &str) -> Option<&'a Entry> {
    let at = by_key.binary_search_by(|&i| entries[i as usize].key.as_str().cmp(key)).ok()?;
    Some(&entries[by_key[at] as usize])
}

fn read_version(path: &Path, cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let path = path.to_path_buf();
    let magic: [u8; 4] = cursor.array("the magic number")?;
    if &magic != b"GGUF" {
        return Err(GgufError::NotGguf { path, start: magic.escape_ascii().to_string() });
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        version if version & 0xffff == 0 && version != 0 => {
            Err(GgufError::BigEndian { path, version: version.swap_bytes() })
        }
        version => Err(GgufError::Version { path, version }),
    }
}

fn read_count(cursor: &mut Cursor<'_>, least: u64, what: &str) -> Result<u64, GgufError> {
    let at = cursor.at();
    let count = cursor.u64(&format!("the number of {what}"))?;
    cursor.expect_room(count, least, what)?;
    if count > ENTRIES_MAX {
        return Err(cursor.fault(at, format!("{count} {what} are more than the {ENTRIES_MAX} allowed")));
    }
    Ok(count)
}

fn read_entry(cursor: &mut Cursor<'_>, n: u64) -> Result<Entry, GgufError> {
    cursor.subject = Subject::KeyNumber(n);
    let at = cursor.at();
    let key = cursor.str("its name")?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let problem = format!("its name has {} bytes, allowed are 1 to {KEY_BYTES_MAX}", key.len());
        return Err(cursor.fault(at, problem));
    }
    let mut ahead = cursor.clone();
    ahead.subject = Subject::Key(key);
    let ty = value::read_type(&mut ahead)?;
    let start = ahead.at();
    value::skip(&mut ahead, ty, 0)?;
    let end = ahead.at();
    cursor.take((end - cursor.at()) as u64, "its value")?;
    Ok(Entry { key: key.to_owned(), ty, value: start..end })
}

fn read_alignment(path: &Path, bytes: &[u8], entries: &[Entry], by_key: &[u32]) -> Result<u64, GgufError> {
    let Some(entry) = find(entries, by_key, ALIGNMENT_KEY) else { return Ok(ALIGNMENT_DEFAULT) };
    let at = entry.value.start;
    let mut cursor = Cursor::new(path, bytes, at, Subject::Key(&entry.key));
    if entry.ty != ValueType::U32 {
        return Err(cursor.fault(at, format!("should be u32 but is {}", entry.ty)));
    }
    let alignment = u64::from(cursor.u32("its value")?);
    if !alignment.is_power_of_two() || alignment > bytes.len() as u64 {
        let problem = format!("{alignment} is not a power of two that is at most the file's size");
        return Err(cursor.fault(at, problem));
    }
    Ok(alignment)
}

/// Reads one tensor's name, shape, type and offset. The offset is relative until [`place_tensors`].
fn read_tensor(path: &Path, cursor: &mut Cursor<'_>, n: u64, part: usize) -> Result<TensorInfo, GgufError> {
    cursor.subject = Subject::TensorNumber(n);
    let at = cursor.at();
    let name = cursor.str("its name")?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let problem = format!("its name has {} bytes, allowed are 1 to {NAME_BYTES_MAX}", name.len());
        return Err(cursor.fault(at, problem));
    }
    let mut info = cursor.clone();
    info.subject = Subject::Tensor(name);
    let dims = read_dims(&mut info)?;
    let at = info.at();
    let id = info.u32("its type")?;
    let Some(ty) = GgmlType::from_id(id) else {
        let (path, tensor, name) = (path.to_path_buf(), name.to_owned(), type_name(id));
        return Err(GgufError::UnsupportedType { path, tensor, at: at as u64, id, name });
    };
    let row_bytes = ty.row_bytes(dims[0]).ok_or_else(|| {
        let problem = format!(
            "rows of {} values do not divide into {} blocks of {}",
            dims[0],
            ty.name(),
            ty.block_len()
        );
        info.fault(at, problem)
    })?;
    let rows: usize = dims[1..].iter().product();
    let len = row_bytes.checked_mul(rows).ok_or_else(|| info.fault(at, "its size overflows"))?;
    let at = info.at();
    let offset = info.u64("its offset")?;
    let offset =
        usize::try_from(offset).map_err(|_| info.fault(at, format!("offset {offset} is too large")))?;
    cursor.take((info.at() - cursor.at()) as u64, "its description")?;
    Ok(TensorInfo { name: name.to_owned(), ty, dims, part, offset, len })
}

/// Reads a shape whose product is known not to overflow.
fn read_dims(cursor: &mut Cursor<'_>) -> Result<Vec<usize>, GgufError> {
    let at = cursor.at();
    let count = cursor.u32("the number of its dimensions")? as usize;
    if !(1..=DIMS_MAX).contains(&count) {
        return Err(cursor.fault(at, format!("{count} dimensions, allowed are 1 to {DIMS_MAX}")));
    }
    let mut dims = Vec::with_capacity(count);
    let mut elements = 1usize;
    for _ in 0..count {
        let at = cursor.at();
        let dim = cursor.u64("a dimension")?;
        let dim = usize::try_from(dim).ok().filter(|&dim| dim > 0);
        let dim =
            dim.ok_or_else(|| cursor.fault(at, "a dimension of zero or beyond this machine's range"))?;
        elements = elements
            .checked_mul(dim)
            .ok_or_else(|| cursor.fault(at, "the product of its dimensions overflows"))?;
        dims.push(dim);
    }
    Ok(dims)
}

/// Converts relative offsets to offsets in the file, after checking that every tensor is aligned, inside
/// the data section, and overlaps no other. Returns where the data section starts.
fn place_tensors(
    path: &Path,
    bytes: &[u8],
    info_end: usize,
    alignment: u64,
    tensors: &mut [TensorInfo],
) -> Result<usize, GgufError> {
    let alignment = alignment as usize;
    // No overflow: both are at most the file's size, which a mapping fits into half of the address space.
    // A file without tensors may end where its structure ends.
    let data_start = info_end.next_multiple_of(alignment).min(bytes.len());
    let room = bytes.len() - data_start;
    let fault = |tensor: &TensorInfo, at: usize, problem: String| {
        Cursor::new(path, bytes, 0, Subject::Tensor(&tensor.name)).fault(at, problem)
    };
    for tensor in tensors.iter_mut() {
        let (offset, len) = (tensor.offset, tensor.len);
        if !offset.is_multiple_of(alignment) {
            return Err(fault(tensor, info_end, format!("offset {offset} is not a multiple of {alignment}")));
        }
        if offset.checked_add(len).is_none_or(|end| end > room) {
            let at = data_start.saturating_add(offset);
            let problem = format!("its {len} bytes end outside the file, whose size is {}", bytes.len());
            return Err(fault(tensor, at, problem));
        }
        tensor.offset += data_start;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].len > pair[1].offset {
            let problem =
                format!("overlaps tensor `{}`, which starts at byte {}", pair[0].name, pair[0].offset);
            return Err(fault(pair[1], pair[1].offset, problem));
        }
    }
    Ok(data_start)
}
