//! `foretoken cache explain A.json B.json`: where two prompts diverge and why.
//!
//! Needs the model file's tokenizer and chat template, but neither its weights nor a server.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use foretoken_server::explain::{CachedSequence, SourcedPrompt, compare};
use serde_json::Value;

use crate::cli::CacheExplainArgs;
use crate::commands::serve::TextCodec;
use crate::{load, output};

/// Runs the command.
pub(crate) fn run(args: &CacheExplainArgs) -> Result<()> {
    let path = load::resolve(&args.model, &args.base)?;
    let of_file = || format!("cannot use the model file {}", path.display());
    let (tokenizer, template) = load::text(&load::open(&path)?).with_context(of_file)?;
    let codec = TextCodec { tokenizer, template };
    let (first, second) = (read(&args.first, &codec)?, read(&args.second, &codec)?);
    let agreed = first.tokens.iter().zip(&second.tokens).take_while(|(a, b)| a == b).count();
    let report = compare(&codec, &second, CachedSequence { agreed, rest: &first.tokens[agreed..] });
    if args.json {
        return output::json(&report.to_json());
    }
    let text = report.to_text(&args.second.display().to_string(), &args.first.display().to_string());
    Ok(output::stdout().write_all(text.as_bytes())?)
}

/// Reads a request body from a file.
fn read(path: &Path, codec: &TextCodec) -> Result<SourcedPrompt> {
    let of_file = || format!("cannot use {}", path.display());
    let text = fs::read_to_string(path).with_context(of_file)?;
    let body: Value = serde_json::from_str(&text).with_context(of_file)?;
    let Value::Object(body) = body else {
        bail!("{} must hold a JSON object: a request's body", path.display())
    };
    SourcedPrompt::read(&body, codec).with_context(of_file)
}
