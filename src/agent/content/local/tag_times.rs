//! Corrects the times at which the tags of this node were set for its own pulls.
//!
//! A pull writes the image's record anew, so that a tag which this node pulled would count as newer than an
//! import that happened on another node meanwhile. The answers of the mirror for a tag are therefore
//! remembered with their age, and a record that is written within [`TAG_PULL_MAX`] of an answer keeps that
//! age.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::agent::content::store::Tag;
use crate::limits::{TAG_PULL_MAX, TAGS_ANSWERED_MAX};
use crate::oci::Digest;

/// Recent answers of the mirror for tags.
#[derive(Debug, Default)]
pub(super) struct TagTimes {
    answered: Mutex<HashMap<String, Answered>>,
}

/// The answer that containerd was given for a tag.
#[derive(Debug)]
struct Answered {
    at: SystemTime,
    digest: Digest,
    /// When the tag was set on the node of its import, by this node's clock.
    set_at: Option<SystemTime>,
}

impl TagTimes {
    /// Remembers that the mirror answered `tag` for `name`.
    pub(super) fn answered(&self, name: &str, tag: Tag, now: SystemTime) {
        let Tag { digest, set_at } = tag;
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.len() >= TAGS_ANSWERED_MAX && !answered.contains_key(name) {
            let oldest =
                answered.iter().min_by_key(|(_, answered)| answered.at).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| answered.remove(&oldest));
        }
        answered.insert(name.to_owned(), Answered { at: now, digest, set_at });
    }

    /// `tag` with the time of its import, if this node only pulled it.
    pub(super) fn corrected(&self, name: &str, mut tag: Tag) -> Tag {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(answered), Some(written)) = (answered.get(name), tag.set_at)
            && answered.digest == tag.digest
            && written.duration_since(answered.at).is_ok_and(|after| after <= TAG_PULL_MAX)
        {
            tag.set_at = answered.set_at;
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn tag(content: &str, set_at: Option<SystemTime>) -> Tag {
        Tag { digest: Digest::of(content.as_bytes()), set_at }
    }

    #[test]
    fn a_pull_keeps_the_time_of_the_import_and_an_import_has_its_own() {
        let times = TagTimes::default();
        let corrected = |content, set_at| times.corrected("a.b/c:1", tag(content, set_at)).set_at;
        assert_eq!(corrected("v1", Some(at(5))), Some(at(5)), "nothing was answered yet");
        times.answered("a.b/c:1", tag("v1", Some(at(10))), at(100));
        let last = at(100) + TAG_PULL_MAX;
        for (content, written, expected, why) in [
            ("v1", at(130), at(10), "pulled"),
            ("v1", last, at(10), "pulled slowly"),
            ("v1", last + Duration::from_secs(1), last + Duration::from_secs(1), "imported later"),
            ("v1", at(99), at(99), "imported before"),
            ("v2", at(130), at(130), "imported something else"),
        ] {
            assert_eq!(corrected(content, Some(written)), Some(expected), "{why}");
        }
        assert_eq!(times.corrected("a.b/other:1", tag("v1", Some(at(130)))).set_at, Some(at(130)));
        times.answered("a.b/c:1", tag("v1", None), at(100));
        assert_eq!(corrected("v1", Some(at(130))), None, "what was not told does not become new by a pull");
    }

    #[test]
    fn the_oldest_answer_is_forgotten_first() {
        let times = TagTimes::default();
        for number in 0..=TAGS_ANSWERED_MAX as u64 {
            times.answered(&number.to_string(), tag("v1", Some(at(0))), at(number));
        }
        let corrected = |name: &str| times.corrected(name, tag("v1", Some(at(1_000_000)))).set_at;
        assert_eq!(times.answered.lock().unwrap().len(), TAGS_ANSWERED_MAX);
        assert_eq!(corrected("0"), Some(at(1_000_000)));
        let last = TAGS_ANSWERED_MAX.to_string();
        let written = Some(at(TAGS_ANSWERED_MAX as u64));
        assert_eq!(times.corrected(&last, tag("v1", written)).set_at, Some(at(0)));
    }
}
