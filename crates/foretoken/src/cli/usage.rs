//! Options of `foretoken usage`.

use clap::Args;
use foretoken_server::GROUPINGS;

use super::BaseArgs;

#[derive(Args)]
pub(crate) struct UsageArgs {
    /// Grouping of the rows.
    #[arg(long, value_name = "WHAT", default_value = "day", value_parser = GROUPINGS.map(|(name, _)| name))]
    pub(crate) by: String,

    /// From this date, RFC 3339 time or second since 1970 [default: the first row].
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,

    /// Up to and including this date, or before this time [default: the last row].
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,

    /// Only this account.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,

    /// Print comma-separated values instead of a table.
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,

    /// Print the JSON of `GET /v1/usage` instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) base: BaseArgs,
}
