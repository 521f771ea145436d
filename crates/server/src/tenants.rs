//! Resolves an account or user to tenants, for operator routes.
//!
//! A tenant's name in the caches is derived from key and user. Keys come from the configuration, users from the
//! ledger.

use foretoken_cache::store::{GroupBy, Store};

use crate::accounts::AccountRegistry;
use crate::caller::tenant_name;
use crate::config::TenantBy;
use crate::error::ApiError;

/// The names of all tenants of an account (of all accounts, if none is given), or of one user of them. Reads the
/// database.
pub(crate) fn tenants(
    (registry, tenant_by): (&AccountRegistry, TenantBy),
    store: &Store,
    account: Option<&str>,
    user: Option<&str>,
) -> Result<Vec<String>, ApiError> {
    let keys: Vec<_> =
        registry.tenant_keys().into_iter().filter(|(name, _)| account.is_none_or(|a| a == name)).collect();
    if keys.is_empty() {
        return Err(ApiError::bad_value("account", "is not the name of an account of this server"));
    }
    if tenant_by == TenantBy::Key {
        return match user {
            None => Ok(keys.iter().map(|(_, key)| tenant_name(key, "")).collect()),
            Some(_) => Err(ApiError::unsupported(
                "user_id",
                "defines no tenant on this server, which was started with --tenant-by key; name the account alone",
            )),
        };
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
    // Include requests that have finished but are not written yet.
    store.flush();
    let groups = store.usage(Some(account), 0, u64::MAX, GroupBy::User).map_err(|error| {
        tracing::warn!("{error}");
        ApiError::internal("the ledger, which lists the account's users, cannot be read; pass a user_id")
    })?;
    let prefix = format!("{account}/");
    Ok(groups.iter().filter_map(|row| row.group.strip_prefix(&prefix).map(str::to_owned)).collect())
}
