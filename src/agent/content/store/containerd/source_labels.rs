//! Reads where containerd fetched content from. containerd labels each piece of content right after its
//! fetch, with one label for each registry, whose value is the repositories (`AppendDistributionSourceLabel`
//! in `pkg/…/docker/handler.go`).

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_client::services::v1::Info;

use super::content_age::{Moment, Newness};
use crate::agent::content::store::Fetched;
use crate::oci::Digest;

/// Prefix of the label, followed by the registry as `host[:port]`.
const LABEL_PREFIX: &str = "containerd.io/distribution.source.";
/// Reads the labels of `digest`.
pub(super) fn of(digest: &Digest, info: &Info, newness: &mut Newness, now: Moment) -> Fetched {
    let mut names: Vec<String> = Vec::new();
    for (label, repositories) in &info.labels {
        let Some(registry) = label.strip_prefix(LABEL_PREFIX) else { continue };
        let repositories = repositories.split(',').filter(|repository| !repository.is_empty());
        names.extend(repositories.map(|repository| format!("{registry}/{repository}")));
    }
    names.sort_unstable();
    names.dedup();
    let is_unrecorded = names.is_empty() && newness.is_new(digest, created_unix_ms(info), now);
    if !names.is_empty() {
        newness.settle(digest);
    }
    Fetched { is_unrecorded, names }
}

fn created_unix_ms(info: &Info) -> Option<i128> {
    let created = SystemTime::try_from(*info.created_at.as_ref()?).ok()?;
    Some(match created.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i128,
        Err(before) => -(before.duration().as_millis() as i128),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LABELLED_WITHIN;
    use std::time::Duration;

    const NOW: Moment = Moment { monotonic: Duration::from_secs(9), unix_ms: 1_700_000_000_000 };

    fn info(labels: &[(&str, &str)], age: Duration) -> Info {
        Info {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            created_at: Some((UNIX_EPOCH + Duration::from_millis(NOW.unix_ms) - age).into()),
            ..Info::default()
        }
    }

    fn fetched(info: &Info) -> Fetched {
        of(&Digest::of(b"content"), info, &mut Newness::default(), NOW)
    }

    #[test]
    fn each_registry_has_a_label_with_its_repositories() {
        let labels = [
            ("containerd.io/distribution.source.127.0.0.1:5000", "team/app,other"),
            ("containerd.io/distribution.source.docker.io", "library/alpine"),
            ("containerd.io/uncompressed", "sha256:12"),
        ];
        let fetched = fetched(&info(&labels, Duration::ZERO));
        assert_eq!(
            fetched.names,
            ["127.0.0.1:5000/other", "127.0.0.1:5000/team/app", "docker.io/library/alpine"]
        );
        assert!(!fetched.is_unrecorded);
    }

    #[test]
    fn only_new_content_may_still_get_its_label() {
        assert!(fetched(&info(&[], Duration::ZERO)).is_unrecorded);
        assert!(!fetched(&info(&[], LABELLED_WITHIN)).is_unrecorded);
    }

    /// Regression: such content was held back until its date, and with it every scan, the sync and the
    /// heartbeat.
    #[test]
    fn content_dated_in_the_future_is_held_back_for_its_time_and_no_longer() {
        let mut dated = info(&[], Duration::ZERO);
        dated.created_at = Some((UNIX_EPOCH + Duration::from_secs(4_000_000_000)).into());
        let (mut newness, digest) = (Newness::default(), Digest::of(b"content"));
        assert!(of(&digest, &dated, &mut newness, NOW).is_unrecorded);
        let later = Moment { monotonic: NOW.monotonic + LABELLED_WITHIN, ..NOW };
        assert!(!of(&digest, &dated, &mut newness, later).is_unrecorded);
    }
}
