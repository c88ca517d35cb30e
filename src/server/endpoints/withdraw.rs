//! `POST /api/v1/distribution/withdraw`: the holder has these keys no longer. The Go Piccolo has no such
//! endpoint. [`crate::server::writes`] says how it goes on.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;

use crate::server::app::Loaded;
use crate::server::error::ApiError;
use crate::server::writes::Writes;
use crate::server::writes::kind::WriteKind;

/// Answers once the withdraw is on the disks of a majority.
pub async fn handle(Loaded(writes): Loaded<Arc<Writes>>, incoming: Request) -> Result<Response, ApiError> {
    writes.handle(WriteKind::Withdraw, incoming).await
}
