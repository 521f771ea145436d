//! Options of the commands that make files for an installation: `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// Folder for the pages, created if missing [default: print foretoken(1)].
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
