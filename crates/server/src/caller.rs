//! The tenant of a request, and its cache permissions.
//!
//! The tenant is the API key's hash, narrowed by DeepSeek's `user_id` (or `metadata.user_id`) where one is given and
//! [`TenantBy`] allows it; sessions within it ([`StablePrompt`]) do not count. Nothing cached for one tenant is ever used for another. A hint such as OpenAI's `prompt_cache_key`
//! changes neither what is shared nor what is hidden.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use foretoken_engine::{CacheUse, Request};

use crate::accounts::{AccountId, Payer, Rates};
use crate::auth::presented_key;
use crate::config::TenantBy;
use crate::error::ApiError;
use crate::protocol::fields::Fields;
use crate::stable_prompt::StablePrompt;
use crate::state::{Shared, unix_time_s};

/// Longest `user_id`, in bytes, as DeepSeek has it.
const USER_ID_BYTES_MAX: usize = 512;

/// The caller as its headers identify it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The key's hash in hexadecimal; empty on a server without keys.
    key: String,
    no_cache: bool,
    no_store: bool,
    account: AccountId,
    tenant_by: TenantBy,
    stable_prompt: StablePrompt,
    /// Prices at the time of arrival.
    rates: Rates,
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Infallible> {
        let account = shared.registry.account_of(presented_key(&parts.headers).unwrap_or_default());
        let rates = shared.registry.rates_at(unix_time_s());
        let caller = Caller::read(&parts.headers, !shared.config.api_keys.is_empty());
        let stable_prompt = shared.stable_prompt.clone();
        Ok(Caller { account, rates, tenant_by: shared.config.tenant_by, stable_prompt, ..caller })
    }
}

impl Caller {
    fn read(headers: &HeaderMap, has_keys: bool) -> Caller {
        let key = presented_key(headers).filter(|_| has_keys);
        let has_directive = |directive: &str| {
            let values =
                headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
            values
                .flat_map(|value| value.split(','))
                .any(|value| value.trim().eq_ignore_ascii_case(directive))
        };
        Caller {
            key: key.map_or_else(String::new, |key| blake3::hash(key).to_hex().to_string()),
            no_cache: has_directive("no-cache"),
            no_store: has_directive("no-store"),
            ..Caller::default()
        }
    }

    /// The account that is billed.
    pub(crate) fn account(&self) -> AccountId {
        self.account
    }

    /// The account, user and prices to bill the request with.
    pub(crate) fn payer(&self, fields: Fields<'_>) -> Result<Payer, ApiError> {
        let user = self.user(fields)?.into_owned();
        Ok(Payer { account: self.account, user, rates: self.rates })
    }

    /// The user without its session; empty if there is none.
    fn user<'a>(&self, fields: Fields<'a>) -> Result<Cow<'a, str>, ApiError> {
        Ok(self.stable_prompt.user(user_id(fields)?.unwrap_or_default()))
    }

    /// Sets the request's tenant and its cache permissions, from the headers and the `cache` field.
    pub(crate) fn mark(&self, fields: Fields<'_>, request: &mut Request) -> Result<(), ApiError> {
        let user = self.user(fields)?;
        request.tenant = match self.tenant_by {
            TenantBy::Key => tenant_name(&self.key, ""),
            TenantBy::KeyAndUser => tenant_name(&self.key, &user),
        };
        request.caller.clone_from(&self.key);
        request.cache = CacheUse { read: !self.no_cache, write: !self.no_store };
        // llama.cpp's name for the same permission.
        request.cache.read &= fields.bool("cache_prompt")?.unwrap_or(true);
        if let Some(cache) = fields.get("cache") {
            let cache = Fields::at("cache", cache)?;
            request.cache.read &= cache.bool("read")?.unwrap_or(true);
            request.cache.write &= cache.bool("write")?.unwrap_or(true);
        }
        Ok(())
    }
}

/// The tenant's name in the caches. The key's hash has a fixed length (or none at all on a server without keys), so
/// no two pairs share a name.
pub(crate) fn tenant_name(key_hash: &str, user: &str) -> String {
    format!("{key_hash}/{user}")
}

/// DeepSeek's `user_id`, or `metadata.user_id`.
fn user_id<'a>(fields: Fields<'a>) -> Result<Option<&'a str>, ApiError> {
    let user = match fields.string("user_id")? {
        Some(user) => Some(user),
        None => match fields.get("metadata") {
            Some(metadata) => Fields::at("metadata", metadata)?.string("user_id")?,
            None => None,
        },
    };
    match user.is_some_and(|user| user.len() > USER_ID_BYTES_MAX) {
        true => Err(ApiError::bad_value("user_id", format!("must be at most {USER_ID_BYTES_MAX} bytes"))),
        false => Ok(user),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn marked(headers: &[(&str, &str)], has_keys: bool, body: Value) -> Result<Request, ApiError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let mut request = Request::default();
        let object = body.as_object().unwrap().clone();
        Caller::read(&map, has_keys).mark(Fields::of_body(&object), &mut request).map(|()| request)
    }

    fn tenant(key: &str, body: Value) -> String {
        marked(&[("authorization", &format!("Bearer {key}"))], true, body).unwrap().tenant
    }

    #[test]
    fn keys_and_user_ids_define_tenants() {
        let base = tenant("a", json!({}));
        assert_eq!(base, tenant("a", json!({"prompt_cache_key": "x"})));
        assert_ne!(base, tenant("b", json!({})));
        assert_ne!(base, tenant("a", json!({"user_id": "u"})));
        assert_eq!(tenant("a", json!({"user_id": "u"})), tenant("a", json!({"metadata": {"user_id": "u"}})));
        assert!(!base.contains('a') || base.len() == 65, "the key itself is not in the name");
    }

    #[test]
    fn user_ids_define_no_tenants_if_tenants_are_keys() {
        let name = |body: Value| {
            let mut request = Request::default();
            let caller = Caller { tenant_by: TenantBy::Key, ..Caller::default() };
            caller.mark(Fields::of_body(body.as_object().unwrap()), &mut request).unwrap();
            request.tenant
        };
        assert_eq!(name(json!({"user_id": "u"})), name(json!({"metadata": {"user_id": "v"}})));
    }

    #[test]
    fn a_server_without_keys_has_one_tenant() {
        let name = |key: &str| marked(&[("authorization", key)], false, json!({})).unwrap().tenant;
        assert_eq!(name("Bearer a"), name("Bearer b"));
    }

    #[test]
    fn headers_and_fields_both_restrict_the_cache() {
        let cache = |headers: &[(&str, &str)], body| marked(headers, false, body).unwrap().cache;
        assert_eq!(cache(&[], json!({})), CacheUse { read: true, write: true });
        assert_eq!(
            cache(&[("cache-control", "max-age=0, No-Cache")], json!({})),
            CacheUse { read: false, write: true }
        );
        assert_eq!(
            cache(&[("cache-control", "no-store")], json!({"cache": {"read": false}})),
            CacheUse { read: false, write: false }
        );
        assert_eq!(cache(&[], json!({"cache_prompt": false})), CacheUse { read: false, write: true });
    }

    #[test]
    fn bad_values_are_named() {
        let param = |body| marked(&[], false, body).unwrap_err().param.unwrap();
        assert_eq!(param(json!({"cache": {"read": 1}})), "cache.read");
        assert_eq!(param(json!({"cache": true})), "cache");
        assert_eq!(param(json!({"user_id": 7})), "user_id");
        assert_eq!(param(json!({"user_id": "x".repeat(513)})), "user_id");
    }
}
