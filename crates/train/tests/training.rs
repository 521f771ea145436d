//! Training on a tiny model: it learns, it is deterministic, and an interrupted one continues.

mod support;

use std::cell::Cell;
use std::time::Duration;

use foretoken_train::checkpoint::Checkpoint;
use foretoken_train::cut::Cut;
use foretoken_train::evaluation::{HeldOut, evaluate_file};
use foretoken_train::file::{self, TrainingFacts};
use foretoken_train::head::{Head, Start};
use foretoken_train::recorded::Record;
use foretoken_train::trainer::{TrainOptions, Trained, Trainer};
use foretoken_train::trunk::Trunk;
use support::{open, records, shape, trunk};

fn options() -> TrainOptions {
    TrainOptions {
        epochs: 4,
        batch: 128,
        rate: 4e-3,
        warm_up: 4,
        start: Start::Random,
        evaluate_every: 10,
        ..TrainOptions::default()
    }
}

fn cut(records: &[Record]) -> Cut {
    Cut::of(records.iter().filter(|record| !record.held_out), 260, 64)
}

/// Trains on texts of the tiny model until `stop_after` updates.
fn train(trunk: &mut Trunk, options: TrainOptions, checkpoint: &Checkpoint, stop_after: usize) -> Trained {
    let records = records(40, 60);
    let (shape, cut) = (shape(trunk), cut(&records));
    let held_out = records.iter().filter(|record| record.held_out);
    let held_out = HeldOut::read(trunk, held_out, 300, 1).expect("held-out texts");
    // Every look at the clock takes a millisecond.
    let now = Cell::new(0);
    let clock = || {
        now.set(now.get() + 1);
        Duration::from_millis(now.get())
    };
    let records = records.iter().filter(|record| !record.held_out).collect();
    let mut trainer =
        Trainer { trunk, shape, cut: &cut, records, held_out: &held_out, options, clock: &clock };
    trainer.run(checkpoint, |progress| progress.updates < stop_after).expect("enough texts")
}

#[test]
fn the_divergence_from_the_model_falls_at_every_depth() {
    let trained = train(&mut trunk("llama"), options(), &Checkpoint::default(), usize::MAX);
    let (first, last) = (&trained.history[0], trained.history.last().unwrap());
    for depth in 0..3 {
        let (before, after) = (first.loss[depth], last.loss[depth]);
        assert!(after < 0.6 * before, "depth {depth}: {before} {after}");
    }
    // A text of 40 tokens in turn, which chance would have once in so many.
    assert!(last.sampled[0] > 0.3, "{last:?}");
}

#[test]
fn the_same_seed_gives_the_same_weights_and_another_seed_others() {
    let options = TrainOptions { epochs: 1, ..options() };
    let run = |options: &TrainOptions| {
        train(&mut trunk("llama"), options.clone(), &Checkpoint::default(), usize::MAX).weights
    };
    assert_eq!(run(&options), run(&options));
    assert_ne!(run(&options), run(&TrainOptions { seed: 2, ..options.clone() }));
}

#[test]
fn a_resumed_training_ends_as_an_uninterrupted_one() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::at(&dir.path().join("training.gguf"));
    let options = TrainOptions { epochs: 2, ..options() };
    let whole = train(&mut trunk("llama"), options.clone(), &Checkpoint::default(), usize::MAX);
    for stop_after in [3, 10, 11] {
        assert!(train(&mut trunk("llama"), options.clone(), &checkpoint, stop_after).interrupted);
    }
    let resumed = train(&mut trunk("llama"), options, &checkpoint, usize::MAX);
    assert_eq!(resumed.updates, whole.updates);
    assert_eq!(resumed.weights, whole.weights);
    let acceptance = |trained: &Trained| trained.history.iter().map(|p| p.greedy.clone()).collect::<Vec<_>>();
    assert_eq!(acceptance(&resumed), acceptance(&whole));
}

#[test]
fn a_state_of_other_options_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("training.gguf");
    train(&mut trunk("llama"), options(), &Checkpoint::at(&path), 1);
    let records = records(8, 60);
    let mut trunk = trunk("llama");
    let (shape, cut) = (shape(&trunk), cut(&records));
    let held_out = HeldOut::read(&mut trunk, records.iter(), 300, 1).unwrap();
    let mut trainer = Trainer {
        trunk: &mut trunk,
        shape,
        cut: &cut,
        records: records.iter().collect(),
        held_out: &held_out,
        options: options(),
        clock: &|| Duration::ZERO,
    };
    let error = trainer.run(&Checkpoint::at(&path), |_| true).err().expect("a refusal").to_string();
    assert!(error.contains("training.gguf") && error.contains("--work"), "{error}");
}

#[test]
fn a_time_limit_ends_the_training_and_lowers_the_rate_before() {
    let trunk = &mut trunk("llama");
    let options = TrainOptions { epochs: 500, limit: Some(Duration::from_millis(120)), ..options() };
    let records = records(40, 60);
    let (shape, cut) = (shape(trunk), cut(&records));
    let held_out = HeldOut::read(trunk, records.iter(), 100, 1).unwrap();
    let now = Cell::new(0);
    let clock = || {
        now.set(now.get() + 1);
        Duration::from_millis(now.get())
    };
    let records = records.iter().collect();
    let mut trainer =
        Trainer { trunk, shape, cut: &cut, records, held_out: &held_out, options, clock: &clock };
    let mut rates = Vec::new();
    let trained = trainer
        .run(&Checkpoint::default(), |progress| {
            rates.push(progress.rate);
            true
        })
        .unwrap();
    assert!((10..200).contains(&trained.updates), "{}", trained.updates);
    let last = rates.last().unwrap();
    assert!(*last < 0.1 * rates.iter().copied().fold(0.0, f32::max), "{last}");
}

#[test]
fn a_file_has_the_quantised_weights_and_belongs_to_its_model() {
    let mut trunk = trunk("llama");
    let (shape, records) = (shape(&trunk), records(8, 60));
    let cut = cut(&records);
    let weights = Head::start(shape.clone(), &trunk, Start::LastLayer, 5).unwrap().weights().unwrap();
    let facts =
        TrainingFacts { tokens: 5, greedy: vec![0.5], date: "2026-11-28".into(), ..TrainingFacts::default() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("head.gguf");
    file::write(&path, &file::bytes(trunk.model().gguf(), &shape, &weights, &cut, &facts)).unwrap();
    let read = file::read(&path, trunk.model().gguf(), trunk.model().config()).unwrap();
    assert_eq!((&read.shape, &read.cut), (&shape, &cut));
    assert_eq!(read.weights, file::as_read(&shape, &weights));
    for (before, after) in weights.iter().zip(&read.weights) {
        let largest = before.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!(before.iter().zip(after).all(|(a, b)| (a - b).abs() <= largest / 250.0));
    }
    let held_out = HeldOut::read(&mut trunk, records.iter(), 300, 1).unwrap();
    let by_file = evaluate_file(&path, &trunk, &held_out, 3).unwrap();
    let head = Head::from_weights(shape, &read.weights).unwrap();
    assert_eq!(by_file, held_out.acceptance(&trunk, &head, &cut, 3).unwrap());
    let other = open("qwen2");
    let error = file::read(&path, &other, trunk.model().config()).err().expect("a refusal").to_string();
    assert!(error.contains("another model") && error.contains("head.gguf"), "{error}");
}

#[test]
fn a_depth_counts_only_where_all_draft_tokens_before_were_accepted() {
    let mut trunk = trunk("llama");
    let records = records(4, 20);
    let (shape, cut) = (shape(&trunk), Cut::of(records.iter(), 260, 260));
    let held_out = HeldOut::read(&mut trunk, records.iter(), usize::MAX, 1).unwrap();
    let head = Head::start(shape, &trunk, Start::Random, 5).unwrap();
    let acceptance = held_out.acceptance(&trunk, &head, &cut, 3).unwrap();
    let (greedy, sampled) = held_out.chains();
    for (rates, chains) in [(&acceptance.greedy, greedy), (&acceptance.sampled, sampled)] {
        assert_eq!(rates[0].drafted, chains);
        for depth in 1..3 {
            assert!(rates[depth].drafted <= rates[depth - 1].accepted);
        }
    }
}
