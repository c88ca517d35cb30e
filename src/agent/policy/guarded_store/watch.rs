//! Passes on changes of the store that may be seen. Content whose source is not recorded yet is held until it
//! is, and content that turns out to be from a stricter registry is reported as removed.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::full_scan::FullScan;
use super::{Access, GuardedStore};
use crate::agent::content::store::{EventSender, StoreError, StoreEvent, WatchEvent, next_event};
use crate::limits::{
    POLICY_EVENTS_WAITING_MAX, SOURCE_ASK_AGAIN_PAUSE, SOURCES_SCAN_AFTER, SOURCES_SCAN_PAUSES,
};
use crate::oci::Digest;
use piccolo_raft::errors::chain;

impl GuardedStore {
    pub(super) async fn watch_given(&self, events: EventSender) -> StoreError {
        let (sender, receiver) = mpsc::channel(POLICY_EVENTS_WAITING_MAX);
        let following = Following {
            guard: self,
            events: &events,
            receiver,
            unsettled: Vec::new(),
            scan_at: None,
            no_scan_before: None,
        };
        tokio::select! {
            ended = self.receive(&events, sender) => ended,
            failed = following.run() => match failed {
                Ok(never) => match never {},
                Err(error) => error,
            },
        }
    }

    /// Receives the events of the store, also while one of them is being handled.
    async fn receive(&self, events: &EventSender, sender: mpsc::Sender<StoreEvent>) -> StoreError {
        let mut watch = self.inner.watch();
        loop {
            match next_event(&mut watch).await {
                Ok(WatchEvent::Set) => events.set().await,
                Ok(WatchEvent::Changed(event)) => _ = sender.send(event).await,
                Err(ended) => return ended,
            }
        }
    }
}

/// New content whose source is not recorded yet.
struct Waiting {
    digest: Digest,
    size_bytes: u64,
    at: Instant,
    pause: Duration,
}

struct Following<'a> {
    guard: &'a GuardedStore,
    events: &'a EventSender,
    receiver: mpsc::Receiver<StoreEvent>,
    unsettled: Vec<Waiting>,
    scan_at: Option<Instant>,
    /// End of the pause after the last full scan ([`SOURCES_SCAN_PAUSES`]).
    no_scan_before: Option<Instant>,
}

impl Following<'_> {
    async fn run(mut self) -> Result<Infallible, StoreError> {
        loop {
            let deadline = self.unsettled.iter().map(|waiting| waiting.at).chain(self.scan_at).min();
            tokio::select! {
                event = self.receiver.recv() => match event {
                    Some(event) => self.handle(event).await?,
                    // The sender is dropped when the watch has ended: `watch_given` returns the reason.
                    None => std::future::pending().await,
                },
                () = until(deadline) => self.due().await?,
            }
        }
    }

    async fn handle(&mut self, event: StoreEvent) -> Result<(), StoreError> {
        match event {
            StoreEvent::Added { digest, size_bytes } => {
                self.added(Waiting {
                    digest,
                    size_bytes,
                    at: Instant::now(),
                    pause: SOURCE_ASK_AGAIN_PAUSE.0,
                })
                .await?;
            }
            StoreEvent::Removed { digest } => {
                self.unsettled.retain(|waiting| waiting.digest != digest);
                self.events.changed(StoreEvent::Removed { digest }).await;
            }
            StoreEvent::Tagged { name, digest } => {
                let is_given = self.guard.access(&digest).await? == Access::Given;
                // The name may have been advertised with another target before.
                let event = if is_given {
                    StoreEvent::Tagged { name, digest }
                } else {
                    StoreEvent::Untagged { name }
                };
                self.events.changed(event).await;
            }
            StoreEvent::Untagged { name } => self.events.changed(StoreEvent::Untagged { name }).await,
            StoreEvent::Sourced => self.scan_soon(),
        }
        Ok(())
    }

    fn scan_soon(&mut self) {
        let soon = Instant::now() + SOURCES_SCAN_AFTER;
        self.scan_at.get_or_insert(self.no_scan_before.map_or(soon, |at| soon.max(at)));
    }

    async fn added(&mut self, mut waiting: Waiting) -> Result<(), StoreError> {
        let Waiting { digest, size_bytes, .. } = &waiting;
        if self.guard.mark(digest).is_some() {
            // The content belongs to an image, through which other parts of the image may be found.
            self.scan_soon();
        }
        match self.guard.access(digest).await? {
            Access::Given => {
                let event = StoreEvent::Added { digest: digest.clone(), size_bytes: *size_bytes };
                self.events.changed(event).await;
            }
            Access::Withheld => {}
            Access::Unsettled => {
                waiting.at = Instant::now() + waiting.pause;
                waiting.pause = (waiting.pause * 2).min(SOURCE_ASK_AGAIN_PAUSE.1);
                self.unsettled.push(waiting);
            }
        }
        Ok(())
    }

    async fn due(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let (due, later) =
            std::mem::take(&mut self.unsettled).into_iter().partition(|waiting: &Waiting| waiting.at <= now);
        self.unsettled = later;
        for waiting in due {
            self.added(waiting).await?;
        }
        if self.scan_at.is_some_and(|at| at <= now) {
            self.scan_at = None;
            self.scan().await;
            self.events.changed(StoreEvent::Sourced).await;
        }
        Ok(())
    }

    /// Runs a full scan. A scan that fails changes nothing; the next sign of a change leads to another one.
    async fn scan(&mut self) {
        let scanned = {
            let _one_at_a_time = self.guard.scan_lock.lock().await;
            let start = Instant::now();
            let scanned = self.guard.full_scan().await;
            self.no_scan_before = Some(Instant::now() + start.elapsed() * SOURCES_SCAN_PAUSES);
            scanned
        };
        let FullScan { given, withheld, released, unsettled: _reported_when_they_came } = match scanned {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error = chain(&error), "could not look where content is from");
                return;
            }
        };
        for digest in withheld {
            self.events.changed(StoreEvent::Removed { digest }).await;
        }
        for (digest, size_bytes) in given.content.iter().filter(|(digest, _)| released.contains(*digest)) {
            let event = StoreEvent::Added { digest: digest.clone(), size_bytes: *size_bytes };
            self.events.changed(event).await;
        }
        for (name, digest) in given.tags.into_iter().filter(|(_, digest)| released.contains(digest)) {
            self.events.changed(StoreEvent::Tagged { name, digest }).await;
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
