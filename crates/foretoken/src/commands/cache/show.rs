//! Tables for the JSON of `foretoken cache`.

use std::io::Write;

use anyhow::Result;
use serde_json::Value;

use crate::byte_size::human;
use crate::output::{self, Table};

/// Digits shown of a block key; `--json` has all.
const DIGITS: usize = 16;

pub(super) fn stat(info: &Value) -> Result<()> {
    let mut table =
        Table::new(&["tier", "blocks", "size", "pinned", "oldest", "looked up", "hit", "rate", "evicted"]);
    for tier in info["tiers"].as_array().into_iter().flatten() {
        let evicted: u64 =
            tier["evicted"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        table.row(vec![
            tier["tier"].as_str().unwrap_or_default().to_owned(),
            count(&tier["blocks"]),
            tier["bytes"].as_u64().map_or_else(dash, human),
            count(&tier["pinned_blocks"]),
            tier["oldest_s"].as_u64().map_or_else(dash, time),
            count(&tier["query_tokens"]),
            count(&tier["hit_tokens"]),
            tier["hit_rate"].as_f64().map_or_else(dash, |rate| format!("{:.1} %", rate * 100.0)),
            tier.get("evicted").map_or_else(dash, |_| evicted.to_string()),
        ]);
    }
    table.print()?;
    folder(&info["folder"])?;
    let mut out = output::stdout();
    let responses = &info["responses"];
    if let (Some(entries), Some(bytes)) = (responses["entries"].as_u64(), responses["bytes"].as_u64()) {
        writeln!(out, "{entries} cached responses, {}", human(bytes))?;
    }
    if let (Some(hit), Some(prompt)) = (info["hit_tokens"].as_u64(), info["prompt_tokens"].as_u64()) {
        writeln!(out, "{hit} of {prompt} prompt tokens came from a cache")?;
    }
    for tier in info["tiers"].as_array().into_iter().flatten() {
        for (fault, times) in tier["faults"].as_object().into_iter().flatten() {
            writeln!(out, "{}: fault {fault}, {times} times", tier["tier"].as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// What the data folder holds, kind by kind. Budgets are those of the last server on it.
fn folder(rows: &Value) -> Result<()> {
    let Some(rows) = rows.as_array() else { return Ok(()) };
    let mut table = Table::new(&["in the data folder", "files", "entries", "size", "budget"]);
    for row in rows {
        table.row(vec![
            row["kind"].as_str().unwrap_or_default().to_owned(),
            count(&row["files"]),
            count(&row["entries"]),
            row["bytes"].as_u64().map_or_else(dash, human),
            row["budget_bytes"].as_u64().map_or_else(dash, human),
        ]);
    }
    writeln!(output::stdout())?;
    table.print()?;
    writeln!(output::stdout())?;
    Ok(())
}

pub(super) fn entries(list: &Value) -> Result<()> {
    let mut table = Table::new(&["tier", "tokens", "unused", "pinned for", "scope", "last block"]);
    let rows = list["data"].as_array().map_or(&[][..], Vec::as_slice);
    let short = |name: &Value| name.as_str().map_or_else(dash, |name| name.chars().take(DIGITS).collect());
    for row in rows {
        table.row(vec![
            row["tier"].as_str().unwrap_or_default().to_owned(),
            count(&row["tokens"]),
            row["unused_s"].as_u64().map_or_else(dash, time),
            row["pinned_s"].as_u64().map_or_else(dash, time),
            // In full, as `clear --scope` takes it.
            row["scope"].as_str().unwrap_or_default().to_owned(),
            short(&row["key"]),
        ]);
    }
    table.print()?;
    let total = list["total"].as_u64().unwrap_or(0);
    if total > rows.len() as u64 {
        writeln!(output::stdout(), "{} of {total} prefixes; --limit shows more", rows.len())?;
    }
    Ok(())
}

pub(super) fn verify(report: &Value) -> Result<()> {
    let mut out = output::stdout();
    let good = report["good"].as_u64().unwrap_or(0);
    writeln!(out, "{good} good files, {}", human(report["good_bytes"].as_u64().unwrap_or(0)))?;
    for (kind, what) in [("bad", "bad, moved to quarantine"), ("unreadable", "cannot be read")] {
        for file in report[kind].as_array().into_iter().flatten() {
            let word = |name: &str| file[name].as_str().unwrap_or_default().to_owned();
            writeln!(out, "{what}: {} ({})", word("file"), word("fault"))?;
        }
    }
    for file in report["foreign"].as_array().into_iter().flatten() {
        writeln!(out, "not a cache file, not touched: {}", file.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// Result of prewarm, pin or unpin.
pub(super) fn prompt(report: &Value) -> Result<()> {
    let mut out = output::stdout();
    if let (Some(tokens), Some(hit)) = (report["tokens"].as_u64(), report["hit"].as_u64()) {
        let (blocks, computed) = (count(&report["blocks"]), count(&report["computed"]));
        writeln!(out, "{tokens} tokens in {blocks} blocks: {hit} were cached, {computed} computed")?;
    } else {
        match report["blocks"].as_u64() {
            Some(0) => writeln!(out, "nothing to unpin: this prompt is not pinned")?,
            _ => writeln!(out, "unpinned {} blocks", count(&report["blocks"]))?,
        }
    }
    if let (Some(pinned), Some(ttl_s)) = (report["pinned_tokens"].as_u64(), report["ttl_s"].as_u64()) {
        writeln!(out, "{pinned} tokens are pinned for {}", time(ttl_s))?;
    }
    Ok(())
}

pub(super) fn cleared(report: &Value) -> Result<()> {
    let blocks = &report["blocks"];
    let memory = blocks["memory"].as_u64().map(|n| format!("{n} blocks in memory and "));
    let disk = count(&blocks["disk"]);
    writeln!(
        output::stdout(),
        "deleted {}{disk} on disk, with responses and drafter state",
        memory.unwrap_or_default()
    )?;
    Ok(())
}

fn dash() -> String {
    "-".to_owned()
}

fn count(value: &Value) -> String {
    value.as_u64().map_or_else(dash, |count| count.to_string())
}

/// Seconds in a readable unit.
fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_readable_unit() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")] {
            assert_eq!(time(seconds), text);
        }
    }
}
