//! Bodies of requests: read within limits of size, of time, and of what all of them may take up
//! together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    API_BODIES_BYTES_MAX, API_BODY_BYTES_MAX, API_BODY_READ_TIMEOUT, BEAT_BODY_BYTES_MAX,
    BEAT_BODY_READ_TIMEOUT, REFUSED_DISCARD_BYTES_MAX, REFUSED_DISCARD_TIMEOUT,
};
use crate::server::app::App;
use crate::server::error::ApiError;

/// How much of a body over the limit is read on.
const TOO_LARGE_DISCARD_BYTES_MAX: usize = 2 * API_BODY_BYTES_MAX;
/// For how long.
const TOO_LARGE_DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// What all bodies at hand may take up.
#[derive(Debug)]
pub struct Bodies(Arc<Semaphore>);

/// What one body takes up of it, until dropped.
#[derive(Debug)]
pub struct BodyShare {
    _permit: OwnedSemaphorePermit,
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(API_BODIES_BYTES_MAX)))
    }
}

impl Bodies {
    /// `None`: too much is at hand.
    pub(in crate::server) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

/// The body of a request that needs a place among the writes: without one to be had it is not read.
pub async fn read_write(app: &App, request: Request<Body>) -> Result<(Bytes, BodyShare), ApiError> {
    if app.has_place_for_write() {
        return read(app, request).await;
    }
    discard_refused(&mut request.into_body()).await;
    Err(ApiError::Overloaded)
}

/// The body of a keepalive, and its place: writes, however large, keep no host from being heard.
pub async fn read_beat(app: &App, request: Request<Body>) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
    let mut body = request.into_body();
    let place = match app.place_for_keepalive() {
        Ok(place) => place,
        Err(error) => {
            discard_refused(&mut body).await;
            return Err(error);
        }
    };
    let collected = tokio::time::timeout(BEAT_BODY_READ_TIMEOUT, collect_beat(&mut body)).await;
    if let Ok(Err(ApiError::BodyTooLarge { .. })) = &collected {
        drop(place);
        discard_refused(&mut body).await;
        return Err(ApiError::BodyTooLarge { bytes_max: BEAT_BODY_BYTES_MAX });
    }
    let timeout = BEAT_BODY_READ_TIMEOUT;
    Ok((collected.unwrap_or(Err(ApiError::BodyTooSlow { timeout }))?, place))
}

async fn collect_beat(body: &mut Body) -> Result<Bytes, ApiError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyBroken { reason: error.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > BEAT_BODY_BYTES_MAX {
            return Err(ApiError::BodyTooLarge { bytes_max: BEAT_BODY_BYTES_MAX });
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

/// The whole body.
pub async fn read(app: &App, request: Request<Body>) -> Result<(Bytes, BodyShare), ApiError> {
    let mut body = request.into_body();
    let collected = tokio::time::timeout(API_BODY_READ_TIMEOUT, collect(&app.bodies, &mut body)).await;
    match &collected {
        // A client that still sends would lose the answer to a reset.
        Ok(Err(ApiError::BodyTooLarge { .. })) => {
            discard(&mut body, TOO_LARGE_DISCARD_BYTES_MAX, TOO_LARGE_DISCARD_TIMEOUT).await;
        }
        Ok(Err(ApiError::Overloaded)) => {
            discard_refused(&mut body).await;
        }
        _ => {}
    }
    collected.unwrap_or(Err(ApiError::BodyTooSlow { timeout: API_BODY_READ_TIMEOUT }))
}

async fn collect(bodies: &Bodies, body: &mut Body) -> Result<(Bytes, BodyShare), ApiError> {
    if body.size_hint().lower() > API_BODY_BYTES_MAX as u64 {
        return Err(ApiError::BodyTooLarge { bytes_max: API_BODY_BYTES_MAX });
    }
    let mut collected = BytesMut::new();
    let mut permit = bodies.take(0).ok_or(ApiError::Overloaded)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyBroken { reason: error.to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > API_BODY_BYTES_MAX {
            return Err(ApiError::BodyTooLarge { bytes_max: API_BODY_BYTES_MAX });
        }
        permit.merge(bodies.take(data.len()).ok_or(ApiError::Overloaded)?);
        collected.extend_from_slice(&data);
    }
    Ok((collected.freeze(), BodyShare { _permit: permit }))
}

/// Reads on what is not wanted: unread, it would cost the client its connection.
pub(in crate::server) async fn discard_refused(body: &mut Body) {
    discard(body, REFUSED_DISCARD_BYTES_MAX, REFUSED_DISCARD_TIMEOUT).await;
}

/// Reads on without keeping it.
async fn discard(body: &mut Body, bytes_max: usize, timeout: Duration) {
    let read_on = async {
        let mut left = bytes_max;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Whoever sends for longer is cut.
    tokio::time::timeout(timeout, read_on).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_bodies_together_are_bounded_and_a_share_is_given_back() {
        let bodies = Bodies::default();
        let body = || Body::from(vec![b' '; API_BODY_BYTES_MAX]);
        let mut held = Vec::new();
        for _ in 0..API_BODIES_BYTES_MAX / API_BODY_BYTES_MAX {
            let (bytes, share) = collect(&bodies, &mut body()).await.unwrap();
            assert_eq!(bytes.len(), API_BODY_BYTES_MAX);
            held.push(share);
        }
        assert!(matches!(collect(&bodies, &mut Body::from("x")).await, Err(ApiError::Overloaded)));
        held.pop();
        assert!(collect(&bodies, &mut body()).await.is_ok());
    }
}
