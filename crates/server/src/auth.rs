//! Who may ask.
//!
//! A request carries `Authorization: Bearer KEY`. The key is hashed and compared with every configured
//! hash, each in constant time and without stopping at a match, so that time says nothing about them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::config::ApiKey;
use crate::error::ApiError;
use crate::state::Shared;

/// Lets a request through if it carries a configured key or none is configured.
pub(crate) async fn require_key(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(&shared.config.api_keys, request.headers())?;
    Ok(next.run(request).await)
}

fn check(keys: &[ApiKey], headers: &HeaderMap) -> Result<(), ApiError> {
    if keys.is_empty() {
        return Ok(());
    }
    let Some(key) = bearer(headers) else {
        let message = "no API key was sent; send the header 'Authorization: Bearer YOUR_KEY'";
        return Err(ApiError::unauthorized(message));
    };
    let presented = blake3::hash(key);
    let known = keys.iter().fold(false, |known, key| known | key.matches(&presented));
    match known {
        true => Ok(()),
        false => {
            Err(ApiError::unauthorized("the API key is not one of this server's; check it for typing errors"))
        }
    }
}

/// The key that a request carries.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
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

    #[test]
    fn any_configured_key_opens_and_nothing_else() {
        let keys = [ApiKey::new("one"), ApiKey::new("two")];
        for good in ["Bearer one", "bearer two", "Bearer  two "] {
            assert_eq!(check(&keys, &with(good)), Ok(()), "{good}");
        }
        for bad in ["Bearer three", "Bearer ", "Basic one", "one", "Bearer on", "Bearer one two"] {
            assert_eq!(check(&keys, &with(bad)).unwrap_err().status, 401, "{bad}");
        }
        assert_eq!(check(&keys, &HeaderMap::new()).unwrap_err().code, "invalid_api_key");
        assert_eq!(check(&[], &HeaderMap::new()), Ok(()));
    }
}
