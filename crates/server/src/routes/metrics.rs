//! `GET /metrics`, in OpenMetrics text.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::Shared;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn page(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let model = shared.installed().map(|backend| &backend.metrics);
    let page = shared.http.page(model).map_err(|_| ApiError::internal("the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response())
}
