//! Which tenants an operator means by an account or a user.
//!
//! What is cached is named after keys and users, and only by somebody who knows both. Keys are in the configuration;
//! users that asked through them are in the ledger.

use foretoken_cache::store::{GroupBy, Store};

use crate::accounts::Book;
use crate::caller::tenant_name;
use crate::error::ApiError;

/// The names of all tenants of an account (of every one, if none is given), narrowed to a user if one is given. Reads
/// the database.
pub(crate) fn tenants(
    book: &Book,
    store: &Store,
    account: Option<&str>,
    user: Option<&str>,
) -> Result<Vec<String>, ApiError> {
    let keys: Vec<_> =
        book.tenant_keys().into_iter().filter(|(name, _)| account.is_none_or(|a| a == name)).collect();
    if keys.is_empty() {
        return Err(ApiError::bad_value("account", "is not the name of an account of this server"));
    }
    let mut names = Vec::new();
    for (account, key) in keys {
        if let Some(user) = user {
            names.push(tenant_name(&key, user));
            continue;
        }
        names.push(tenant_name(&key, ""));
        names.extend(users_of(store, &account)?.iter().map(|user| tenant_name(&key, user)));
    }
    Ok(names)
}

fn users_of(store: &Store, account: &str) -> Result<Vec<String>, ApiError> {
    // Rows of answers that were given before this question count.
    store.flush();
    let groups = store.usage(Some(account), 0, u64::MAX, GroupBy::User).map_err(|error| {
        tracing::warn!("{error}");
        ApiError::internal("the ledger, which knows the account's users, cannot be read; name a user_id")
    })?;
    let prefix = format!("{account}/");
    Ok(groups.iter().filter_map(|row| row.group.strip_prefix(&prefix).map(str::to_owned)).collect())
}
