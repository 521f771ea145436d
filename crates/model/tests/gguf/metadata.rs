//! Typed getters: their values, and their errors for keys of another type.

use foretoken_model::gguf::writer::{GgufWriter, Meta};
use foretoken_model::gguf::{Gguf, Value, ValueType};

use crate::hostile::valid;

fn open(bytes: Vec<u8>) -> Gguf {
    Gguf::from_bytes("model.gguf", bytes).unwrap()
}

#[test]
fn scalars_come_back_as_written() {
    let gguf = open(valid());
    assert_eq!(gguf.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.get_u32("a.u8").unwrap(), Some(200));
    assert_eq!(gguf.get_i32("a.i8").unwrap(), Some(-100));
    assert_eq!(gguf.get_u32("a.u16").unwrap(), Some(60_000));
    assert_eq!(gguf.get_i32("a.i16").unwrap(), Some(-30_000));
    assert_eq!(gguf.get_u32("a.u32").unwrap(), Some(4_000_000_000));
    assert_eq!(gguf.get_i32("a.i32").unwrap(), Some(-2_000_000_000));
    assert_eq!(gguf.get_u64("a.u64").unwrap(), Some(u64::MAX));
    assert!(matches!(gguf.get("a.i64").unwrap(), Some(Value::I64(i64::MIN))));
    assert_eq!(gguf.get_f32("a.f32").unwrap(), Some(1.5));
    assert_eq!(gguf.get_f32("a.f64").unwrap(), Some(-2.25));
    assert_eq!(gguf.get_bool("a.bool").unwrap(), Some(true));
}

#[test]
fn arrays_come_back_as_written() {
    let gguf = open(valid());
    assert_eq!(gguf.get_str_array("a.strings").unwrap().unwrap(), ["one", "", "drei", "四"]);
    assert_eq!(gguf.get_i32_array("a.ints").unwrap().unwrap(), [1, -2, 3]);
    assert_eq!(gguf.get_f32_array("a.floats").unwrap().unwrap(), [0.5, 0.25]);
    assert_eq!(gguf.get_str_array("a.empty").unwrap().unwrap(), [""; 0]);
}

#[test]
fn nested_arrays_are_read_in_order() {
    let gguf = open(valid());
    let outer = gguf.get_array("a.nested").unwrap().unwrap();
    assert_eq!((outer.len(), outer.element_type()), (2, ValueType::Array));
    let mut inner = outer.iter().map(|v| match v.unwrap() {
        Value::Array(array) => array.iter().map(|v| format!("{:?}", v.unwrap())).collect::<Vec<_>>(),
        other => panic!("{other:?} is no array"),
    });
    assert_eq!(inner.next().unwrap(), ["1", "2"]);
    assert_eq!(inner.next().unwrap(), ["\"x\""]);
}

#[test]
fn an_absent_key_is_none() {
    let gguf = open(valid());
    assert_eq!(gguf.get_u32("a.absent").unwrap(), None);
    assert_eq!(gguf.get_str_array("a.absent").unwrap(), None);
}

#[test]
fn keys_keep_the_order_of_the_file() {
    let gguf = open(GgufWriter::new().meta("z", 1u32).meta("a", 2u32).meta("m", 3u32).finish());
    assert_eq!(gguf.metadata().map(|(key, _)| key).collect::<Vec<_>>(), ["z", "a", "m"]);
}

#[test]
fn a_wrong_type_names_the_key_and_both_types() {
    let error = open(valid()).get_u32("general.architecture").unwrap_err().to_string();
    assert_eq!(error, "model.gguf: key `general.architecture` should be u32 but is string");
}

#[test]
fn a_float_is_not_an_integer() {
    assert!(open(valid()).get_u32("a.f32").is_err());
}

#[test]
fn an_integer_out_of_range_is_not_truncated() {
    let error = open(valid()).get_u32("a.u64").unwrap_err().to_string();
    assert_eq!(error, "model.gguf: key `a.u64` is 18446744073709551615, which does not fit u32");
}

#[test]
fn an_array_of_the_wrong_elements_names_the_first() {
    let error = open(valid()).get_i32_array("a.strings").unwrap_err().to_string();
    assert_eq!(error, "model.gguf: key `a.strings[0]` should be array of i32 but is string");
}

#[test]
fn a_string_that_is_not_utf8_is_an_error_where_it_is_read() {
    let mut bytes = GgufWriter::new().meta("good", "yes").meta("bad", "ab").finish();
    let at = bytes.windows(2).position(|w| w == b"ab").unwrap() + 1;
    bytes[at] = 0xc3;
    let gguf = open(bytes);
    assert_eq!(gguf.get_str("good").unwrap(), Some("yes"));
    let error = gguf.get_str("bad").unwrap_err().to_string();
    assert_eq!(error, format!("model.gguf: key `bad`, byte {at}: its value is not valid UTF-8"));
}

#[test]
fn a_bool_is_zero_or_one() {
    let mut bytes = GgufWriter::new().meta("b", true).finish();
    let at = bytes.iter().rposition(|&b| b == 1).unwrap();
    bytes[at] = 2;
    let error = open(bytes).get_bool("b").unwrap_err().to_string();
    assert!(error.ends_with("a bool must be 0 or 1, not 2"), "{error}");
}

#[test]
fn version_2_reads_like_version_3() {
    let gguf = open(GgufWriter::new().version(2).meta("k", Meta::U32(7)).finish());
    assert_eq!((gguf.version(), gguf.get_u32("k").unwrap()), (2, Some(7)));
}
