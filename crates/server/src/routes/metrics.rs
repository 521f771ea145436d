//! `GET /metrics`, in the text format that the scraper prefers.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::metrics_format::MetricsFormat;
use crate::state::Shared;

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let model = shared.installed().map(|backend| &backend.metrics);
    let page = shared.http.page(model).map_err(|_| ApiError::internal("the metrics could not be written"))?;
    let format = MetricsFormat::accepted(&headers);
    let headers = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")];
    Ok((headers, format.convert(page)).into_response())
}
