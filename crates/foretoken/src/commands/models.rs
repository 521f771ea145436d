//! `foretoken models`: built-in model names and downloaded files.

use anyhow::Result;
use foretoken_model::reference::{CachedModel, ModelRef, built_in_names, cached_models};
use serde_json::{Value, json};

use crate::byte_size::human;
use crate::cli::ModelsArgs;
use crate::load;
use crate::output::{self, Table};

/// Runs the command.
pub(crate) fn run(args: &ModelsArgs) -> Result<()> {
    let cached = cached_models(&load::downloads(&args.base)?.dir)?;
    if args.json { output::json(&as_json(&cached)?) } else { print(&cached) }
}

/// Built-in models that have not been downloaded.
fn absent(cached: &[CachedModel]) -> Result<Vec<&'static str>> {
    let mut absent = Vec::new();
    for name in built_in_names() {
        let reference: ModelRef = name.parse()?;
        if cached.iter().all(|model| model.reference != reference) {
            absent.push(name);
        }
    }
    Ok(absent)
}

fn print(cached: &[CachedModel]) -> Result<()> {
    let mut table = Table::new(&["model", "size", "file"]);
    for model in cached {
        let file = model.path.display().to_string();
        table.row(vec![model.reference.to_string(), human(model.bytes), file]);
    }
    for name in absent(cached)? {
        table.row(vec![name.to_owned(), "-".to_owned(), format!("not downloaded: foretoken pull {name}")]);
    }
    table.print()
}

fn as_json(cached: &[CachedModel]) -> Result<Value> {
    let absent = absent(cached)?;
    let built_in: Vec<Value> =
        built_in_names().map(|name| json!({"name": name, "downloaded": !absent.contains(&name)})).collect();
    let downloaded: Vec<Value> = cached
        .iter()
        .map(|model| {
            let path = model.path.display().to_string();
            json!({"reference": model.reference.to_string(), "path": path, "bytes": model.bytes})
        })
        .collect();
    Ok(json!({"built_in": built_in, "downloaded": downloaded}))
}
