//! `GET /user/balance` in DeepSeek's shape, and `GET /v1/usage`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::blocking;
use crate::accounts::{GROUPINGS, Period, Report, grouping, usd};
use crate::auth::require_admin;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::state::Shared;

/// An account that is not prepaid is available with zero balances.
pub(super) async fn balance(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let left = backend.ledger.balance(caller.account());
    let total = usd(left.unwrap_or(0));
    Ok(Json(json!({
        "is_available": left.is_none_or(|left| left > 0),
        "balance_infos": [{
            "currency": "USD",
            "total_balance": total,
            "granted_balance": usd(0),
            "topped_up_balance": total,
        }],
    })))
}

/// Totals of the caller's account; for the operator, of all accounts or the requested `tenant`.
pub(super) async fn usage(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let backend = shared.installed().ok_or_else(ApiError::loading)?;
    let Query(query) = query.map_err(|error| ApiError::bad_value("query", error.body_text()))?;
    let [from, to, group_by, tenant] = read(&query)?;
    let period = Period::parse(from, to).map_err(|error| ApiError::bad_value(error.param, error.message))?;
    let name = group_by.unwrap_or("none");
    let group_by = grouping(name).ok_or_else(|| {
        let known: Vec<&str> = GROUPINGS.iter().map(|(name, _)| *name).collect();
        ApiError::bad_value("group_by", format!("must be one of {}", known.join(", ")))
    })?;
    let own = &backend.ledger.registry().get(caller.account()).name;
    let tenant = match require_admin(&shared.config, &headers) {
        Ok(_) => tenant,
        Err(_) if tenant.is_none_or(|tenant| tenant == own) => Some(own.as_str()),
        Err(error) => return Err(error),
    };
    let tenant = tenant.map(str::to_owned);
    let store = Arc::clone(backend.ledger.store());
    let groups = blocking(move || {
        // Include requests that have finished but are not written yet.
        store.flush();
        store.usage(tenant.as_deref(), period.from_ms, period.to_ms, group_by)
    })
    .await?
    .map_err(|error| {
        tracing::warn!("{error}");
        ApiError::internal("the ledger cannot be read; see the server's log")
    })?;
    Ok(Json(Report::new(groups).to_json(name)))
}

/// The values of the four parameters, each at most once.
fn read(query: &[(String, String)]) -> Result<[Option<&str>; 4], ApiError> {
    const NAMES: [&str; 4] = ["from", "to", "group_by", "tenant"];
    let mut values = [None; 4];
    for (name, value) in query {
        let Some(at) = NAMES.iter().position(|known| known == name) else {
            let message = format!("is not a parameter of this route; it has {}", NAMES.join(", "));
            return Err(ApiError::bad_value(name.chars().take(40).collect::<String>(), message));
        };
        if values[at].replace(value.as_str()).is_some() {
            return Err(ApiError::bad_value(NAMES[at], "is given twice; write it once"));
        }
    }
    Ok(values)
}
