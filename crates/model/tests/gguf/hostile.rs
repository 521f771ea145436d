//! Malformed files, each with one defect, and the words that the error must contain. `corpus.rs` writes them to
//! `tests/corpus/gguf`, where the fuzzer finds them as seeds.

use foretoken_model::gguf::Gguf;
use foretoken_model::gguf::writer::{GgufWriter, Meta};

/// Offsets of the header's counts.
const TENSOR_COUNT: usize = 8;
const KEY_COUNT: usize = 16;
/// ggml's number for F32.
const F32: u32 = 0;

pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What the error message must say; the byte offset among it where there is one.
    pub(crate) says: &'static [&'static str],
}

/// A small valid file with every metadata type and three tensors.
pub(crate) fn valid() -> Vec<u8> {
    GgufWriter::new()
        .meta("general.architecture", "llama")
        .meta("a.u8", Meta::U8(200))
        .meta("a.i8", Meta::I8(-100))
        .meta("a.u16", Meta::U16(60_000))
        .meta("a.i16", Meta::I16(-30_000))
        .meta("a.u32", Meta::U32(4_000_000_000))
        .meta("a.i32", Meta::I32(-2_000_000_000))
        .meta("a.u64", Meta::U64(u64::MAX))
        .meta("a.i64", Meta::I64(i64::MIN))
        .meta("a.f32", Meta::F32(1.5))
        .meta("a.f64", Meta::F64(-2.25))
        .meta("a.bool", Meta::Bool(true))
        .meta("a.strings", Meta::strings(["one", "", "drei", "四"]))
        .meta("a.ints", Meta::i32s([1, -2, 3]))
        .meta("a.floats", Meta::f32s([0.5, 0.25]))
        .meta("a.nested", Meta::Array(9, vec![Meta::i32s([1, 2]), Meta::strings(["x"])]))
        .meta("a.empty", Meta::Array(8, vec![]))
        .tensor_f32("first", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("half", &[5], 1, vec![7; 10])
        .tensor("quantised", &[64, 2], 2, (0..72).collect())
        .finish()
}

fn one_tensor() -> GgufWriter {
    GgufWriter::new().tensor_f32("t", &[8], &[0.0; 8])
}

fn put(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// One key with a value of raw bytes, for lengths that no writer would write.
fn raw_key(key: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = GgufWriter::new().finish();
    bytes.truncate(24);
    bytes[KEY_COUNT] = 1;
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend(key.as_bytes());
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(value);
    bytes
}

fn nested(depth: usize) -> Vec<u8> {
    let mut value = Meta::i32s([1]);
    for _ in 1..depth {
        value = Meta::Array(9, vec![value]);
    }
    GgufWriter::new().meta("deep", value).finish()
}

pub(crate) fn all() -> Vec<Hostile> {
    [headers(), keys(), tensors()].into_iter().flatten().collect()
}

fn headers() -> Vec<Hostile> {
    let huge = u64::MAX.to_le_bytes();
    let case = |name, bytes, says| Hostile { name, bytes, says };
    vec![
        case("empty", vec![], &["header, byte 0", "the file ends after 0"]),
        case("magic", put(valid(), 0, b"GGML"), &["not a GGUF file", "GGML"]),
        case("version-1", put(valid(), 4, &[1, 0, 0, 0]), &["version 1 is not supported"]),
        case("version-4", put(valid(), 4, &[4, 0, 0, 0]), &["version 4 is not supported"]),
        case("big-endian", put(valid(), 4, &[0, 0, 0, 3]), &["big-endian", "version 3"]),
        case(
            "tensor-count-huge",
            put(valid(), TENSOR_COUNT, &huge),
            &["header, byte 16", "tensors cannot fit"],
        ),
        case("key-count-huge", put(valid(), KEY_COUNT, &huge), &["header, byte 24", "keys cannot fit"]),
        case("key-count-wraps", put(valid(), KEY_COUNT, &(1u64 << 61).to_le_bytes()), &["keys cannot fit"]),
        case(
            "cut-in-header",
            valid()[..14].to_vec(),
            &["header, byte 8", "8 bytes but the file ends after 6"],
        ),
        case("cut-before-keys", valid()[..200].to_vec(), &["metadata keys cannot fit"]),
        case("cut-in-keys", valid()[..300].to_vec(), &["needs", "but the file ends after"]),
        case(
            "cut-in-data",
            valid()[..valid().len() - 1].to_vec(),
            &["tensor `quantised`", "outside the file"],
        ),
    ]
}

fn keys() -> Vec<Hostile> {
    let case = |name, bytes, says| Hostile { name, bytes, says };
    let length = |n: u64| n.to_le_bytes().to_vec();
    let array = |element: u32, n: u64| [element.to_le_bytes().to_vec(), length(n)].concat();
    let twice = GgufWriter::new().meta("k", 1u32).meta("k", 2u32).finish();
    vec![
        case("key-twice", twice, &["key `k`, byte 54", "duplicate key", "byte 37"]),
        case(
            "key-length",
            put(raw_key("k", 0, &[1; 8]), 24, &length(1 << 40)),
            &["key number 0, byte 32", "1099511627776"],
        ),
        case(
            "key-empty",
            put(raw_key("k", 0, &[1; 8]), 24, &length(0)),
            &["key number 0, byte 24", "0 bytes, allowed"],
        ),
        case("key-utf8", put(raw_key("k", 0, &[1; 8]), 32, &[0xff]), &["key number 0, byte 32", "UTF-8"]),
        case("value-type", raw_key("k", 13, &[0; 8]), &["key `k`, byte 33", "value type 13 does not exist"]),
        case(
            "value-cut",
            raw_key("k", 10, &[0; 7]),
            &["key `k`, byte 37", "8 bytes but the file ends after 7"],
        ),
        case("string-length", raw_key("k", 8, &length(u64::MAX)), &["key `k`, byte 45", "file ends after 0"]),
        case("array-length", raw_key("k", 9, &array(4, u64::MAX)), &["byte 49", "u32 cannot fit"]),
        case(
            "array-of-strings-length",
            raw_key("k", 9, &[array(8, 1 << 20), vec![0; 64]].concat()),
            &["string cannot fit"],
        ),
        case(
            "array-of-arrays-length",
            raw_key("k", 9, &[array(9, 6), vec![0; 64]].concat()),
            &["array cannot fit"],
        ),
        case(
            "array-element-type",
            raw_key("k", 9, &array(99, 0)),
            &["byte 37", "value type 99 does not exist"],
        ),
        case("nested-5", nested(5), &["key `deep`", "nested deeper than 4"]),
        case("nested-1000", nested(1_000), &["key `deep`", "nested deeper than 4"]),
        case(
            "alignment-zero",
            GgufWriter::new().meta("general.alignment", 0u32).finish(),
            &["`general.alignment`", "0 is not a power"],
        ),
        case("alignment-odd", one_tensor().meta("general.alignment", 24u32).finish(), &["24 is not a power"]),
        case(
            "alignment-huge",
            one_tensor().meta("general.alignment", 1u32 << 31).finish(),
            &["2147483648 is not a power"],
        ),
        case(
            "alignment-type",
            one_tensor().meta("general.alignment", Meta::U64(32)).finish(),
            &["should be u32 but is u64"],
        ),
    ]
}

fn tensors() -> Vec<Hostile> {
    let case = |name, bytes, says| Hostile { name, bytes, says };
    let shape = |dims: &[u64]| GgufWriter::new().tensor("t", dims, F32, vec![0; 64]).finish();
    let at = |offset| one_tensor().tensor_at("u", &[8], F32, offset, vec![0; 32]).finish();
    let typed = |id| GgufWriter::new().tensor("t", &[256], id, vec![0; 512]).finish();
    let name = "n".repeat(65);
    vec![
        case(
            "tensor-twice",
            one_tensor().tensor_f32("t", &[8], &[0.0; 8]).finish(),
            &["tensor `t`", "duplicate name"],
        ),
        case("tensor-overlap", at(0), &["overlaps tensor"]),
        case("tensor-unaligned", at(36), &["tensor `u`", "offset 36 is not a multiple of 32"]),
        case("tensor-outside", at(64), &["tensor `u`", "outside the file"]),
        case("tensor-offset-wraps", at(u64::MAX - 31), &["tensor `u`", "outside the file"]),
        case(
            "tensor-name-long",
            GgufWriter::new().tensor_f32(&name, &[1], &[0.0]).finish(),
            &["tensor number 0, byte 24", "65 bytes, allowed"],
        ),
        case(
            "tensor-name-empty",
            GgufWriter::new().tensor_f32("", &[1], &[0.0]).finish(),
            &["tensor number 0", "0 bytes, allowed"],
        ),
        case("dims-none", shape(&[]), &["tensor `t`", "0 dimensions, allowed are 1 to 4"]),
        case("dims-five", shape(&[1; 5]), &["tensor `t`", "5 dimensions"]),
        case("dims-zero", shape(&[4, 0]), &["tensor `t`, byte 45", "dimension of zero"]),
        case("dims-product", shape(&[1 << 32, 1 << 32]), &["product of its dimensions overflows"]),
        case("dims-bytes", shape(&[1 << 40, 1 << 22]), &["its size overflows"]),
        case("dims-beyond-file", shape(&[1 << 40]), &["tensor `t`", "outside the file"]),
        case(
            "dims-block",
            GgufWriter::new().tensor("t", &[33], 2, vec![0; 36]).finish(),
            &["rows of 33", "Q4_0 blocks of 32"],
        ),
        case("type-known", typed(40), &["tensor `t`, byte 45", "type NVFP4 (id 40) is not supported"]),
        case("type-unknown", typed(4_000), &["tensor `t`", "type unknown (id 4000) is not supported"]),
    ]
}

#[test]
fn every_defect_is_named() {
    for Hostile { name, bytes, says } in all() {
        let error = Gguf::from_bytes("model.gguf", bytes).expect_err(name).to_string();
        for words in [&["model.gguf: "], says].concat() {
            assert!(error.contains(words), "{name}: `{error}` does not say `{words}`");
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = valid();
    for len in 0..bytes.len() {
        let error = Gguf::from_bytes("cut", bytes[..len].to_vec()).err();
        assert!(error.is_some(), "a file cut to {len} of {} bytes opens", bytes.len());
    }
}

#[test]
fn a_directory_is_not_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let error = Gguf::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Gguf::open("no/such/model.gguf").unwrap_err().to_string();
    assert!(error.starts_with("no/such/model.gguf: cannot open"), "{error}");
}
