//! Conditions of this node that an operator should know and that last, each with a text that says what is
//! wrong and what to do. `/readyz` lists them, and the log has one line for each change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::NOTICES_MAX;

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// The address that this node advertises.
    Address,
    /// The cluster of the discovery servers.
    Cluster,
    /// Whether containerd asks the mirror at all.
    Mirror,
    /// The registry that containerd asks after the mirror.
    Origin,
    /// Reachability of other nodes.
    Peers,
    /// The folder of `--state-dir`.
    StateDir,
    /// What the store holds and cannot share.
    Store,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Topic::Address => "address",
            Topic::Cluster => "cluster",
            Topic::Mirror => "mirror",
            Topic::Origin => "origin",
            Topic::Peers => "peers",
            Topic::StateDir => "state-dir",
            Topic::Store => "store",
        })
    }
}

/// All notices of one agent. A clone is the same set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    standing: Arc<Mutex<BTreeMap<(Topic, String), String>>>,
}

impl Notices {
    /// Sets the notice about `subject` (a registry, a path; empty for a topic with only one subject), and
    /// logs it if its text is new. A new subject beyond [`NOTICES_MAX`] is only logged.
    pub(crate) fn set(&self, topic: Topic, subject: &str, text: impl Into<String>) {
        let text = text.into();
        let mut standing = self.lock();
        let key = (topic, subject.to_owned());
        if standing.get(&key) == Some(&text) {
            return;
        }
        tracing::warn!(%topic, subject, "{text}");
        if standing.len() < NOTICES_MAX || standing.contains_key(&key) {
            standing.insert(key, text);
        }
    }

    /// Ends the notice about `subject`, and logs that if there was one.
    pub(crate) fn clear(&self, topic: Topic, subject: &str) {
        if let Some(text) = self.lock().remove(&(topic, subject.to_owned())) {
            tracing::info!(%topic, subject, "no longer so: {text}");
        }
    }

    /// Texts of all current notices, in a fixed order.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Topic, String), String>> {
        // No panic can leave a map of texts half changed.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_stands_until_it_is_cleared_and_a_new_text_replaces_it() {
        let notices = Notices::default();
        notices.set(Topic::Peers, "", "no peer can be reached: 3 of 3");
        notices.set(Topic::Peers, "", "no peer can be reached: 4 of 4");
        notices.set(Topic::Origin, "ghcr.io", "ghcr.io does not answer");
        assert_eq!(notices.texts(), ["ghcr.io does not answer", "no peer can be reached: 4 of 4"]);
        notices.clear(Topic::Peers, "");
        notices.clear(Topic::Peers, "never set");
        assert_eq!(notices.texts(), ["ghcr.io does not answer"]);
    }

    #[test]
    fn the_number_of_notices_is_bounded_and_those_that_stand_still_change() {
        let notices = Notices::default();
        for number in 0..=NOTICES_MAX {
            notices.set(Topic::Origin, &number.to_string(), "gone");
        }
        assert_eq!(notices.texts().len(), NOTICES_MAX);
        notices.set(Topic::Origin, "0", "slow");
        assert!(notices.texts().contains(&"slow".to_owned()));
    }
}
