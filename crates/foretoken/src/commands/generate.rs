//! `foretoken generate`: one prompt, one completion. Standard output carries the text and nothing else.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use foretoken_engine::{EngineConfig, FinishReason, Request, Summary};
use foretoken_model::reference::built_in_names;
use serde_json::json;

use crate::cli::GenerateArgs;
use crate::draft_colors::{self, legend, paint};
use crate::generation::{self, Interrupted};
use crate::load::{self, Loaded};
use crate::output;

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let prompt = prompt_text(args)?;
    let sampling = generation::sampling(&args.sampling)?;
    let loaded = load::load(&args.model, &args.speculation)?;
    let request = Request {
        prompt: prompt_tokens(args, &loaded, prompt)?,
        sampling,
        max_tokens: args.sampling.max_tokens,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        ..Request::default()
    };
    let engine =
        loaded.start_engine(&args.model.base, &args.context, &args.speculation, EngineConfig::default())?;
    let answer = engine.submit(request)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut text = String::new();
    let mut out = output::stdout();
    let streamed = runtime.block_on(generation::stream(answer, |piece, source| {
        if args.json {
            text.push_str(piece);
        } else {
            let source = source.filter(|_| args.show_draft);
            out.write_all(paint(piece, source).as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }))?;
    if !args.json {
        writeln!(out)?;
    }
    drop(out);
    let Some(summary) = streamed.summary else {
        if args.show_draft {
            eprintln!("{}", draft_colors::partial_legend(&streamed.tokens_by_drafter, streamed.tokens));
        }
        bail!(Interrupted)
    };
    if args.json {
        print_json(&text, &summary)?;
    }
    if args.show_draft {
        eprintln!("{}", legend(summary.usage.completion_tokens, &summary.drafts));
    }
    if args.stats {
        eprintln!("{}", generation::stats_line(&summary));
    }
    Ok(())
}

fn prompt_text(args: &GenerateArgs) -> Result<String> {
    if let Some(prompt) = args.words.first() {
        if looks_like_a_model(prompt) {
            eprintln!(
                "foretoken: `{prompt}` is taken as the prompt; for a model write: foretoken generate {prompt} PROMPT"
            );
        }
        return Ok(prompt.clone());
    }
    let mut text = match args.file.as_deref() {
        Some(path) if path != Path::new("-") => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the prompt from {}", path.display()))?,
        _ => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the prompt from standard input")?;
            text
        }
    };
    // The final newline of a text file is not part of the prompt.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Whether a prompt is rather a forgotten model reference.
fn looks_like_a_model(prompt: &str) -> bool {
    let named = built_in_names().any(|name| name == prompt);
    named || (!prompt.contains(' ') && (prompt.ends_with(".gguf") || prompt.starts_with("hf:")))
}

fn prompt_tokens(args: &GenerateArgs, loaded: &Loaded, prompt: String) -> Result<Vec<u32>> {
    if args.chat || args.system.is_some() {
        let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
        let user = std::iter::once(json!({"role": "user", "content": prompt}));
        let rendered = generation::render(loaded, system.chain(user).collect())?;
        return Ok(loaded.tokenizer.encode_rendered(&rendered));
    }
    let tokens = loaded.tokenizer.encode(&prompt, true, true);
    if tokens.is_empty() {
        bail!("the prompt is empty; give it as an argument, with --file or on standard input");
    }
    Ok(tokens)
}

fn print_json(text: &str, summary: &Summary) -> Result<()> {
    let (usage, timings) = (&summary.usage, &summary.timings);
    output::json(&json!({
        "text": text,
        "finish_reason": if summary.reason == FinishReason::Length { "length" } else { "stop" },
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        "timings": {
            "prompt_n": timings.prompt_n,
            "prompt_ms": timings.prompt_ms,
            "predicted_n": timings.predicted_n,
            "predicted_ms": timings.predicted_ms,
        },
    }))
}
