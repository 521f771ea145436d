//! Any bytes: the reader opens a sound file or says what is wrong. Seeds are in `tests/corpus/gguf`.
#![no_main]

use foretoken_model::gguf::{Gguf, Value};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz", data.to_vec()) else { return };
    for value in gguf.metadata().filter_map(|(_, value)| value.ok()) {
        if let Value::Array(array) = value {
            assert!(array.iter().count() <= data.len());
        }
    }
    for tensor in gguf.tensors() {
        assert_eq!(
            Some(gguf.bytes(tensor).len()),
            tensor.ty.row_bytes(tensor.cols()).map(|b| b * tensor.rows())
        );
    }
});
