//! From constraints to grammars, for one model's vocabulary.
//!
//! Compiling takes milliseconds, with a large schema tens of them, the first time for a model longer; so it is called
//! on threads that may block, never on the engine's. One constraint is compiled at a time, within bounds on its size, its
//! work and its memory, and the last ones are kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foretoken_model::tokenizer::Tokenizer;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{JsonCompileOptions, ParserFactory};
use serde_json::{Map, Value, json};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv};

use super::calls;
use super::gbnf;
use super::markers::Tags;
use super::matcher::first_line;
use super::vocabulary::of_tokenizer;
use super::{Calls, Constraint, Grammar, GrammarError, Reasoning};

/// Compiled grammars that are kept.
const KEPT_MAX: usize = 16;
/// Largest constraint in bytes, and most texts of a choice.
const SOURCE_BYTES_MAX: usize = 256 << 10;
const CHOICES_MAX: usize = 4096;
/// Where a schema may set options of the compiler; not for clients.
const OPTIONS_KEY: &str = "x-guidance";

/// Bounds on the work and memory of a parser, which a request may fill. About a third of the library's own: a step of the
/// engine computes a mask per sequence, and a state of the lexer takes one to two kilobytes.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 25_000,
        max_lexer_states: 10_000,
        max_grammar_size: 200_000,
        // Takes much longer and more memory than it saves for grammars that are used a few times.
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// A constraint, ready to be matched.
pub(super) struct Compiled {
    /// What it was made from.
    pub(super) source: Vec<u8>,
    /// A parser that has consumed nothing. Only clones of it do.
    pub(super) fresh: Mutex<llguidance::Matcher>,
    /// What may come first.
    pub(super) first: SimpleVob,
    /// The tokens that must come first.
    pub(super) forced: Vec<u32>,
    /// Whether text is free, and only what follows the tag of a call is constrained.
    pub(super) after_call_tag: bool,
    pub(super) tags: Arc<Tags>,
}

/// Compiles constraints and keeps the last ones.
pub struct Grammars {
    vocabulary: Box<dyn Fn() -> TokEnv + Send + Sync>,
    tags: Arc<Tags>,
    /// Held while one is compiled.
    factory: Mutex<Option<ParserFactory>>,
    /// The last used one last.
    kept: Mutex<Vec<Arc<Compiled>>>,
}

impl Grammars {
    /// Grammars for a model's vocabulary, whose logits have `len` values.
    pub fn new(tokenizer: Arc<Tokenizer>, len: usize) -> Grammars {
        let tags = Tags::of(Some(&tokenizer));
        Grammars::over(Box::new(move || of_tokenizer(Arc::clone(&tokenizer), len)), tags)
    }

    /// Grammars over a vocabulary of single bytes: what can be compiled for a model, without one.
    pub fn of_bytes() -> Grammars {
        Grammars::over(Box::new(ApproximateTokEnv::single_byte_env), Tags::of(None))
    }

    fn over(vocabulary: Box<dyn Fn() -> TokEnv + Send + Sync>, tags: Tags) -> Grammars {
        Grammars { vocabulary, tags: Arc::new(tags), factory: Mutex::new(None), kept: Mutex::new(Vec::new()) }
    }

    /// Compiles a constraint, or finds it among the last ones. Takes milliseconds, or until others are compiled.
    ///
    /// # Errors
    /// What cannot be enforced, and why: a keyword of a schema, a mistake in a pattern, or too large a constraint.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        let source = source(constraint)?;
        let grammar = |compiled| Grammar { compiled, reasoning: Reasoning::Never };
        if let Some(compiled) = self.find(&source) {
            return Ok(grammar(compiled));
        }
        let mut factory = lock(&self.factory);
        // Another request may have had the same one compiled meanwhile.
        if let Some(compiled) = self.find(&source) {
            return Ok(grammar(compiled));
        }
        let factory = match &mut *factory {
            Some(factory) => factory,
            none => none.insert(self.start()?),
        };
        let parser = factory.create_parser(top_level(constraint)?).map_err(readable)?;
        let fresh = llguidance::Matcher::new(Ok(parser));
        let mut probe = fresh.deep_clone();
        let forced = probe.compute_ff_tokens();
        let first = probe.compute_mask().map_err(readable)?;
        let compiled = Arc::new(Compiled {
            source,
            fresh: Mutex::new(fresh),
            first,
            forced,
            after_call_tag: matches!(constraint, Constraint::Calls(Calls { free: true, .. })),
            tags: Arc::clone(&self.tags),
        });
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Arc::clone(&compiled));
        Ok(grammar(compiled))
    }

    fn find(&self, source: &[u8]) -> Option<Arc<Compiled>> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|compiled| compiled.source == source)?;
        let found = kept.remove(at);
        kept.push(Arc::clone(&found));
        Some(found)
    }

    fn start(&self) -> Result<ParserFactory, GrammarError> {
        let vocabulary = (self.vocabulary)();
        let (caps, slices) = (InferenceCapabilities::default(), SlicedBiasComputer::json_slices());
        let mut factory = ParserFactory::new(&vocabulary, caps, &slices).map_err(readable)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(factory)
    }
}

/// A constraint as bytes, no two alike.
fn source(constraint: &Constraint) -> Result<Vec<u8>, GrammarError> {
    let (kind, text) = match constraint {
        Constraint::JsonObject => (b'o', String::new()),
        Constraint::JsonSchema(schema) => (b's', schema.to_string()),
        Constraint::Regex(pattern) => (b'r', pattern.clone()),
        Constraint::Choice(texts) if texts.len() > CHOICES_MAX => {
            return Err(GrammarError(format!(
                "may hold at most {CHOICES_MAX} texts, got {}; use a regular expression",
                texts.len()
            )));
        }
        Constraint::Choice(texts) => (b'c', json!(texts).to_string()),
        Constraint::Lark(grammar) => (b'l', grammar.clone()),
        Constraint::Gbnf(grammar) => (b'g', grammar.clone()),
        // The grammar has all that there is to know.
        Constraint::Calls(calls) => (if calls.free { b't' } else { b'f' }, calls::to_lark(calls)?),
    };
    if text.len() > SOURCE_BYTES_MAX {
        let message = format!("must be at most {} KiB, got {} bytes", SOURCE_BYTES_MAX >> 10, text.len());
        return Err(GrammarError(message));
    }
    Ok([&[kind], text.as_bytes()].concat())
}

fn top_level(constraint: &Constraint) -> Result<TopLevelGrammar, GrammarError> {
    match constraint {
        Constraint::JsonObject => {
            Ok(TopLevelGrammar::from_json_schema(json_schema(&json!({"type": "object"}))?))
        }
        Constraint::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(json_schema(schema)?)),
        Constraint::Regex(pattern) if pattern.is_empty() => Err(GrammarError("must not be empty".into())),
        Constraint::Regex(pattern) => Ok(TopLevelGrammar::from_regex(unanchored(pattern))),
        Constraint::Choice(texts) => choice(texts),
        Constraint::Lark(grammar) if grammar.trim().is_empty() => {
            Err(GrammarError("must not be empty".into()))
        }
        Constraint::Lark(grammar) => Ok(TopLevelGrammar::from_lark(grammar.clone())),
        Constraint::Calls(calls) => Ok(TopLevelGrammar::from_lark(calls::to_lark(calls)?)),
        Constraint::Gbnf(grammar) => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(grammar)?)),
    }
}

/// A schema with the options under which it is compiled: JSON on one line with a space after commas and colons, as
/// Python writes it. White space that may or may not come cannot be drafted as forced, and lets models write nothing
/// else.
pub(super) fn json_schema(schema: &Value) -> Result<Value, GrammarError> {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(GrammarError("must be an object that is a JSON schema".into())),
    };
    if schema.contains_key(OPTIONS_KEY) {
        return Err(GrammarError(format!("must not have the keyword \"{OPTIONS_KEY}\"")));
    }
    // A reference to the whole schema would find the options in it too.
    let options = JsonCompileOptions {
        item_separator: ", ".into(),
        key_separator: ": ".into(),
        whitespace_flexible: false,
        ..JsonCompileOptions::default()
    };
    schema.insert(OPTIONS_KEY.into(), serde_json::to_value(options).unwrap_or_default());
    Ok(schema.into())
}

fn choice(texts: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(GrammarError("must hold at least one text, and no empty one".into()));
    }
    // Literals of Lark are those of JSON.
    let literals: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}\n", literals.join(" | "))))
}

/// A pattern without anchors at its ends: the whole text is matched anyway.
fn unanchored(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        Some(before) if before.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 0 => before,
        _ => pattern,
    }
}

/// The library's error, on one line, in words that name a schema's keyword.
fn readable(error: impl std::fmt::Display) -> GrammarError {
    let error = format!("{error:#}");
    let line = first_line(&error);
    GrammarError(match line.strip_prefix("Unimplemented keys: ") {
        Some(keys) => format!("cannot be enforced: it has the keywords {keys}, which are not supported"),
        None if line.starts_with("oneOf constraints are not supported") => {
            "cannot be enforced: it has a oneOf whose cases do not exclude each other; use anyOf".into()
        }
        None => format!("cannot be enforced: {line}"),
    })
}

/// A panic under the lock leaves what it guards whole: parsers are cloned, lists changed in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
