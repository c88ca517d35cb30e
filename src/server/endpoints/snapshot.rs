//! `POST /api/v1/snapshot`: the whole state, for an operator's backup.
//!
//! Any member answers from its own state: a view of it, made durable first; writes go on meanwhile. The
//! rows are read on a thread of their own, as fast as the client takes them. While one is sent,
//! `state.redb` grows by what is written, so there are few at once, and a client that takes nothing is
//! given up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use piccolo_raft::snapshot::file::Saved;
use piccolo_raft::snapshot::{SnapshotData, SnapshotError, about_bytes};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use crate::api::header;
use crate::limits::{CLIENT_SILENT_MAX, SNAPSHOT_CHUNKS_AHEAD, SNAPSHOT_SEND_TIMEOUT};
use crate::server::app::App;
use crate::server::cluster::behind;
use crate::server::endpoints::members;
use crate::server::error::ApiError;

/// What a client gets, and whether it was all of it.
struct Sending {
    chunks: mpsc::Sender<Bytes>,
    whole: Arc<AtomicBool>,
}

/// Answers with a snapshot file.
pub async fn save(app: &Arc<App>, incoming: Request) -> Result<Response, ApiError> {
    members::check_caller(app, &incoming)?;
    let place = Arc::clone(&app.snapshots).try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
    let status = app.node.status();
    let Some(cluster_id) = status.cluster_id.filter(|_| app.node.is_member()) else {
        let reason = "this server is not a member of its cluster yet".to_owned();
        return Err(ApiError::NotServing { reason });
    };
    if let Some(reason) = behind::unready(app) {
        // A backup should be of what was acknowledged.
        return Err(ApiError::NotServing { reason });
    }
    // A view begins with a commit.
    if let Some(reason) = app.node.no_room_for_upkeep() {
        return Err(ApiError::NoRoom { reason });
    }
    let (meta, data) = SnapshotData::of(&app.index).await?;
    tracing::info!(%meta, "sends a snapshot to an operator");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let saved = Saved {
        cluster_id,
        node_id: status.node_id,
        unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let head = saved.to_bytes(app.index.level().get());
    let about = head.len() as u64 + about_bytes(app.index.counts());
    let mut response = Response::new(body(head.into(), data, place));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HeaderName::from_static(header::ABOUT_BYTES), HeaderValue::from(about));
    Ok(response)
}

/// A body that holds `place` until all of it is sent or given up.
fn body(first: Bytes, data: SnapshotData, place: OwnedSemaphorePermit) -> Body {
    let (chunks, receiver) = mpsc::channel(SNAPSHOT_CHUNKS_AHEAD);
    let whole = Arc::new(AtomicBool::new(false));
    let sending = Sending { chunks, whole: Arc::clone(&whole) };
    let threads = Handle::current();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        send(&threads, first, data, &sending);
    });
    received(receiver, whole)
}

/// Ends with an error, which cuts the connection, unless the sender has said that all is sent: what is given up,
/// for whatever reason, must not look like what is whole.
fn received(receiver: mpsc::Receiver<Bytes>, whole: Arc<AtomicBool>) -> Body {
    Body::from_stream(stream::unfold(Some((receiver, whole)), async |state| {
        let (mut receiver, whole) = state?;
        match receiver.recv().await {
            Some(chunk) => Some((Ok(chunk), Some((receiver, whole)))),
            None if whole.load(Ordering::Acquire) => None,
            None => Some((Err(io::Error::other("the snapshot was given up")), None)),
        }
    }))
}

fn send(threads: &Handle, first: Bytes, data: SnapshotData, sending: &Sending) {
    let begun = Instant::now();
    let chunks = data.into_chunks().map(|chunks| std::iter::once(Ok(first)).chain(chunks));
    let give_up = |error: io::Error| tracing::warn!(%error, "could not send a snapshot to the end");
    let chunks = match chunks {
        Ok(chunks) => chunks,
        Err(error) => return give_up(io::Error::other(error)),
    };
    for chunk in chunks {
        let chunk: Result<Bytes, SnapshotError> = chunk;
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return give_up(io::Error::other(error)),
        };
        if begun.elapsed() > SNAPSHOT_SEND_TIMEOUT {
            return give_up(io::Error::other("its client was too slow"));
        }
        match threads.block_on(async { timeout(CLIENT_SILENT_MAX, sending.chunks.send(chunk)).await }) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return tracing::info!("the client of a snapshot is gone"),
            Err(_) => return give_up(io::Error::other("the client takes nothing of it")),
        }
    }
    sending.whole.store(true, Ordering::Release);
    tracing::info!("a snapshot is sent");
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use futures_util::StreamExt;
    use piccolo_raft::snapshot::file::FileReceiver;

    use super::*;
    use crate::http::Connection;
    use crate::limits::SNAPSHOTS_SENT_MAX;
    use crate::server::endpoints::tests::{app_without_room, leading_app};

    fn asked_from(peer: &str) -> Request {
        let mut request = Request::builder()
            .method("POST")
            .header(CONTENT_TYPE, "application/json")
            .body(Body::empty())
            .expect("a request");
        let peer = peer.parse().expect("an address");
        request.extensions_mut().insert(Connection::new(peer, peer));
        request
    }

    #[tokio::test]
    async fn a_few_are_sent_at_once_and_each_is_whole() {
        let app = leading_app().await;
        let places: Vec<_> = (0..SNAPSHOTS_SENT_MAX).map(|_| app.snapshots.try_acquire().unwrap()).collect();
        let refused = save(&app, asked_from("127.0.0.1:9")).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(places);
        for _ in 0..2 * SNAPSHOTS_SENT_MAX {
            let body = save(&app, asked_from("127.0.0.1:9")).await.unwrap().into_body();
            let mut receiver = FileReceiver::default();
            let mut chunks = body.into_data_stream();
            while let Some(chunk) = chunks.next().await {
                receiver.push(&chunk.unwrap()).unwrap();
            }
            let (saved, received) = receiver.finish().unwrap();
            assert_eq!(Some(saved.cluster_id), app.node.status().cluster_id);
            assert_eq!(received.summary().checksum, app.index.checksum().1);
            let end = Instant::now() + std::time::Duration::from_secs(20);
            while app.snapshots.available_permits() < SNAPSHOTS_SENT_MAX {
                assert!(Instant::now() < end, "a place is not given back");
                tokio::task::yield_now().await;
            }
        }
    }

    /// With a full queue the error found no place in it, and the body ended like a whole one.
    #[tokio::test]
    async fn what_is_given_up_ends_with_an_error_also_behind_a_full_queue() {
        for is_whole in [false, true] {
            let (chunks, receiver) = mpsc::channel(1);
            let whole = Arc::new(AtomicBool::new(false));
            let mut body = received(receiver, Arc::clone(&whole)).into_data_stream();
            chunks.try_send(Bytes::from_static(b"first")).unwrap();
            assert!(chunks.try_send(Bytes::new()).is_err(), "it is full");
            whole.store(is_whole, Ordering::Release);
            drop(chunks);
            assert_eq!(body.next().await.unwrap().unwrap(), "first");
            assert_eq!(body.next().await.map(|end| end.is_err()), (!is_whole).then_some(true));
        }
    }

    #[tokio::test]
    async fn on_a_disk_without_room_there_is_none() {
        let app = app_without_room(async |app| {
            assert!(save(app, asked_from("127.0.0.1:9")).await.is_ok());
        })
        .await;
        let refused = save(&app, asked_from("127.0.0.1:9")).await.unwrap_err();
        assert!(refused.to_string().contains("the disk is all but full"), "{refused}");
        assert_eq!(refused.into_response().status(), StatusCode::INSUFFICIENT_STORAGE);
        app.node.shutdown().await;
    }

    #[tokio::test]
    async fn only_an_operator_gets_one() {
        let app = leading_app().await;
        let refused = save(&app, asked_from("10.0.0.9:9")).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::FORBIDDEN);
        assert_eq!(app.snapshots.available_permits(), SNAPSHOTS_SENT_MAX);
    }
}
