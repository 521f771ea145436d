//! `foretoken completions SHELL`: a completion script for a shell, made from the command line's definition.

use std::io::Write;

use anyhow::Result;

use crate::cli::{self, CompletionsArgs};
use crate::output;

/// Runs the command.
pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    // Through memory: the generator panics where it cannot write, as into a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "foretoken", &mut script);
    Ok(output::stdout().write_all(&script)?)
}
