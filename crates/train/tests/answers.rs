//! Recorded answers: the model's own, in the order of prompts, and the same after an interruption.

mod support;

use std::path::Path;
use std::sync::Arc;

use foretoken_model::Prediction;
use foretoken_model::chat::ChatTemplate;
use foretoken_model::tokenizer::Tokenizer;
use foretoken_train::TrainError;
use foretoken_train::answers::{Bounds, Part, Speaker, settings};
use foretoken_train::prompts::{Prompts, is_held_out};
use foretoken_train::recorded::{Record, Recorded};
use foretoken_train::trunk::Trunk;
use support::{load, open};

const BOUNDS: Bounds = Bounds { tokens: 900, answer_max: 12, prompt_max: 120 };

fn record(path: &Path, prompts: &Prompts, stop_at: usize) -> Result<Vec<Record>, TrainError> {
    let gguf = open("llama");
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("its vocabulary"));
    let template = ChatTemplate::new("{{ messages[0]['content'] }}", &tokenizer).expect("a template");
    let model = load(gguf, Prediction::Off);
    let speaker = Speaker { model: &model, tokenizer: &tokenizer, template: &template };
    let settings = settings(model.gguf().fingerprint(), prompts, BOUNDS, 7);
    let mut recorded = Recorded::open(path, settings, model.config().vocab)?;
    speaker.record(prompts, (BOUNDS, Part::All, 7), &mut recorded, |tokens| tokens < stop_at)?;
    Ok(recorded.records().to_vec())
}

fn prompts() -> Prompts {
    Prompts::built_in(60, 3)
}

#[test]
fn answers_are_recorded_up_to_the_bound_and_an_interrupted_recording_ends_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let whole = record(&dir.path().join("a"), &prompts(), usize::MAX).unwrap();
    let tokens: usize = whole.iter().map(|record| record.answer().len()).sum();
    assert!((900..912).contains(&tokens), "{tokens}");
    let path = dir.path().join("b");
    assert!(record(&path, &prompts(), 100).unwrap().len() < whole.len());
    assert_eq!(record(&path, &prompts(), usize::MAX).unwrap(), whole);
}

#[test]
fn greedy_answers_are_the_models_most_probable_tokens_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let records = record(&dir.path().join("a"), &prompts(), usize::MAX).unwrap();
    let mut trunk = Trunk::new(load(open("llama"), Prediction::Off), 192).unwrap();
    let (mut greedy, mut sampled, mut differ) = (0, 0, 0);
    for record in &records {
        let mut best = Vec::new();
        trunk.hidden_and_logits(&record.tokens, |row, logits| {
            if row + 1 >= record.prompt && row + 1 < record.tokens.len() {
                let larger = |a: &usize, b: &usize| logits[*a].total_cmp(&logits[*b]);
                best.push((0..logits.len()).max_by(larger).unwrap() as u32);
            }
        });
        if record.greedy {
            greedy += 1;
            assert_eq!(record.answer(), best);
        } else {
            sampled += 1;
            differ += usize::from(record.answer() != best);
        }
    }
    assert!(greedy > 10 && sampled > 10 && differ > sampled / 2, "{greedy} {sampled} {differ}");
}

#[test]
fn prompts_are_held_out_by_their_text_and_asked_at_the_other_temperature_in_the_second_round() {
    let dir = tempfile::tempdir().unwrap();
    let short = |text: &&String| text.len() < 60;
    let texts: Vec<String> =
        Prompts::built_in(400, 3).texts().iter().filter(short).take(25).cloned().collect();
    std::fs::write(dir.path().join("p.txt"), texts.join("\n")).unwrap();
    let prompts = Prompts::read(&[dir.path().join("p.txt")]).unwrap();
    let records = record(&dir.path().join("a"), &prompts, usize::MAX).unwrap();
    let of_job = |job: usize| records.iter().find(|record| record.job as usize == job);
    let mut both = 0;
    for (at, text) in prompts.texts().iter().enumerate() {
        for record in [of_job(at), of_job(at + 25)].into_iter().flatten() {
            assert_eq!(record.held_out, is_held_out(text));
        }
        if let (Some(first), Some(second)) = (of_job(at), of_job(at + 25)) {
            assert_ne!(first.greedy, second.greedy);
            both += 1;
        }
    }
    assert!(both > 10, "{both}");
}
