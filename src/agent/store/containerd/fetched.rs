//! Where containerd fetched content from: it writes a label on each piece right after its fetch, one
//! for each registry, with the repositories as value (`pkg/…/docker/handler.go`,
//! `AppendDistributionSourceLabel`).

use std::time::{Duration, SystemTime};

use containerd_client::services::v1::Info;

use crate::agent::store::Fetched;

/// Followed by the registry, `host[:port]`.
const LABEL_PREFIX: &str = "containerd.io/distribution.source.";
/// After so long a label that is not there will not come.
const LABELLED_WITHIN: Duration = Duration::from_secs(5);

/// What the labels say.
pub(super) fn of(info: &Info) -> Fetched {
    let mut names: Vec<String> = Vec::new();
    for (label, repositories) in &info.labels {
        let Some(registry) = label.strip_prefix(LABEL_PREFIX) else { continue };
        let repositories = repositories.split(',').filter(|repository| !repository.is_empty());
        names.extend(repositories.map(|repository| format!("{registry}/{repository}")));
    }
    names.sort_unstable();
    names.dedup();
    Fetched { is_unrecorded: names.is_empty() && is_new(info), names }
}

fn is_new(info: &Info) -> bool {
    let created = info.created_at.as_ref().and_then(|time| SystemTime::try_from(*time).ok());
    // A clock that was set back makes it younger than nothing: new, until it is no more.
    created.is_some_and(|created| created.elapsed().map_or(true, |age| age < LABELLED_WITHIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(labels: &[(&str, &str)], age: Duration) -> Info {
        Info {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            created_at: Some((SystemTime::now() - age).into()),
            ..Info::default()
        }
    }

    #[test]
    fn each_registry_has_a_label_with_its_repositories() {
        let labels = [
            ("containerd.io/distribution.source.127.0.0.1:5000", "team/app,other"),
            ("containerd.io/distribution.source.docker.io", "library/alpine"),
            ("containerd.io/uncompressed", "sha256:12"),
        ];
        let fetched = of(&info(&labels, Duration::ZERO));
        assert_eq!(
            fetched.names,
            ["127.0.0.1:5000/other", "127.0.0.1:5000/team/app", "docker.io/library/alpine"]
        );
        assert!(!fetched.is_unrecorded);
    }

    #[test]
    fn only_new_content_may_still_get_its_label() {
        assert!(of(&info(&[], Duration::ZERO)).is_unrecorded);
        assert!(!of(&info(&[], LABELLED_WITHIN)).is_unrecorded);
        assert!(!of(&Info::default()).is_unrecorded, "of an unknown age");
    }
}
