//! Follows a containerd: file notifications for every blob as it is committed, events for names, and
//! comparisons with the namespace's list for what neither of them reports.
//!
//! File notifications miss content that another namespace held already (no file is created), and content that
//! only our namespace released (no file is removed). Both come with an image event. Each image event is
//! therefore followed by a comparison, and by another one when garbage collection has had its time.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use containerd_client::events::ContentCreate;
use containerd_client::services::v1::ImageDelete;
use containerd_client::types::Envelope;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use prost::Message;
use tokio::time::Instant;

use super::{ContainerdStore, View};
use crate::agent::content::store::folder::{Change, Watching, poll_pause};
use crate::agent::content::store::name::ImageName;
use crate::agent::content::store::{EventSender, StoreError, StoreEvent, Tag, WatchLost};
use crate::limits::{
    COMPARE_LATE, COMPARE_SOON, NAMESPACE_ASK_AGAIN_FIRST, NAMESPACE_ASK_AGAIN_LONGEST,
    NAMESPACE_ASK_AGAIN_MAX, SURVEY_INTERVAL,
};
use crate::oci::Digest;
use piccolo_raft::errors::chain;

/// Watches until the watch is lost.
pub(super) async fn run(store: &ContainerdStore, events: EventSender) -> Result<Infallible, StoreError> {
    let view = store.find_view().await?;
    let mut files = set_file_watch(store, &view);
    let mut envelopes = store.client.subscribe().await?;
    let begun = Instant::now();
    let (seen_at, seen) = store.look().await?;
    let cost = begun.elapsed();
    if seen_at != view {
        files = None;
    }
    let mut watch = Watch {
        store,
        view: seen_at,
        events,
        seen,
        asks: Vec::new(),
        compare_soon: None,
        compare_late: None,
        comparing: None,
        touched: BTreeSet::new(),
        polled: !files.as_ref().is_some_and(Watching::is_set),
        cost,
        image_changed: false,
        survey_wanted: false,
    };
    watch.schedule_poll();
    watch.events.set().await;
    // The first survey runs at once, further ones from time to time.
    let (mut survey_at, mut surveying, mut survey_images) = (Instant::now(), None::<Surveying<'_>>, true);
    loop {
        let deadline = watch.next_deadline();
        let again_at = files.as_ref().and_then(Watching::again_at);
        survey_images |= std::mem::take(&mut watch.survey_wanted);
        tokio::select! {
            () = until(again_at) => {
                if let Some(files) = &mut files {
                    files.try_to_set();
                    watch.watched_again(files.is_set());
                }
            }
            () = until(surveying.is_none().then_some(survey_at)) => {
                surveying = Some(store.survey(std::mem::take(&mut survey_images)).boxed());
            }
            surveyed = next_of(&mut surveying) => {
                surveying = None;
                survey_at = Instant::now() + SURVEY_INTERVAL;
                if let Err(error) = surveyed {
                    tracing::debug!(error = chain(&error), "could not look for images that are not shared");
                    survey_images = true;
                }
            }
            change = next_change(&mut files) => watch.handle_change(change).await?,
            envelope = envelopes.next() => match envelope {
                Some(envelope) => watch.handle_event(envelope?).await?,
                None => return Err(WatchLost::EventsEnded.into()),
            },
            looked = next_of(&mut watch.comparing) => {
                watch.comparing = None;
                let (looked, cost) = looked?;
                watch.cost = cost;
                watch.apply(looked).await?;
            }
            () = until(deadline) => watch.due().await?,
        }
    }
}

fn set_file_watch(store: &ContainerdStore, view: &View) -> Option<Watching> {
    let View::Folder(folder) = view else { return None };
    store.poll_interval.is_none().then(|| Watching::set(folder, &store.notices))
}

async fn next_change(files: &mut Option<Watching>) -> Change {
    match files {
        Some(files) => files.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the running future, or for ever if there is none.
async fn next_of<T>(running: &mut Option<BoxFuture<'_, T>>) -> T {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A blob whose file exists, and that the namespace does not know yet.
struct Ask {
    digest: Digest,
    at: Instant,
    pause: Duration,
    until: Instant,
}

impl Ask {
    fn now(digest: Digest) -> Self {
        let now = Instant::now();
        Self { digest, at: now, pause: NAMESPACE_ASK_AGAIN_FIRST, until: now + NAMESPACE_ASK_AGAIN_MAX }
    }
}

struct Watch<'a> {
    store: &'a ContainerdStore,
    view: View,
    events: EventSender,
    /// Content that was reported, or was present at the start.
    seen: BTreeMap<Digest, u64>,
    asks: Vec<Ask>,
    compare_soon: Option<Instant>,
    compare_late: Option<Instant>,
    /// A running comparison; file notifications go on meanwhile.
    comparing: Option<Comparing<'a>>,
    /// Content that was reported since the comparison began: there the comparison is out of date.
    touched: BTreeSet<Digest>,
    polled: bool,
    /// How long the last look at all content took.
    cost: Duration,
    /// Whether there was an image event since the last comparison.
    image_changed: bool,
    /// Whether images or content have changed since the last survey of the images.
    survey_wanted: bool,
}

type Looked = (View, BTreeMap<Digest, u64>);
/// A running look at all content, with the time that it takes.
type Comparing<'a> = BoxFuture<'a, Result<(Looked, Duration), StoreError>>;
type Surveying<'a> = BoxFuture<'a, Result<(), StoreError>>;

impl Watch<'_> {
    fn next_deadline(&self) -> Option<Instant> {
        let ask = self.asks.iter().map(|ask| ask.at).min();
        let comparisons = [self.compare_soon, self.compare_late].into_iter().flatten().min();
        // Only one comparison runs at a time.
        [ask, comparisons.filter(|_| self.comparing.is_none())].into_iter().flatten().min()
    }

    fn schedule_poll(&mut self) {
        if self.polled {
            let pause = self.store.poll_interval.unwrap_or(poll_pause(self.cost));
            self.compare_late = Some(Instant::now() + pause);
        }
    }

    /// Handles a folder that may be watched again: one comparison finds what happened before.
    fn watched_again(&mut self, is_set: bool) {
        if is_set {
            self.polled = false;
            self.compare_soon.get_or_insert(Instant::now());
        }
    }

    /// Handles a notification from the blob folder.
    async fn handle_change(&mut self, change: Change) -> Result<(), StoreError> {
        match change {
            Change::Blob(digest) => self.look_at(digest).await,
            Change::RootFile(_) | Change::FolderMade => Ok(()),
            Change::Lost(lost) => Err(lost.into()),
        }
    }

    /// Handles a file that was created or removed.
    async fn look_at(&mut self, digest: Digest) -> Result<(), StoreError> {
        let View::Folder(folder) = &self.view else { return Ok(()) };
        let present = folder.size_bytes(&digest).await?.is_some();
        match (present, self.seen.contains_key(&digest)) {
            (true, false) => self.ask(Ask::now(digest)).await,
            (false, true) => {
                // Garbage collection removed the file; it may have removed records without files as well.
                self.compare_late = Some(Instant::now() + COMPARE_LATE);
                self.removed(digest).await;
                Ok(())
            }
            (true, true) | (false, false) => Ok(()),
        }
    }

    /// Reports the blob if the namespace knows it, else asks again later.
    async fn ask(&mut self, mut ask: Ask) -> Result<(), StoreError> {
        if self.seen.contains_key(&ask.digest) {
            return Ok(());
        }
        if let Some(size_bytes) = self.store.client.info(&ask.digest).await? {
            self.added(ask.digest, size_bytes).await;
            return Ok(());
        }
        let now = Instant::now();
        if now < ask.until {
            ask.at = now + ask.pause;
            ask.pause = (ask.pause * 2).min(NAMESPACE_ASK_AGAIN_LONGEST);
            self.asks.push(ask);
        }
        Ok(())
    }

    /// Handles an event of containerd.
    async fn handle_event(&mut self, envelope: Envelope) -> Result<(), StoreError> {
        let value = envelope.event.map(|event| event.value).unwrap_or_default();
        let now = Instant::now();
        let is_of_image = envelope.topic.starts_with("/images/");
        self.image_changed |= is_of_image;
        self.survey_wanted |= is_of_image;
        match envelope.topic.as_str() {
            "/images/create" | "/images/update" => {
                self.compare_soon.get_or_insert(now + COMPARE_SOON);
                self.named(&image_name(&value)?).await
            }
            "/images/delete" => {
                self.compare_soon.get_or_insert(now + COMPARE_SOON);
                self.compare_late = Some(now + COMPARE_LATE);
                let name = image_name(&value)?;
                if let Some(name) = ImageName::parse(&name).tag() {
                    self.events.changed(StoreEvent::Untagged { name: name.to_owned() }).await;
                }
                Ok(())
            }
            // Sent by containerd 2.1 and later, after the record is committed.
            "/content/create" => {
                let created = ContentCreate::decode(value.as_slice()).map_err(|error| unreadable(&error))?;
                match created.digest.parse() {
                    Ok(digest) => self.ask(Ask::now(digest)).await,
                    Err(_) => Ok(()),
                }
            }
            _ => {
                self.compare_soon.get_or_insert(now + COMPARE_SOON);
                Ok(())
            }
        }
    }

    /// Handles a name that was created or moved. containerd reports only the name.
    async fn named(&mut self, name: &str) -> Result<(), StoreError> {
        let Some(tag) = ImageName::parse(name).tag() else { return Ok(()) };
        if let Some(Tag { digest, .. }) = self.store.target(name).await? {
            self.events.changed(StoreEvent::Tagged { name: tag.to_owned(), digest }).await;
        }
        Ok(())
    }

    /// Does what is due.
    async fn due(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.asks).into_iter().partition(|ask: &Ask| ask.at <= now);
        self.asks = later;
        for ask in due {
            self.ask(ask).await?;
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.comparing.is_none() && (is_due(self.compare_soon) || is_due(self.compare_late)) {
            self.compare_soon = self.compare_soon.filter(|at| *at > now);
            self.compare_late = self.compare_late.filter(|at| *at > now);
            self.schedule_poll();
            self.touched.clear();
            let (store, begun) = (self.store, Instant::now());
            self.comparing =
                Some(async move { store.look().await.map(|looked| (looked, begun.elapsed())) }.boxed());
        }
        Ok(())
    }

    /// Reports the difference between what was seen and what the namespace knows.
    async fn apply(&mut self, (view, now): Looked) -> Result<(), StoreError> {
        let touched = std::mem::take(&mut self.touched);
        if view != self.view {
            return Err(WatchLost::OtherFolder.into());
        }
        let gone = self.seen.keys().filter(|digest| !now.contains_key(*digest) && !touched.contains(*digest));
        for digest in gone.cloned().collect::<Vec<_>>() {
            self.removed(digest).await;
        }
        for (digest, size_bytes) in now {
            if !self.seen.contains_key(&digest) && !touched.contains(&digest) {
                self.added(digest, size_bytes).await;
            }
        }
        // Labels have no event of their own, but come together with an image's.
        if std::mem::take(&mut self.image_changed) {
            self.events.changed(StoreEvent::Sourced).await;
        }
        Ok(())
    }

    async fn added(&mut self, digest: Digest, size_bytes: u64) {
        self.touch(&digest);
        self.seen.insert(digest.clone(), size_bytes);
        self.events.changed(StoreEvent::Added { digest, size_bytes }).await;
    }

    async fn removed(&mut self, digest: Digest) {
        self.touch(&digest);
        self.survey_wanted = true;
        self.seen.remove(&digest);
        self.events.changed(StoreEvent::Removed { digest }).await;
    }

    fn touch(&mut self, digest: &Digest) {
        if self.comparing.is_some() {
            self.touched.insert(digest.clone());
        }
    }
}

/// The name in the event of an image: create, update and delete events all have it in their first field.
fn image_name(event: &[u8]) -> Result<String, StoreError> {
    Ok(ImageDelete::decode(event).map_err(|error| unreadable(&error))?.name)
}

fn unreadable(error: &prost::DecodeError) -> StoreError {
    WatchLost::UnreadableEvent { words: error.to_string() }.into()
}
