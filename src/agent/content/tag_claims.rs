//! Decides which digest a tag has when several nodes answer for it: the newest import wins, and a tie is
//! refused.
//!
//! Each holder sends the *age* of its tag, measured by its own clock, so that the clocks of two nodes are
//! never compared. The ages keep growing until all holders have answered; the difference of their delays
//! remains, and [`TAG_AGE_TOLERANCE`] covers it.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::limits::{TAG_AGE_TOLERANCE, TIED_NAMED_MAX};
use crate::oci::Digest;

/// Header of a tag's manifest on the peer port: milliseconds since the tag was set on that node. Older agents
/// and the Go `pi` do not send it.
pub(crate) const TAG_AGE_MS: &str = "piccolo-tag-age-ms";

/// One holder's answer for a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `ip:port` of the holder, or a word for this node.
    pub(crate) holder: String,
    pub(crate) digest: Digest,
    /// How long ago the tag was set there; `None` if the holder did not say, which counts as oldest.
    pub(crate) age: Option<Duration>,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} holds {}, {}", self.holder, self.digest, age_text(self.age))
    }
}

/// Which digest a tag has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Nobody holds the tag.
    Nothing,
    /// All holders agree, or this digest was set last.
    Newest(Digest),
    /// These claims were set last, at the same time, and have different digests.
    Tie(Vec<Claim>),
}

/// Decides between `claims`, whose ages are of the same moment.
pub(crate) fn rule(claims: &[Claim]) -> Ruling {
    let age = |claim: &Claim| claim.age.unwrap_or(Duration::MAX);
    let Some(newest) = claims.iter().min_by_key(|claim| age(claim)) else { return Ruling::Nothing };
    // Unknown ages count as equal.
    let limit = newest.age.map_or(Duration::MAX, |age| age.saturating_add(TAG_AGE_TOLERANCE));
    let contenders: Vec<&Claim> = claims.iter().filter(|claim| age(claim) <= limit).collect();
    if contenders.iter().all(|claim| claim.digest == newest.digest) {
        return Ruling::Newest(newest.digest.clone());
    }
    Ruling::Tie(contenders.into_iter().cloned().collect())
}

/// Describes the claims of a tie for people: at least one of each image first, and [`TIED_NAMED_MAX`] in all.
pub(crate) fn named(tied: &[Claim]) -> String {
    let mut seen = HashSet::new();
    let (firsts, others): (Vec<&Claim>, Vec<&Claim>) =
        tied.iter().partition(|claim| seen.insert(&claim.digest));
    let shown = firsts.into_iter().chain(others).take(TIED_NAMED_MAX).map(Claim::to_string);
    let text = shown.collect::<Vec<_>>().join("; ");
    match tied.len().saturating_sub(TIED_NAMED_MAX) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// The age of a tag that was set at `set_at`. A time in the future comes from a clock that was or is wrong:
/// `None`.
pub(crate) fn age(set_at: SystemTime, now: SystemTime) -> Option<Duration> {
    match now.duration_since(set_at) {
        Ok(age) => Some(age),
        Err(ahead) => (ahead.duration() <= TAG_AGE_TOLERANCE).then_some(Duration::ZERO),
    }
}

/// The age for people, such as `set 5 min ago`.
pub(crate) fn age_text(age: Option<Duration>) -> String {
    let Some(age) = age else { return "set at a time that it does not tell".to_owned() };
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("set {seconds} s ago"),
        120..7_200 => format!("set {} min ago", seconds / 60),
        7_200..172_800 => format!("set {} h ago", seconds / 3_600),
        _ => format!("set {} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, and its age in milliseconds.
    type Told<'a> = (&'a str, Option<u64>);

    fn claims(of: &[Told<'_>]) -> Vec<Claim> {
        let claim = |(number, (content, age_ms)): (usize, &Told<'_>)| Claim {
            holder: format!("10.0.0.{number}:7781"),
            digest: Digest::of(content.as_bytes()),
            age: age_ms.map(Duration::from_millis),
        };
        of.iter().enumerate().map(claim).collect()
    }

    #[test]
    fn the_newest_import_wins_and_a_tie_of_different_digests_is_refused() {
        let tolerance = TAG_AGE_TOLERANCE.as_millis() as u64;
        let newest = |content: &str| Ruling::Newest(Digest::of(content.as_bytes()));
        let cases: &[(&[Told<'_>], Option<Ruling>)] = &[
            (&[], Some(Ruling::Nothing)),
            (&[("v1", None)], Some(newest("v1"))),
            (&[("v1", Some(9_000_000)), ("v1", Some(5)), ("v1", None)], Some(newest("v1"))),
            (&[("v1", Some(9_000_000)), ("v2", Some(5_000)), ("v1", Some(8_000_000))], Some(newest("v2"))),
            // One holder wins against many: this is no vote.
            (&[("v2", Some(0)), ("v1", Some(60_000)), ("v1", Some(60_000))], Some(newest("v2"))),
            // An old agent does not send an age, which counts as oldest.
            (&[("v1", None), ("v2", Some(900_000_000))], Some(newest("v2"))),
            (&[("v1", None), ("v2", None)], None),
            // Ages on both sides of the tolerance.
            (&[("v1", Some(1_000)), ("v2", Some(1_000 + tolerance))], None),
            (&[("v1", Some(1_000)), ("v2", Some(1_001 + tolerance))], Some(newest("v1"))),
            (&[("v1", Some(1_000)), ("v2", Some(1_500)), ("v2", Some(1_000_000))], None),
        ];
        for (of, expected) in cases {
            let ruling = rule(&claims(of));
            match expected {
                Some(expected) => assert_eq!(ruling, *expected, "{of:?}"),
                None => assert!(matches!(ruling, Ruling::Tie(_)), "{of:?}: {ruling:?}"),
            }
        }
    }

    #[test]
    fn a_tie_names_those_who_are_in_it() {
        let claims = claims(&[("v1", Some(1_000)), ("v2", Some(1_500)), ("v2", Some(1_000_000))]);
        assert_eq!(rule(&claims), Ruling::Tie(claims[..2].to_vec()));
        let text = claims[0].to_string();
        assert!(text.starts_with("10.0.0.0:7781 holds sha256:") && text.ends_with("set 1 s ago"), "{text}");
    }

    #[test]
    fn of_many_in_a_tie_some_are_named_and_one_for_each_image() {
        let mut told = vec![("v1", None); 100];
        told.push(("v2", None));
        let text = named(&claims(&told));
        assert!(
            text.contains(Digest::of(b"v1").as_str()) && text.contains(Digest::of(b"v2").as_str()),
            "{text}"
        );
        assert!(text.ends_with(&format!("; and {} more", 101 - TIED_NAMED_MAX)), "{text}");
        assert_eq!(text.matches(" holds ").count(), TIED_NAMED_MAX);
        assert_eq!(named(&claims(&told[99..])).matches(" holds ").count(), 2);
    }

    #[test]
    fn a_time_in_the_future_tells_nothing() {
        let now = SystemTime::now();
        assert_eq!(age(now - Duration::from_secs(5), now), Some(Duration::from_secs(5)));
        assert_eq!(age(now + TAG_AGE_TOLERANCE, now), Some(Duration::ZERO));
        assert_eq!(age(now + TAG_AGE_TOLERANCE + Duration::from_millis(1), now), None);
    }
}
