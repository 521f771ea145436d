//! Any bytes as a GGUF file: it opens and is sound, or an error says what is wrong. What opens is also read as a
//! tokenizer, a chat template and a model's hyperparameters.

use foretoken_model::chat::ChatTemplate;
use foretoken_model::gguf::{Gguf, Value};
use foretoken_model::tokenizer::Tokenizer;

const TEXT: &str = "It's 2024: a<|im_end|>b\n\n  ▁é🙂 1e9";

/// The entry function of the fuzz target.
pub(crate) fn run(data: &[u8]) {
    if let Err(error) = exercise(data.to_vec()) {
        assert!(error.starts_with("corpus: "), "an error that does not name the file: {error}");
    }
}

/// Reads everything that a file offers and checks what must hold for any file that opens.
pub(crate) fn exercise(bytes: Vec<u8>) -> Result<(), String> {
    let size = bytes.len() as u64;
    let gguf = Gguf::from_bytes("corpus", bytes).map_err(|e| e.to_string())?;
    for (_, value) in gguf.metadata() {
        if let Ok(value) = value {
            let least = count(&value);
            assert!(least as u64 <= size, "{least} values in a file of {size} bytes");
        }
    }
    let mut ends: Vec<_> =
        gguf.tensors().map(|t| (t.file_offset(), t.file_offset() + t.byte_len() as u64)).collect();
    ends.sort_unstable();
    assert!(ends.iter().all(|&(start, end)| start < end && end <= size));
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "tensors overlap");
    for tensor in gguf.tensors() {
        let expected = tensor.ty.row_bytes(tensor.cols()).map(|bytes| bytes * tensor.rows());
        assert_eq!(Some(gguf.bytes(tensor).len()), expected);
        assert_eq!(gguf.tensor(&tensor.name).map(|t| t.file_offset()), Some(tensor.file_offset()));
    }
    // What they refuse, they refuse without a panic.
    let _ = foretoken_model::describe(&gguf, &foretoken_model::Prediction::Own);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        for special in [false, true] {
            let ids = tokenizer.encode(TEXT, true, special);
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()), "{ids:?}");
            tokenizer.decode(&ids, special);
        }
        let _ = ChatTemplate::from_gguf(&gguf, &tokenizer);
    }
    Ok(())
}

fn count(value: &Value<'_>) -> usize {
    match value {
        Value::Array(array) => array.iter().map_while(Result::ok).map(|v| count(&v)).sum(),
        _ => 1,
    }
}
