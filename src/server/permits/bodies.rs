//! Bodies of requests, read within limits: the bytes and the time of each, and the memory of all bodies at
//! hand together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::holder_locks::HolderPermits;
use crate::limits::{
    API_BODIES_BYTES_MAX, API_BODY_BYTES_MAX, API_BODY_READ_TIMEOUT, HEARTBEAT_BODY_READ_TIMEOUT,
    REFUSED_DISCARD_BYTES_MAX, REFUSED_DISCARD_TIMEOUT, TOO_LARGE_DISCARD_BYTES_MAX,
    TOO_LARGE_DISCARD_TIMEOUT,
};
use crate::server::error::ApiError;

/// Memory for all bodies at hand, a permit a byte; clones share it.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Semaphore>);

/// The memory of one body; given back when dropped.
#[derive(Debug)]
pub struct BodyPermit {
    _bytes: OwnedSemaphorePermit,
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(API_BODIES_BYTES_MAX)))
    }
}

impl Bodies {
    /// Reads the whole body of `request`.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] without memory for it, [`ApiError::BodyTooLarge`], [`ApiError::BodyTooSlow`]
    /// and [`ApiError::BodyBroken`].
    pub async fn read(&self, request: Request<Body>) -> Result<(Bytes, BodyPermit), ApiError> {
        let mut body = request.into_body();
        let collected = tokio::time::timeout(API_BODY_READ_TIMEOUT, self.collect(&mut body)).await;
        match &collected {
            // A client that still sends would lose the answer to a reset.
            Ok(Err(ApiError::BodyTooLarge { .. })) => {
                discard(&mut body, TOO_LARGE_DISCARD_BYTES_MAX, TOO_LARGE_DISCARD_TIMEOUT).await;
            }
            Ok(Err(ApiError::Overloaded)) => discard_refused(&mut body).await,
            _ => {}
        }
        collected.unwrap_or(Err(ApiError::BodyTooSlow { timeout: API_BODY_READ_TIMEOUT }))
    }

    /// Reads the body of a write, unless no permit for a write is free: then the body is thrown away.
    ///
    /// # Errors
    /// As of [`Bodies::read`].
    pub async fn read_write(
        &self,
        writes: &HolderPermits,
        request: Request<Body>,
    ) -> Result<(Bytes, BodyPermit), ApiError> {
        if writes.is_any_free() {
            return self.read(request).await;
        }
        discard_refused(&mut request.into_body()).await;
        Err(ApiError::Overloaded)
    }

    /// Takes memory for so many bytes; `None` if bodies at hand have too much already.
    pub fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    async fn collect(&self, body: &mut Body) -> Result<(Bytes, BodyPermit), ApiError> {
        if body.size_hint().lower() > API_BODY_BYTES_MAX as u64 {
            return Err(ApiError::BodyTooLarge { bytes_max: API_BODY_BYTES_MAX });
        }
        let mut permit = self.take(0).ok_or(ApiError::Overloaded)?;
        let bytes = collect_within(body, API_BODY_BYTES_MAX, |bytes| {
            permit.merge(self.take(bytes).ok_or(ApiError::Overloaded)?);
            Ok(())
        });
        Ok((bytes.await?, BodyPermit { _bytes: permit }))
    }
}

/// Reads a body of at most `bytes_max` bytes and takes its permit, one of `permits`. It needs no memory of
/// [`Bodies`]: however large the writes at hand are, heartbeats and flights are received.
///
/// # Errors
/// As of [`Bodies::read`].
pub async fn read_small(
    permits: &Arc<Semaphore>,
    request: Request<Body>,
    bytes_max: usize,
) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
    let mut body = request.into_body();
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        discard_refused(&mut body).await;
        return Err(ApiError::Overloaded);
    };
    let collected = collect_within(&mut body, bytes_max, |_| Ok(()));
    match tokio::time::timeout(HEARTBEAT_BODY_READ_TIMEOUT, collected).await {
        Ok(Err(error @ ApiError::BodyTooLarge { .. })) => {
            drop(permit);
            discard_refused(&mut body).await;
            Err(error)
        }
        Ok(collected) => Ok((collected?, permit)),
        Err(_) => Err(ApiError::BodyTooSlow { timeout: HEARTBEAT_BODY_READ_TIMEOUT }),
    }
}

/// Reads a body of at most `bytes_max` bytes; `account` is called with the length of each piece before it is
/// kept.
async fn collect_within(
    body: &mut Body,
    bytes_max: usize,
    mut account: impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(ApiError::BodyBroken)?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > bytes_max {
            return Err(ApiError::BodyTooLarge { bytes_max });
        }
        account(data.len())?;
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

/// Reads on the body of a refused request, a little: unread bytes would cost the client its connection.
pub async fn discard_refused(body: &mut Body) {
    discard(body, REFUSED_DISCARD_BYTES_MAX, REFUSED_DISCARD_TIMEOUT).await;
}

/// Reads at most `bytes_max` bytes and keeps none. A client that sends for longer than `timeout` is cut.
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
            let (bytes, share) = bodies.collect(&mut body()).await.unwrap();
            assert_eq!(bytes.len(), API_BODY_BYTES_MAX);
            held.push(share);
        }
        assert!(matches!(bodies.collect(&mut Body::from("x")).await, Err(ApiError::Overloaded)));
        held.pop();
        assert!(bodies.collect(&mut body()).await.is_ok());
    }
}
