//! Turns a watch that runs as a future and sends what it sees into the stream that
//! [`Store::watch`](super::Store::watch) returns.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::{StoreError, StoreEvent, WatchEvent, WatchLost};

use crate::limits::STORE_EVENTS_WAITING_MAX;

/// The channel into which a running watch sends what it sees.
pub(crate) struct EventSender(mpsc::Sender<WatchEvent>);

impl EventSender {
    /// Reports that all watches are set.
    pub(crate) async fn set(&self) {
        self.send(WatchEvent::Set).await;
    }

    /// Reports a change of the store.
    pub(crate) async fn changed(&self, event: StoreEvent) {
        self.send(WatchEvent::Changed(event)).await;
    }

    async fn send(&self, event: WatchEvent) {
        let sent = self.0.send(event).await;
        debug_assert!(sent.is_ok(), "the stream drops the receiver together with the watch");
    }
}

/// Waits for the next event of a watch, or for the reason of its end.
pub(crate) async fn next_event(
    watch: &mut BoxStream<'_, Result<WatchEvent, StoreError>>,
) -> Result<WatchEvent, StoreError> {
    watch.next().await.unwrap_or_else(|| Err(WatchLost::Silent.into()))
}

/// Runs `watch` whenever the stream is polled. The stream ends with the error that `watch` returns; events
/// that nobody has read by then are lost.
pub(crate) fn watch_stream<'a, F>(
    watch: impl FnOnce(EventSender) -> F,
) -> BoxStream<'a, Result<WatchEvent, StoreError>>
where
    F: Future<Output = StoreError> + Send + 'a,
{
    let (sender, receiver) = mpsc::channel(STORE_EVENTS_WAITING_MAX);
    let running = Some(Box::pin(watch(EventSender(sender))));
    stream::unfold((running, receiver), |(running, mut receiver)| async move {
        let mut running = running?;
        tokio::select! {
            ended = &mut running => Some((Err(ended), (None, receiver))),
            Some(event) = receiver.recv() => Some((Ok(event), (Some(running), receiver))),
        }
    })
    .boxed()
}
