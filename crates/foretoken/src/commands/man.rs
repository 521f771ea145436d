//! `foretoken man`: manual pages, made from the command line's definition.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;

use crate::cli::{self, ManArgs};
use crate::output;

/// Runs the command.
pub(crate) fn run(args: &ManArgs) -> Result<()> {
    let mut command = cli::command();
    // Settles the names of the subcommands: `foretoken-bench-model`.
    command.build();
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            write(&command, dir)
        }
        None => Ok(output::stdout().write_all(&page(&command)?)?),
    }
}

/// Writes the page of a command and of those below it.
fn write(command: &Command, dir: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))?;
    let below = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    below.into_iter().try_for_each(|sub| write(sub, dir))
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
