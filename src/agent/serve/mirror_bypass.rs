//! Notices when images are pulled and nobody asks this mirror: a `hosts.toml` that containerd does not
//! read looks like a site where all is well.
//!
//! An image counts if its manifest was committed since the agent's start, and if containerd has written a
//! source label on it by the time at which the image gets its name. A pull writes that label right after
//! each fetch; a build or an import does not (k3s labels what it imported, after the import).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::content::store::{Store, StoreEvent};
use crate::agent::counters::Counters;
use crate::agent::notices::{Notices, Topic};
use crate::agent::policy::{Policies, Restriction};
use crate::limits::{
    MIRROR_BYPASS_EVENTS_WAITING_MAX, MIRROR_BYPASS_IMAGES, MIRROR_BYPASS_LOOK_INTERVAL,
    MIRROR_BYPASS_REMEMBERED_MAX, MIRROR_BYPASS_WINDOW,
};
use crate::oci::Digest;
use crate::task::Stop;
use piccolo_raft::errors::chain;

/// The beginning of the notice; `piccolo mirror check` looks for it.
pub const MIRROR_BYPASSED: &str = "images appear and nobody asks this mirror";

/// What was seen so far. Pure: time and counters come in.
#[derive(Debug, Default)]
struct BypassDetector {
    /// Requests of containerd at the last look.
    asked_total: u64,
    /// When there was a new one.
    last_asked: Option<Instant>,
    /// Images in a row that came without a request.
    in_a_row: usize,
    /// Content that was committed lately and belongs to no image yet; images whose content is not yet known
    /// to be new. The two kinds of event come in any order.
    committed: VecDeque<Digest>,
    pulled: VecDeque<Digest>,
}

/// What an event means for the notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BypassChange {
    Unchanged,
    /// Images are pulled and nobody asks the mirror.
    Began,
    /// The mirror is asked again.
    Ended,
}

impl BypassDetector {
    /// The mirror has had `asked_total` requests by now.
    fn look(&mut self, asked_total: u64, now: Instant) -> BypassChange {
        if asked_total == self.asked_total {
            return BypassChange::Unchanged;
        }
        self.asked_total = asked_total;
        self.last_asked = Some(now);
        let was_bypassed = self.in_a_row >= MIRROR_BYPASS_IMAGES;
        self.in_a_row = 0;
        if was_bypassed { BypassChange::Ended } else { BypassChange::Unchanged }
    }

    /// Content was committed.
    fn committed(&mut self, digest: &Digest, now: Instant) -> BypassChange {
        if take(&mut self.pulled, digest) {
            return self.new_image(now);
        }
        remember(&mut self.committed, digest);
        BypassChange::Unchanged
    }

    /// An image that was pulled has got a name; maybe one more name.
    fn named(&mut self, digest: &Digest, now: Instant) -> BypassChange {
        if take(&mut self.committed, digest) {
            return self.new_image(now);
        }
        remember(&mut self.pulled, digest);
        BypassChange::Unchanged
    }

    fn new_image(&mut self, now: Instant) -> BypassChange {
        // A pull asks for its manifest first, and its last layer may take long.
        if self.last_asked.is_some_and(|asked| now.duration_since(asked) < MIRROR_BYPASS_WINDOW) {
            return BypassChange::Unchanged;
        }
        self.in_a_row += 1;
        if self.in_a_row == MIRROR_BYPASS_IMAGES { BypassChange::Began } else { BypassChange::Unchanged }
    }
}

fn remember(digests: &mut VecDeque<Digest>, digest: &Digest) {
    if digests.contains(digest) {
        return;
    }
    if digests.len() >= MIRROR_BYPASS_REMEMBERED_MAX {
        digests.pop_front();
    }
    digests.push_back(digest.clone());
}

fn take(digests: &mut VecDeque<Digest>, digest: &Digest) -> bool {
    let position = digests.iter().position(|known| known == digest);
    position.and_then(|position| digests.remove(position)).is_some()
}

/// Where the inventory tells what it sees. Events that find no room are lost: this is about many images.
pub(crate) fn channel() -> (impl Fn(&StoreEvent) + Send + Sync + 'static, mpsc::Receiver<StoreEvent>) {
    let (sender, receiver) = mpsc::channel(MIRROR_BYPASS_EVENTS_WAITING_MAX);
    let seen = move |event: &StoreEvent| {
        if matches!(event, StoreEvent::Added { .. } | StoreEvent::Tagged { .. }) {
            let _ = sender.try_send(event.clone());
        }
    };
    (seen, receiver)
}

/// Watches until `stop`.
pub(crate) struct BypassWatch {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) notices: Notices,
}

impl BypassWatch {
    pub(crate) async fn run(
        self,
        mut events: mpsc::Receiver<StoreEvent>,
        stop: Stop,
    ) -> Result<(), Infallible> {
        let mut detector = BypassDetector::default();
        let mut looks = tokio::time::interval(MIRROR_BYPASS_LOOK_INTERVAL);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = looks.tick() => None,
                Some(event) = events.recv() => Some(event),
            };
            self.tell(detector.look(self.counters.asked(), Instant::now()));
            match event {
                Some(StoreEvent::Added { digest, .. }) => {
                    self.tell(detector.committed(&digest, Instant::now()));
                }
                Some(StoreEvent::Tagged { digest, .. }) if self.was_pulled(&digest).await => {
                    self.tell(detector.named(&digest, Instant::now()));
                }
                _ => {}
            }
        }
    }

    /// Whether the store says that this came from a registry that peers may stand in for.
    async fn was_pulled(&self, digest: &Digest) -> bool {
        match self.store.fetched_from(digest).await {
            Ok(fetched) => fetched.names.iter().any(|name| self.policies.of_name(name) != Restriction::ALL),
            Err(error) => {
                tracing::debug!(%digest, error = chain(&error), "could not ask where an image is from");
                false
            }
        }
    }

    fn tell(&self, change: BypassChange) {
        match change {
            BypassChange::Unchanged => {}
            BypassChange::Began => self.notices.set(
                Topic::Mirror,
                "",
                format!(
                    "{MIRROR_BYPASSED}: {MIRROR_BYPASS_IMAGES} images in a row were pulled without one request; run `piccolo \
                     mirror check` on this node (containerd 2.1 and later reads no hosts.toml where its \
                     config_path is a list)"
                ),
            ),
            BypassChange::Ended => self.notices.clear(Topic::Mirror, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use BypassChange::{Ended, Unchanged};

    enum Event {
        /// Content is committed.
        Commit(u8),
        /// An image that was pulled gets a name.
        Name(u8),
        /// The mirror is asked.
        Ask,
        /// Seconds pass.
        Pass(u64),
    }
    use Event::{Ask, Commit, Name, Pass};

    /// The changes that are not [`Unchanged`], in order.
    fn changes(events: &[Event]) -> Vec<BypassChange> {
        let (mut detector, mut now, mut asked) = (BypassDetector::default(), Instant::now(), 0);
        let mut changes = Vec::new();
        for event in events {
            let digest = |number: &u8| Digest::of(&[*number]);
            let change = match event {
                Commit(number) => detector.committed(&digest(number), now),
                Name(number) => detector.named(&digest(number), now),
                Pass(seconds) => {
                    now += Duration::from_secs(*seconds);
                    Unchanged
                }
                Ask => {
                    asked += 1;
                    detector.look(asked, now)
                }
            };
            changes.extend(Some(change).filter(|change| *change != Unchanged));
        }
        changes
    }

    #[test]
    fn it_takes_images_in_a_row_that_are_new_and_pulled_and_no_request() {
        let long = MIRROR_BYPASS_WINDOW.as_secs();
        let three = || vec![Commit(1), Name(1), Commit(2), Name(2), Name(3), Commit(3)];
        let cases: Vec<(&str, Vec<Event>, Vec<BypassChange>)> = vec![
            ("three images", three(), vec![BypassChange::Began]),
            (
                "more of them",
                [three(), vec![Commit(4), Name(4)]].into_iter().flatten().collect(),
                vec![BypassChange::Began],
            ),
            (
                "then a request",
                [three(), vec![Ask, Ask]].into_iter().flatten().collect(),
                vec![BypassChange::Began, Ended],
            ),
            ("two are few", vec![Commit(1), Name(1), Commit(2), Name(2)], vec![]),
            ("names of one image", vec![Commit(1), Name(1), Name(1), Name(1), Name(1)], vec![]),
            ("names of old content", vec![Name(1), Name(2), Name(3), Name(4)], vec![]),
            ("builds and imports", vec![Commit(1), Commit(2), Commit(3), Commit(4)], vec![]),
            ("a request just before", [vec![Ask], three()].into_iter().flatten().collect(), vec![]),
            (
                "a request between",
                vec![Commit(1), Name(1), Commit(2), Name(2), Ask, Commit(3), Name(3)],
                vec![],
            ),
            (
                "requests long ago",
                [vec![Ask, Pass(long)], three()].into_iter().flatten().collect(),
                vec![BypassChange::Began],
            ),
        ];
        for (what, events, expected) in cases {
            assert_eq!(changes(&events), expected, "{what}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut detector = BypassDetector::default();
        for number in 0..=MIRROR_BYPASS_REMEMBERED_MAX {
            detector.committed(&Digest::of(&number.to_le_bytes()), Instant::now());
        }
        assert_eq!(detector.committed.len(), MIRROR_BYPASS_REMEMBERED_MAX);
    }
}
