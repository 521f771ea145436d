//! `foretoken usage`: token counts, prices and savings from the ledger in the data folder.
//!
//! Reads the database directly, also while a server writes it; the same figures as `GET /v1/usage`.

use std::io::Write;

use anyhow::{Result, anyhow};
use foretoken_cache::store::{GroupBy, LedgerReader, UsageGroup};
use foretoken_server::{Period, Report, grouping, usd};

use crate::cli::UsageArgs;
use crate::load;
use crate::output::{self, Table};

/// Runs the command.
pub(crate) fn run(args: &UsageArgs) -> Result<()> {
    let period = Period::parse(args.from.as_deref(), args.to.as_deref())
        .map_err(|error| anyhow!("--{} {}", error.param, error.message))?;
    let ledger = LedgerReader::open(&load::data_dir(&args.base)?)?;
    let group_by = grouping(&args.by).unwrap_or(GroupBy::None);
    let groups = ledger.usage(args.tenant.as_deref(), period.from_ms, period.to_ms, group_by)?;
    let report = Report::new(groups);
    if args.json {
        output::json(&report.to_json(&args.by))
    } else if args.csv {
        Ok(output::stdout().write_all(report.to_csv().as_bytes())?)
    } else {
        table(&report, &args.by)
    }
}

fn table(report: &Report, by: &str) -> Result<()> {
    let first = if by == "none" { "" } else { by };
    let mut table = Table::new(&[
        first,
        "requests",
        "replayed",
        "hit",
        "miss",
        "output",
        "drafted",
        "accepted",
        "price US$",
        "saved US$",
        "saved s",
    ]);
    for group in &report.groups {
        table.row(cells(&group.group, group));
    }
    if report.groups.len() != 1 {
        table.row(cells("total", &report.total));
    }
    table.print()
}

fn cells(name: &str, group: &UsageGroup) -> Vec<String> {
    let sum = &group.sum;
    let mut cells = vec![name.to_owned()];
    let counts = [group.requests, group.replayed, sum.hit, sum.miss, sum.output, sum.drafted, sum.accepted];
    cells.extend(counts.map(|count| count.to_string()));
    // Savings as money by the price list, and as seconds by measured prefill speed.
    cells.extend([
        usd(sum.price),
        usd(sum.saved),
        format!("{}.{:03}", sum.saved_ms / 1000, sum.saved_ms % 1000),
    ]);
    cells
}
