//! `foretoken pull`: download a model in advance.

use std::io::Write;

use anyhow::Result;

use crate::cli::PullArgs;
use crate::{load, output};

/// Runs the command; prints the path of the file.
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let path = load::resolve(&args.reference, &args.base)?;
    writeln!(output::stdout(), "{}", path.display())?;
    Ok(())
}
