//! `GET /`: the page, and its files below `/page/`.
//!
//! They need no key, as they hold nothing but code; what they show comes through the API. No other site may frame them,
//! and they may load and call nothing but this server. The invariant: no file holds code or styles inline.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::page::{self, File};
use crate::state::Shared;

const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Kept, but asked about: the server may be another version the next time.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page. Clients also ask for its head, to see whether there is a server.
pub(super) async fn index(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let asks_for_key = !shared.config.api_keys.is_empty();
    answer(page::index(asks_for_key), &headers)
}

pub(super) async fn file(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let found = page::file(&name).ok_or_else(|| ApiError::unknown_url("GET", &format!("/page/{name}")))?;
    Ok(answer(found, &headers))
}

fn answer(file: &'static File, asked: &HeaderMap) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|tag| tag.trim() == file.tag);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, file.kind)], file.content.as_str()).into_response(),
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if let Ok(tag) = HeaderValue::from_str(&file.tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
