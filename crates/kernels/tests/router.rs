//! The choice of experts: against a naive twin in f64, on every instruction set, and its rules for ties and groups.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests; it does not see that helpers are part of them

use foretoken_kernels::router::{Choice, Gating, GroupScore, Groups, Router};
use foretoken_kernels::{Compute, Isa};
use proptest::prelude::*;

fn computes() -> Vec<Compute> {
    let each = |isa| [1, 2].map(|threads| Compute::new(isa, threads).unwrap());
    Isa::available().into_iter().flat_map(each).collect()
}

fn plain(experts: usize, used: usize, gating: Gating) -> Router {
    Router { experts, used, gating, groups: None, bias: None, normalise: false, scale: 1.0 }
}

fn route(c: &Compute, router: &Router, logits: &[f32]) -> Vec<Choice> {
    let mut choices = Vec::new();
    router.route(c, logits, &mut choices);
    choices
}

fn experts_of(choices: &[Choice]) -> Vec<u32> {
    choices.iter().map(|choice| choice.expert).collect()
}

/// Scores, selection and weights of one row in f64, written from the papers.
fn twin(router: &Router, logits: &[f32]) -> Vec<(usize, f64)> {
    let logits: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    let softmax = |x: &[f64]| -> Vec<f64> {
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| x.exp() / sum).collect()
    };
    let scores = match router.gating {
        Gating::Softmax => softmax(&logits),
        Gating::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Gating::SoftmaxOfChosen => logits.clone(),
    };
    let mut selection: Vec<f64> = scores.clone();
    if let Some(bias) = &router.bias {
        selection.iter_mut().zip(bias).for_each(|(score, bias)| *score += f64::from(*bias));
    }
    let mut allowed = vec![true; logits.len()];
    if let Some(groups) = router.groups {
        let size = logits.len() / groups.count;
        let taken = match groups.score {
            GroupScore::Best => 1,
            GroupScore::BestTwo => 2,
        };
        let mut ranked: Vec<(f64, usize)> = (0..groups.count)
            .map(|group| {
                let mut scores = selection[group * size..][..size].to_vec();
                scores.sort_by(|a, b| b.total_cmp(a));
                (scores.iter().take(taken).sum(), group)
            })
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let used: Vec<usize> = ranked[..groups.used].iter().map(|(_, group)| *group).collect();
        allowed.iter_mut().enumerate().for_each(|(i, allowed)| *allowed = used.contains(&(i / size)));
    }
    let mut ranked: Vec<usize> = (0..logits.len()).filter(|&i| allowed[i]).collect();
    ranked.sort_by(|&a, &b| selection[b].total_cmp(&selection[a]));
    ranked.truncate(router.used);
    let mut weights: Vec<f64> = ranked.iter().map(|&i| scores[i]).collect();
    if router.gating == Gating::SoftmaxOfChosen {
        weights = softmax(&weights);
    }
    let sum: f64 = weights.iter().sum();
    let divide = if router.normalise { sum } else { 1.0 };
    std::iter::zip(ranked, weights.iter().map(|w| w / divide * f64::from(router.scale))).collect()
}

/// Distinct logits whose sums of two are distinct too, so that rounding cannot change the order.
fn logits(experts: usize) -> impl Strategy<Value = Vec<f32>> {
    let steps: Vec<i32> = (0..experts as i32).collect();
    Just(steps)
        .prop_shuffle()
        .prop_map(|steps| steps.iter().map(|&i| (i as f32).powf(1.3) * 0.04 - 1.0).collect())
}

fn routers() -> impl Strategy<Value = Router> {
    let gating = prop_oneof![Just(Gating::Softmax), Just(Gating::Sigmoid), Just(Gating::SoftmaxOfChosen)];
    let score = prop_oneof![Just(GroupScore::Best), Just(GroupScore::BestTwo)];
    let groups = proptest::option::of(score.prop_map(|score| Groups { count: 4, used: 2, score }));
    (gating, groups, 1usize..=6, any::<bool>(), prop_oneof![Just(1.0f32), Just(2.5)]).prop_map(
        |(gating, groups, used, normalise, scale)| Router {
            experts: 24,
            used,
            gating,
            groups,
            bias: None,
            normalise,
            scale,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn choices_equal_the_twin_and_are_the_same_bits_everywhere(router in routers(), rows in proptest::collection::vec(logits(24), 1..5)) {
        let all: Vec<f32> = rows.concat();
        let reference = route(&Compute::new(Isa::Scalar, 1).unwrap(), &router, &all);
        for (row, chosen) in rows.iter().zip(reference.chunks_exact(router.used)) {
            let expected = twin(&router, row);
            for (choice, (expert, weight)) in chosen.iter().zip(expected) {
                prop_assert_eq!(choice.expert as usize, expert);
                prop_assert!((f64::from(choice.weight) - weight).abs() < 1e-5 * weight.abs().max(1.0));
            }
        }
        for c in computes() {
            let found = route(&c, &router, &all);
            for (a, b) in found.iter().zip(&reference) {
                prop_assert_eq!((a.expert, a.weight.to_bits()), (b.expert, b.weight.to_bits()));
            }
        }
    }
}

#[test]
fn equal_scores_choose_the_lower_index() {
    let c = Compute::new(Isa::detect(), 1).unwrap();
    assert_eq!(experts_of(&route(&c, &plain(8, 3, Gating::Softmax), &[0.5; 8])), [0, 1, 2]);
    let logits = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    assert_eq!(experts_of(&route(&c, &plain(8, 4, Gating::Sigmoid), &logits)), [1, 3, 4, 0]);
}

#[test]
fn the_bias_selects_and_does_not_weigh() {
    let c = Compute::new(Isa::detect(), 1).unwrap();
    let bias = vec![0.0, 0.0, 5.0, 0.0];
    let router = Router { bias: Some(bias), ..plain(4, 2, Gating::Sigmoid) };
    let choices = route(&c, &router, &[1.0, 2.0, -3.0, 0.0]);
    assert_eq!(experts_of(&choices), [2, 1]);
    assert!((choices[0].weight - 1.0 / (1.0 + 3f32.exp())).abs() < 1e-6, "{choices:?}");
}

#[test]
fn only_experts_of_the_best_groups_are_chosen() {
    let c = Compute::new(Isa::detect(), 1).unwrap();
    // Group 0 has the best expert, group 1 the best pair.
    let logits = [3.0, -9.0, 2.0, 2.5, -1.0, -1.0];
    let groups = |score| Some(Groups { count: 3, used: 1, score });
    let choose = |score| {
        experts_of(&route(&c, &Router { groups: groups(score), ..plain(6, 2, Gating::Sigmoid) }, &logits))
    };
    assert_eq!(choose(GroupScore::Best), [0, 1]);
    assert_eq!(choose(GroupScore::BestTwo), [3, 2]);
}

#[test]
fn logits_that_are_not_numbers_choose_the_same_experts_everywhere() {
    for c in computes() {
        let choices = route(&c, &plain(4, 2, Gating::SoftmaxOfChosen), &[f32::NAN, 1.0, f32::NAN, 0.0]);
        assert_eq!(experts_of(&choices), [1, 3], "{}", c.isa());
        let all_nan = route(&c, &plain(3, 2, Gating::Softmax), &[f32::NAN; 3]);
        assert_eq!(experts_of(&all_nan), [0, 1], "{}", c.isa());
    }
}
