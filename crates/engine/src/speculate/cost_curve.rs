//! The cost of a step on this machine: milliseconds by rows and context length.
//!
//! Measured the first time that a model is idle on a machine and kept in a file under a fingerprint of both.
//! Between measured points the lower convex hull is used: a step that is cheap for 8 rows makes 7 rows worth
//! the way to 8.
//! Every executed step updates a [correction](Refined), separately for steps of one sequence, of several
//! and of prefills, since the curve is measured with one sequence only.

use std::fs;
use std::time::{Duration, Instant};

use foretoken_cache::{BlockLayout, BlockPool, DraftFiles, Fingerprint, OpenBlock};
use foretoken_kernels::kv::{BLOCK_TOKENS, KvView};
use foretoken_model::Model;
use foretoken_model::step::{Scratch, SeqStep, WantLogits};

use crate::block_table::blocks_for;

/// Rows at which steps are measured, the most needed first.
const GRID: [usize; 12] = [1, 2, 4, 8, 16, 32, 3, 6, 12, 24, 48, 64];
const ROWS_MAX: usize = 64;
/// Rows and context with which the cost of context is measured.
const CONTEXT_ROWS: [usize; 3] = [1, 8, 24];
const CONTEXT: usize = 2048;
/// Most bytes of KV that the measurement uses; the context is shorter for models with larger KV.
const CONTEXT_BYTES_MAX: usize = 256 << 20;
const ROUNDS_MAX: usize = 8;
/// Warm-up time, and the time limit of the measurement; points not measured by then are extrapolated.
const WARM_UP: Duration = Duration::from_millis(60);
const MEASURE_MAX: Duration = Duration::from_millis(600);
/// Weight of the newest step in the correction.
const WEIGHT: f64 = 0.05;
/// Levels at which a curve still fits the machine.
const FITS: std::ops::Range<f64> = 0.6..1.7;
/// Decay of a slope that keeps draft tokens from being chosen: it is measured again only if some are.
const FORGET: f64 = 0.005;
/// Kinds of steps with separate corrections.
const KINDS: usize = 5;
/// Rows beyond one per sequence from which a step counts as a prefill.
const PROMPT_ROWS: usize = 4;
const HEADER: &str = "foretoken step costs v2";

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CostCurve {
    /// `(rows, ms)` with rows rising.
    points: Vec<(usize, f64)>,
    /// Milliseconds per token of context: once per sequence, and once more per row.
    context_ms: f64,
    row_context_ms: f64,
    /// `hull[n]`: milliseconds for `n` rows, up to [`ROWS_MAX`].
    hull: Vec<f64>,
    refined: [Refined; KINDS],
}

/// Correction to the curve for one kind of step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Refined {
    /// Measured over predicted cost of steps without draft tokens.
    level: f64,
    /// Measured over predicted cost of draft rows.
    slope: f64,
}

impl Refined {
    /// Correction to the cost curve for draft rows relative to the step they are in: measured cost over predicted cost.
    pub(crate) fn draft_cost_correction(&self) -> f64 {
        (self.slope / self.level).clamp(0.5, 4.0)
    }

    /// Updates the correction with a step predicted at `base_ms` plus `draft_ms` for draft rows, which took `ms`.
    fn observe(&mut self, base_ms: f64, draft_ms: f64, ms: f64) {
        if draft_ms == 0.0 {
            let ratio = (ms / base_ms).clamp(self.level / 2.0, self.level * 2.0);
            let before = self.level;
            self.level += WEIGHT * (ratio - self.level);
            // A machine that is slower as a whole is slower for draft tokens too.
            self.slope *= self.level / before;
            self.slope += FORGET * (self.level - self.slope);
        } else {
            let ratio = ((ms - self.level * base_ms) / draft_ms).clamp(0.0, 4.0 * self.level);
            // A step with few draft tokens says little about what they cost.
            self.slope += WEIGHT * (4.0 * draft_ms / base_ms).min(1.0) * (ratio - self.slope);
        }
    }
}

/// The kind of a step that computes `rows` rows and yields at least `tokens` tokens.
fn kind(rows: usize, tokens: usize) -> usize {
    match tokens {
        _ if rows > tokens + PROMPT_ROWS => 0,
        0..=1 => 1,
        2..=3 => 2,
        4..=6 => 3,
        _ => 4,
    }
}

impl CostCurve {
    fn new(mut points: Vec<(usize, f64)>, context_ms: f64, row_context_ms: f64) -> CostCurve {
        points.sort_unstable_by_key(|(rows, _)| *rows);
        let hull = lower_hull(&points);
        let refined = [Refined { level: 1.0, slope: 1.0 }; KINDS];
        CostCurve { points, context_ms, row_context_ms, hull, refined }
    }

    /// A curve in which each further row costs `row` times the first: for tests.
    #[cfg(test)]
    pub(crate) fn linear(first_ms: f64, row: f64) -> CostCurve {
        let at = |rows: usize| (rows, first_ms * (1.0 + row * (rows - 1) as f64));
        CostCurve::new(vec![at(1), at(ROWS_MAX)], 0.0, 0.0)
    }

    /// A curve through these points: for tests.
    #[cfg(test)]
    pub(crate) fn new_for_test(points: &[(usize, f64)]) -> CostCurve {
        CostCurve::new(points.to_vec(), 0.0, 0.0)
    }

    /// Milliseconds for the rows of a step alone.
    pub(crate) fn rows_ms(&self, rows: usize) -> f64 {
        match self.hull.get(rows) {
            Some(ms) => *ms,
            None => {
                self.hull[ROWS_MAX]
                    + (rows - ROWS_MAX) as f64 * (self.hull[ROWS_MAX] - self.hull[ROWS_MAX - 1])
            }
        }
    }

    /// Milliseconds for the context of a sequence with so many rows.
    pub(crate) fn context_ms(&self, context: usize, rows: usize) -> f64 {
        context as f64 * (self.context_ms + self.row_context_ms * rows as f64)
    }

    /// Milliseconds for one more row of a sequence.
    pub(crate) fn row_ms(&self, rows: usize, context: usize) -> f64 {
        self.rows_ms(rows + 1) - self.rows_ms(rows) + self.row_context_ms * context as f64
    }

    /// The correction for steps of `rows` rows that yield at least `tokens` tokens.
    pub(crate) fn refined(&self, rows: usize, tokens: usize) -> Refined {
        self.refined[kind(rows, tokens)]
    }

    /// Whether the measured cost of single-sequence steps is so far from the curve that it was measured at a bad
    /// moment, or that the machine has changed.
    pub(crate) fn is_off(&self) -> bool {
        !FITS.contains(&self.refined(1, 1).level)
    }

    /// Updates the correction with a step of `ms`, predicted at `base_ms` for `rows` rows that yield `tokens` tokens,
    /// and `draft_ms` for draft tokens.
    pub(crate) fn observe(
        &mut self,
        (rows, tokens): (usize, usize),
        (base_ms, draft_ms): (f64, f64),
        ms: f64,
    ) {
        if base_ms > 0.0 && ms.is_finite() {
            self.refined[kind(rows, tokens)].observe(base_ms, draft_ms, ms);
        }
    }

    /// Assumed until there is a measurement: typical of a small model on a few cores.
    pub(crate) fn assumed() -> CostCurve {
        CostCurve::new(vec![(1, 1.0), (4, 1.5), (8, 2.1), (16, 3.6), (ROWS_MAX, 14.0)], 1e-4, 1e-4)
    }

    /// The stored curve for this model on this machine. Reads a file: before the first step only.
    pub(crate) fn load(model: &Model, files: &DraftFiles) -> Option<CostCurve> {
        let name = fingerprint(model);
        CostCurve::parse(&String::from_utf8(files.read(&file(name))?).ok()?, name)
    }

    /// Measures, and queues the curve to be written. `None` if `interrupted` returned true meanwhile.
    pub(crate) fn measure(
        model: &Model,
        scratch: &mut Scratch,
        files: Option<&DraftFiles>,
        interrupted: impl Fn() -> bool,
    ) -> Option<CostCurve> {
        let start = Instant::now();
        let curve = measure(model, scratch, interrupted)?;
        tracing::info!(ms = start.elapsed().as_millis() as u64, "measured what steps cost on this machine");
        if let Some(files) = files {
            let name = fingerprint(model);
            // If it is dropped, the next start measures again.
            files.write(&file(name), curve.to_text(name).into_bytes());
        }
        Some(curve)
    }

    fn to_text(&self, name: Fingerprint) -> String {
        let mut text = format!("{HEADER}\n{name}\ncontext {} {}\n", self.context_ms, self.row_context_ms);
        self.points.iter().for_each(|(rows, ms)| text += &format!("{rows} {ms}\n"));
        text + "end\n"
    }

    fn parse(text: &str, name: Fingerprint) -> Option<CostCurve> {
        let body = text.strip_prefix(&format!("{HEADER}\n{name}\ncontext "))?.strip_suffix("end\n")?;
        let mut lines = body.lines().map(|line| line.split_once(' '));
        let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
        let (context, row) = lines.next()??;
        let (context, row) = (number(context)?, number(row)?);
        let point = |line: Option<(&str, &str)>| {
            let (rows, ms) = line?;
            Some((
                rows.parse().ok().filter(|rows| (1..=ROWS_MAX).contains(rows))?,
                number(ms).filter(|ms| *ms > 0.0)?,
            ))
        };
        let points: Vec<_> = lines.map(point).collect::<Option<_>>()?;
        (points.len() >= 2 && points.is_sorted_by(|a, b| a.0 < b.0))
            .then(|| CostCurve::new(points, context, row))
    }
}

/// `hull[n]`: milliseconds for `n` rows by the lower convex hull of `(rows, ms)`, in order of rows.
fn lower_hull(points: &[(usize, f64)]) -> Vec<f64> {
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for &(rows, ms) in points {
        let point = (rows as f64, ms);
        while let [.., a, b] = hull[..] {
            let bends_up = (b.1 - a.1) * (point.0 - b.0) <= (point.1 - b.1) * (b.0 - a.0);
            if bends_up {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    let at = |rows: usize| {
        let x = rows as f64;
        let after = hull.partition_point(|p| p.0 < x).clamp(1, hull.len() - 1);
        let (a, b) = (hull[after - 1], hull[after]);
        a.1 + (x - a.0) * ((b.1 - a.1) / (b.0 - a.0)).max(0.0)
    };
    let mut hull: Vec<f64> = (0..=ROWS_MAX).map(|rows| at(rows.max(1))).collect();
    hull[0] = 0.0;
    hull
}

fn file(name: Fingerprint) -> String {
    format!("costs-{}", &name.to_string()[..16])
}

/// Everything that decides how long steps take.
fn fingerprint(model: &Model) -> Fingerprint {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let compute = model.compute();
    Fingerprint::of(&[
        ("file", &model.gguf().fingerprint()),
        ("cpu", cpu.as_bytes()),
        ("isa", compute.isa().name().as_bytes()),
        ("threads", &compute.pool().threads().to_le_bytes()),
        ("version", env!("CARGO_PKG_VERSION").as_bytes()),
    ])
}

fn measure(model: &Model, scratch: &mut Scratch, interrupted: impl Fn() -> bool) -> Option<CostCurve> {
    let layout = BlockLayout::whole(model.kv_layout().block_bytes());
    let affordable = (CONTEXT_BYTES_MAX / layout.lasting).max(1) * BLOCK_TOKENS;
    let context_max = CONTEXT.min(affordable).min(model.config().ctx_train.saturating_sub(ROWS_MAX + 1));
    let count = blocks_for(context_max + ROWS_MAX + 1);
    let pool = BlockPool::new(layout, count);
    let mut blocks: Vec<OpenBlock> = std::iter::from_fn(|| pool.open()).take(count).collect();
    for block in &mut blocks {
        if interrupted() {
            return None;
        }
        // Untouched pages all map to the same zero page, and reading them is too fast. 0x3535 is a finite half.
        block.fill(0x35);
    }
    let start = Instant::now();
    let mut best = |places: &[(usize, usize)], until: Duration| {
        let mut best = vec![f64::INFINITY; places.len()];
        // Rounds over all places, so that a busy moment of the machine does not fall on one of them.
        for round in 0..ROUNDS_MAX {
            for (best, &(rows, context)) in best.iter_mut().zip(places) {
                let late = start.elapsed() > until;
                if interrupted() || (late && (round > 0 || rows > 2)) {
                    break;
                }
                *best = best.min(step_ms(model, scratch, &mut blocks, rows, context));
            }
        }
        let known = places.iter().zip(best).filter(|(_, best)| best.is_finite());
        known.map(|(&(rows, _), best)| (rows, best)).collect::<Vec<_>>()
    };
    // The first steps are slow: page faults, and the clock frequency rises.
    best(&[(1, 0), (8, 0)], WARM_UP);
    let points = best(&GRID.map(|rows| (rows, 0)), MEASURE_MAX);
    let far = best(&CONTEXT_ROWS.map(|rows| (rows, context_max)), 2 * MEASURE_MAX);
    if interrupted() || points.len() < 2 {
        return None;
    }
    let near = CostCurve::new(points.clone(), 0.0, 0.0);
    let more = |(rows, ms): (usize, f64)| ((ms - near.rows_ms(rows)) / context_max.max(1) as f64).max(0.0);
    let (context_ms, row_context_ms) = match (far.first(), far.last()) {
        (Some(&first), Some(&last)) if last.0 > first.0 => {
            let row = ((more(last) - more(first)) / (last.0 - first.0) as f64).max(0.0);
            ((more(first) - row).max(0.0), row)
        }
        (Some(&first), _) => (more(first), 0.0),
        _ => (0.0, 0.0),
    };
    Some(CostCurve::new(points, context_ms, row_context_ms))
}

fn step_ms(
    model: &Model,
    scratch: &mut Scratch,
    blocks: &mut [OpenBlock],
    rows: usize,
    context: usize,
) -> f64 {
    // Tokens that differ are sent to experts that differ, as those of a text are.
    let vocab = model.config().vocab;
    let tokens: Vec<u32> = (0..rows).map(|row| ((row * 7_919 + context + 11) % vocab) as u32).collect();
    let open = blocks.iter_mut().map(|block| &mut **block).collect();
    let mut kv = KvView::new(&model.kv_layout(), Vec::new(), open);
    let hidden = vec![0.0; model.kv_layout().hidden()];
    let step = SeqStep {
        tokens: &tokens,
        parents: None,
        committed: context,
        hidden: Some(&hidden),
        kv: &mut kv,
        logits: WantLogits::All,
    };
    let start = Instant::now();
    model.forward(scratch, &mut [step]);
    start.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Fingerprint {
        Fingerprint::of(&[("a", b"b")])
    }

    #[test]
    fn the_hull_goes_under_bumps_and_on_beyond_the_last_point() {
        let curve = CostCurve::new(vec![(1, 1.0), (4, 1.9), (8, 2.0), (64, 16.0)], 0.0, 0.0);
        assert!((curve.rows_ms(4) - (1.0 + 3.0 / 7.0)).abs() < 1e-9, "{}", curve.rows_ms(4));
        assert_eq!(curve.rows_ms(8), 2.0);
        assert!((curve.rows_ms(68) - 17.0).abs() < 1e-9);
        let steps: Vec<f64> = (1..100).map(|rows| curve.row_ms(rows, 0)).collect();
        assert!(steps.is_sorted_by(|a, b| *a <= b + 1e-12), "marginal costs rise: {steps:?}");
    }

    /// Steps of one sequence on a machine where draft tokens cost `factor` times what the curve says.
    fn steps(curve: &mut CostCurve, count: usize, speed: f64, factor: f64, drafts: impl Fn(usize) -> bool) {
        for step in 0..count {
            let (base, more) =
                (curve.rows_ms(1), if drafts(step) { curve.rows_ms(8) - curve.rows_ms(1) } else { 0.0 });
            curve.observe((1, 1), (base, more), speed * (base + factor * more));
        }
    }

    #[test]
    fn a_machine_that_slows_down_as_a_whole_leaves_the_draft_correction() {
        let mut curve = CostCurve::linear(1.0, 0.2);
        steps(&mut curve, 2000, 3.0, 1.0, |step| step % 3 == 0);
        let draft_cost_correction = curve.refined(1, 1).draft_cost_correction();
        assert!((draft_cost_correction - 1.0).abs() < 0.1, "{draft_cost_correction}");
        assert!(curve.is_off(), "but it is worth another measurement");
    }

    #[test]
    fn costly_draft_rows_are_corrected_for_their_kind_of_step_only() {
        let mut curve = CostCurve::linear(1.0, 0.2);
        steps(&mut curve, 2000, 1.0, 2.0, |step| step % 2 == 0);
        let draft_cost_correction = curve.refined(1, 1).draft_cost_correction();
        assert!((draft_cost_correction - 2.0).abs() < 0.3, "{draft_cost_correction}");
        assert_eq!(curve.refined(8, 8).draft_cost_correction(), 1.0);
    }

    #[test]
    fn a_high_correction_decays_while_nothing_is_drafted() {
        let mut curve = CostCurve::linear(1.0, 0.2);
        steps(&mut curve, 500, 1.0, 4.0, |step| step % 2 == 0);
        assert!(curve.refined(1, 1).draft_cost_correction() > 2.0);
        steps(&mut curve, 2000, 1.0, 4.0, |_| false);
        assert!(curve.refined(1, 1).draft_cost_correction() < 1.1);
    }

    #[test]
    fn a_curve_survives_its_file_and_nothing_else_does() {
        let curve = CostCurve::new(vec![(1, 1.5), (4, 2.25), (64, 20.0)], 1e-4, 3e-5);
        let text = curve.to_text(name());
        assert_eq!(CostCurve::parse(&text, name()), Some(curve));
        assert_eq!(CostCurve::parse(&text, Fingerprint::of(&[])), None, "another machine's");
        for cut in 0..text.len() {
            assert_eq!(CostCurve::parse(&text[..cut], name()), None, "torn at {cut}");
        }
        for bad in ["NaN", "-1", "inf", "x"] {
            assert_eq!(CostCurve::parse(&text.replace("2.25", bad), name()), None, "{bad}");
        }
    }
}
