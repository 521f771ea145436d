//! Accounts, prepaid limits and prices of a server.

use clap::Args;
use foretoken_server::{Prepaid, PriceHours, Usd};

/// Accounts and prices of a server.
#[derive(Args, Clone)]
pub(crate) struct AccountArgs {
    /// A key with the name of its account, NAME=KEY or NAME=blake3:HASH, accepted like an --api-key. May be
    /// given several times; keys with the same name belong to one account.
    #[arg(long, value_name = "NAME=KEY", help_heading = "Accounts")]
    pub(crate) account: Vec<String>,

    /// Prepaid amount of an account in US dollars; when it is spent, requests get 402. `*` is every account
    /// not listed, `default` all clients of a server without keys. May be given several times.
    #[arg(long, value_name = "NAME=AMOUNT", help_heading = "Accounts")]
    pub(crate) prepaid: Vec<Prepaid>,

    /// US dollars per million prompt tokens read from a cache.
    #[arg(long, value_name = "USD", default_value = "0.014", help_heading = "Accounts")]
    pub(crate) price_hit: Usd,

    /// US dollars per million prompt tokens that were computed.
    #[arg(long, value_name = "USD", default_value = "0.14", help_heading = "Accounts")]
    pub(crate) price_miss: Usd,

    /// US dollars per million output tokens.
    #[arg(long, value_name = "USD", default_value = "0.28", help_heading = "Accounts")]
    pub(crate) price_output: Usd,

    /// Other prices (hit, miss, output) for hours of the day in UTC, such as
    /// 16:30-00:30=0.007,0.07,0.14; may be given several times.
    #[arg(long, value_name = "HOURS=PRICES", help_heading = "Accounts")]
    pub(crate) price_hours: Vec<PriceHours>,
}
