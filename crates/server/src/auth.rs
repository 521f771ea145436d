//! Authentication: API keys and the operator's admin keys.
//!
//! A request carries `Authorization: Bearer KEY` or `x-api-key: KEY`. The key is hashed and compared with every configured hash, each
//! in constant time and without early exit, so that timing reveals nothing about them. An admin key grants access
//! to every route. Without admin keys, a local program that connects directly to a private server has operator
//! rights (see [`ServerConfig::admin_keys`]); on any other server no request has.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::config::{ApiKey, ServerConfig, is_loopback};
use crate::error::ApiError;
use crate::host_check::requested_host;
use crate::state::Shared;

/// Rejects a request without a configured key, if any key is configured.
pub(crate) async fn require_key(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(&shared.config, request.headers())?;
    Ok(next.run(request).await)
}

/// Proof of operator rights: a handler that takes one rejects every other caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin(());

impl FromRequestParts<Arc<Shared>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        require_admin(&shared.config, &parts.headers)
    }
}

/// Rejects every caller but the operator.
pub(crate) fn require_admin(config: &ServerConfig, headers: &HeaderMap) -> Result<Admin, ApiError> {
    let presented = presented_key(headers).map(blake3::hash);
    if config.admin_keys.is_empty() {
        let message = "this needs the operator's key and the server has none; start it with --admin-key";
        let private = config.is_private() && is_direct(headers);
        return if private { Ok(Admin(())) } else { Err(ApiError::forbidden(message)) };
    }
    match presented {
        Some(hash) if is_one_of(&config.admin_keys, &hash) => Ok(Admin(())),
        Some(_) => Err(ApiError::forbidden("this needs the operator's key; send the one set by --admin-key")),
        None => Err(ApiError::unauthorized(
            "this needs the operator's key; send the header 'Authorization: Bearer ADMIN_KEY'",
        )),
    }
}

/// Whether a request to a server on loopback comes directly from this machine: not through a proxy, and under a
/// loopback name even if the server answers to others.
fn is_direct(headers: &HeaderMap) -> bool {
    let proxied = headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED);
    !proxied && requested_host(headers).is_none_or(|host| is_loopback(&host))
}

fn check(config: &ServerConfig, headers: &HeaderMap) -> Result<(), ApiError> {
    if config.api_keys.is_empty() {
        return Ok(());
    }
    let Some(key) = presented_key(headers) else {
        let message =
            "no API key was sent; send the header 'Authorization: Bearer YOUR_KEY' or 'x-api-key: YOUR_KEY'";
        return Err(ApiError::unauthorized(message));
    };
    let presented = blake3::hash(key);
    match is_one_of(&config.api_keys, &presented) | is_one_of(&config.admin_keys, &presented) {
        true => Ok(()),
        false => {
            Err(ApiError::unauthorized("the API key is not one of this server's; check it for typing errors"))
        }
    }
}

/// Compares with every key, without early exit.
fn is_one_of(keys: &[ApiKey], presented: &blake3::Hash) -> bool {
    keys.iter().fold(false, |known, key| known | key.matches(presented))
}

/// The key that a request carries: a bearer token, or Anthropic's `x-api-key`.
pub(crate) fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers).or_else(|| {
        let key = headers.get("x-api-key")?.as_bytes().trim_ascii();
        (!key.is_empty()).then_some(key)
    })
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    fn keyed(api: &[&str], admin: &[&str]) -> ServerConfig {
        let hashed = |keys: &[&str]| keys.iter().map(|key| ApiKey::new(key)).collect();
        ServerConfig { api_keys: hashed(api), admin_keys: hashed(admin), ..ServerConfig::default() }
    }

    #[test]
    fn only_configured_keys_are_accepted() {
        let config = keyed(&["one", "two"], &["root"]);
        for good in ["Bearer one", "bearer two", "Bearer  two ", "Bearer root"] {
            assert_eq!(check(&config, &with(good)), Ok(()), "{good}");
        }
        for bad in ["Bearer three", "Bearer ", "Basic one", "one", "Bearer on", "Bearer one two"] {
            assert_eq!(check(&config, &with(bad)).unwrap_err().status, 401, "{bad}");
        }
        let in_header =
            |key: &str| HeaderMap::from_iter([("x-api-key".parse().unwrap(), key.parse().unwrap())]);
        assert_eq!(check(&config, &in_header("one")), Ok(()));
        assert_eq!(check(&config, &in_header("three")).unwrap_err().status, 401);
        let mut both = in_header("one");
        both.insert(header::AUTHORIZATION, "Bearer three".parse().unwrap());
        assert_eq!(check(&config, &both).unwrap_err().status, 401, "the bearer token counts");
        assert_eq!(check(&config, &HeaderMap::new()).unwrap_err().code, "invalid_api_key");
        assert_eq!(check(&keyed(&[], &["root"]), &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn only_an_admin_key_grants_operator_rights() {
        let status = |config: &ServerConfig, headers: &HeaderMap| {
            require_admin(config, headers).map_or_else(|error| error.status.as_u16(), |_| 200)
        };
        for api in [&["one"][..], &[]] {
            let config = keyed(api, &["root", "next"]);
            assert_eq!(status(&config, &with("Bearer root")), 200);
            assert_eq!(status(&config, &with("Bearer next")), 200);
            assert_eq!(status(&config, &with("Bearer one")), 403);
            assert_eq!(status(&config, &HeaderMap::new()), 401);
        }
    }

    #[test]
    fn without_an_admin_key_only_a_private_server_has_an_operator() {
        let anyone = HeaderMap::new();
        assert!(require_admin(&keyed(&[], &[]), &anyone).is_ok());
        assert_eq!(require_admin(&keyed(&["one"], &[]), &with("Bearer one")).unwrap_err().status, 403);
        for host in ["127.0.0.1:8080", "localhost", "[::1]:8080", "LOCALHOST:1"] {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            assert!(require_admin(&keyed(&[], &[]), &headers).is_ok(), "{host}");
        }
        for (name, value) in [
            (header::HOST, "rebound.example.org:8080"),
            (header::HOST, "192.168.0.7"),
            (header::FORWARDED, "for=192.0.2.1"),
            (header::HeaderName::from_static("x-forwarded-for"), "192.0.2.1"),
        ] {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            assert!(require_admin(&keyed(&[], &[]), &headers).is_err(), "{value}");
        }
        let wide = ServerConfig { host: "0.0.0.0".into(), ..keyed(&[], &[]) };
        assert_eq!(require_admin(&wide, &anyone).unwrap_err().code, "admin_required");
    }
}
