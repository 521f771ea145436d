//! Token ids against llama.cpp's, or Hugging Face `tokenizers`' where it approximates: on the corpus in `fixtures/tokenizer` (see `make.py` there), for small
//! vocabularies with every pre-tokenizer and for SmolLM2's own.

mod tokenizer_fixtures;

use foretoken_model::tokenizer::{TokenKind, Tokenizer};
use tokenizer_fixtures::{bpe, corpus, expected, hash, smollm2, spm, spm_of};

/// Fails with the first lines whose ids differ.
fn assert_ids(tokenizer: &Tokenizer, column: &str, parse_special: bool) {
    let expected = expected(column);
    let lines = corpus();
    assert!(lines.len() >= 2000 && lines.len() == expected.len(), "{} lines", lines.len());
    let mut wrong = Vec::new();
    let known = lines.iter().zip(expected).filter_map(|(line, hash)| Some((line, hash?)));
    let mut compared = 0;
    for (line, expected) in known {
        compared += 1;
        let ids = tokenizer.encode(line, true, parse_special);
        if hash(&ids) != expected {
            let texts: Vec<_> = ids.iter().map(|id| tokenizer.token_text(*id)).collect();
            wrong.push(format!("{line:?}\n  gives {ids:?}\n  {texts:?}"));
        }
    }
    assert!(compared > 2300, "only {compared} lines were compared");
    let shown = wrong.len().min(10);
    assert!(wrong.is_empty(), "{} lines differ:\n{}", wrong.len(), wrong[..shown].join("\n"));
}

#[test]
fn ids_of_smollm2_equal_llama_cpp() {
    assert_ids(&smollm2(), "smollm2", false);
}

#[test]
fn ids_of_smollm2_with_control_tokens_equal_llama_cpp() {
    assert_ids(&smollm2(), "smollm2+special", true);
}

#[test]
fn ids_of_gpt_2_words_equal_llama_cpp() {
    assert_ids(&bpe("gpt-2"), "gpt-2", false);
}

#[test]
fn ids_of_smollm_words_equal_llama_cpp() {
    assert_ids(&bpe("smollm"), "smollm", false);
}

#[test]
fn ids_of_llama_bpe_words_equal_llama_cpp() {
    assert_ids(&bpe("llama-bpe"), "llama-bpe", false);
}

#[test]
fn ids_of_qwen2_words_equal_llama_cpp() {
    assert_ids(&bpe("qwen2"), "qwen2", false);
}

#[test]
fn ids_of_qwen2_words_with_control_tokens_equal_llama_cpp() {
    assert_ids(&bpe("qwen2"), "qwen2+special", true);
}

#[test]
fn ids_of_deepseek_r1_qwen_words_equal_llama_cpp() {
    assert_ids(&bpe("deepseek-r1-qwen"), "deepseek-r1-qwen", false);
}

#[test]
fn ids_of_deepseek_llm_words_equal_llama_cpp() {
    assert_ids(&bpe("deepseek-llm"), "deepseek-llm", false);
}

#[test]
fn ids_of_deepseek_v3_words_equal_llama_cpp() {
    assert_ids(&bpe("deepseek-v3"), "deepseek-v3", false);
}

#[test]
fn ids_of_falcon_words_equal_llama_cpp() {
    assert_ids(&bpe("falcon"), "falcon", false);
}

#[test]
fn ids_of_smaug_bpe_words_equal_llama_cpp() {
    assert_ids(&bpe("smaug-bpe"), "smaug-bpe", false);
}

#[test]
fn ids_of_glm4_words_equal_llama_cpp() {
    assert_ids(&bpe("glm4"), "glm4", false);
}

#[test]
fn ids_of_minicpm5_words_equal_llama_cpp() {
    assert_ids(&bpe("minicpm5"), "minicpm5", false);
}

#[test]
fn ids_of_laguna_words_equal_llama_cpp() {
    assert_ids(&bpe("laguna"), "laguna", false);
}

#[test]
fn ids_of_qwen35_words_equal_llama_cpp() {
    assert_ids(&bpe("qwen35"), "qwen35", false);
}

#[test]
fn ids_of_seed_coder_words_equal_llama_cpp() {
    assert_ids(&bpe("seed-coder"), "seed-coder", false);
}

#[test]
fn ids_of_bailingmoe_words_equal_llama_cpp() {
    assert_ids(&bpe("bailingmoe"), "bailingmoe", false);
}

#[test]
fn ids_of_deepseek_coder_words_equal_llama_cpp() {
    assert_ids(&bpe("deepseek-coder"), "deepseek-coder", false);
}

#[test]
fn ids_of_poro_chat_words_equal_llama_cpp() {
    assert_ids(&bpe("poro-chat"), "poro-chat", false);
}

#[test]
fn ids_of_viking_words_equal_llama_cpp() {
    assert_ids(&bpe("viking"), "viking", false);
}

#[test]
fn ids_of_tekken_words_equal_tokenizers() {
    assert_ids(&bpe("tekken"), "hf:tekken", false);
}

#[test]
fn ids_of_gpt_4o_words_equal_tokenizers() {
    assert_ids(&bpe("gpt-4o"), "hf:gpt-4o", false);
}

#[test]
fn ids_of_kimi_k2_words_equal_tokenizers() {
    assert_ids(&bpe("kimi-k2"), "hf:kimi-k2", false);
}

#[test]
fn ids_of_exaone_moe_words_equal_tokenizers() {
    assert_ids(&bpe("exaone-moe"), "hf:exaone-moe", false);
}

#[test]
fn ids_of_default_words_equal_llama_cpp() {
    assert_ids(&bpe("default"), "default", false);
}

#[test]
fn ids_of_sentencepiece_equal_llama_cpp() {
    assert_ids(&spm(), "spm", false);
}

#[test]
fn ids_of_sentencepiece_with_control_tokens_equal_llama_cpp() {
    assert_ids(&spm(), "spm+special", true);
}

#[test]
fn ids_of_phi_3_equal_llama_cpp() {
    assert_ids(&spm_of("Phi-3 mini"), "phi-3", false);
}

#[test]
fn ids_of_phi_3_with_control_tokens_equal_llama_cpp() {
    assert_ids(&spm_of("Phi-3 mini"), "phi-3+special", true);
}

#[test]
fn every_line_survives_a_round_trip() {
    let tokenizer = bpe("qwen2");
    for line in corpus() {
        assert_eq!(tokenizer.decode(&tokenizer.encode(&line, false, false), false), line);
    }
}

#[test]
fn every_line_survives_a_sentencepiece_round_trip() {
    let tokenizer = spm();
    // A `▁` in the text itself cannot be told from a space, and as in llama.cpp a space is inserted after every
    // user-defined token and not removed again.
    let has_user_defined =
        |ids: &[u32]| ids.iter().any(|id| tokenizer.token_kind(*id) == TokenKind::UserDefined);
    for line in corpus().iter().filter(|line| !line.contains('▁')) {
        let ids = tokenizer.encode(line, false, false);
        if !has_user_defined(&ids) {
            assert_eq!(&tokenizer.decode(&ids, false), line);
        }
    }
}

#[test]
fn control_token_text_stays_text_unless_asked_for() {
    let tokenizer = bpe("qwen2");
    let ids = tokenizer.encode("a<|im_end|>b", false, false);
    assert!(!ids.iter().any(|id| tokenizer.is_control(*id)), "{ids:?}");
}

#[test]
fn control_tokens_are_omitted_from_decoded_text() {
    let tokenizer = bpe("qwen2");
    let ids = tokenizer.encode("a<|im_end|>b", false, true);
    assert_eq!(tokenizer.decode(&ids, false), "ab");
}

#[test]
fn control_tokens_are_shown_on_request() {
    let tokenizer = bpe("qwen2");
    let ids = tokenizer.encode("a<|im_end|>b", false, true);
    assert_eq!(tokenizer.decode(&ids, true), "a<|im_end|>b");
}

#[test]
fn end_of_turn_is_found_by_its_text() {
    let tokenizer = bpe("qwen2");
    let id = tokenizer.token_id("<|im_end|>");
    assert!(id.is_some_and(|id| tokenizer.is_eog(id)));
}

#[test]
fn a_file_without_vocabulary_is_an_error_that_names_the_missing_key() {
    let gguf = tokenizer_fixtures::gguf(foretoken_model::gguf::writer::GgufWriter::new());
    let error = Tokenizer::from_gguf(&gguf).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("`tokenizer.ggml.model`"), "{error}");
}

#[test]
fn an_unknown_pre_tokenizer_is_an_error_that_names_it() {
    let gguf = tokenizer_fixtures::bpe_gguf("klingon");
    let error = Tokenizer::from_gguf(&gguf).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("`klingon`"), "{error}");
}
