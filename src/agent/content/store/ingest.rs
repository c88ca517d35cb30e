//! Transfers into a store with containerd's layout: `ingest/<id>/{ref,total,data,…}` beside `blobs`. `ref`
//! ends in the digest, `total` is the length that the blob will have, and `data` grows.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::{Ingest, StoreError};
use crate::limits::{INGEST_LINE_BYTES_MAX, INGEST_UNTOUCHED_MIN};
use crate::oci::Digest;

/// Finds the ingests of `digest` below `root`, the one written to last first. Without such a folder there are
/// none. Those of `namespace` may be shared; `None`: the store has no namespaces.
pub(super) async fn find(
    root: &Path,
    digest: &Digest,
    namespace: Option<&str>,
) -> Result<Vec<Ingest>, StoreError> {
    let (folder, digest, namespace) = (root.join("ingest"), digest.clone(), namespace.map(str::to_owned));
    let finding = move || find_blocking(&folder, &digest, namespace.as_deref());
    let found = tokio::task::spawn_blocking(finding).await;
    found
        .unwrap_or_else(|ended| Err(io::Error::other(ended)))
        .map_err(|error| StoreError::io("look at the ingests", &error))
}

fn find_blocking(folder: &Path, digest: &Digest, namespace: Option<&str>) -> io::Result<Vec<Ingest>> {
    let (mut found, now) = (Vec::new(), SystemTime::now());
    each(folder, |name, total_bytes, data| {
        if name.ends_with(digest.as_str()) {
            let written = data.as_ref().and_then(|data| data.metadata().ok()?.modified().ok());
            // A date in the future comes from a clock that was wrong: such an ingest is not the one that is
            // written to now.
            let written = written.filter(|written| *written <= now || !rests(*written, now));
            let is_shareable = is_shareable(&name, namespace);
            let ingest = Ingest { total_bytes, data, is_shareable };
            found.push((written.unwrap_or(SystemTime::UNIX_EPOCH), ingest));
        }
    })?;
    found.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
    Ok(found.into_iter().map(|(_, ingest)| ingest).collect())
}

/// Finds ingests below `root` that are complete and were not written to for [`INGEST_UNTOUCHED_MIN`].
pub(super) async fn complete(root: &Path) -> Result<Vec<(Digest, File)>, StoreError> {
    let folder = root.join("ingest");
    let found = tokio::task::spawn_blocking(move || complete_blocking(&folder)).await;
    found
        .unwrap_or_else(|ended| Err(io::Error::other(ended)))
        .map_err(|error| StoreError::io("look at the ingests", &error))
}

fn complete_blocking(folder: &Path) -> io::Result<Vec<(Digest, File)>> {
    let (mut found, now) = (Vec::new(), SystemTime::now());
    each(folder, |name, total_bytes, data| {
        // The reference looks like `k8s.io/1/layer-sha256:<hex>`.
        let start = name.rfind("sha256:").or_else(|| name.rfind("sha512:"));
        let digest = start.and_then(|start| name[start..].parse::<Digest>().ok());
        let (Some(digest), Some(total_bytes), Some(data)) = (digest, total_bytes, data) else { return };
        let Ok(metadata) = data.metadata() else { return };
        let rested = metadata.modified().is_ok_and(|written| rests(written, now));
        if metadata.len() == total_bytes && rested {
            found.push((digest, data));
        }
    })?;
    Ok(found)
}

/// Whether the ingest with this reference, such as `k8s.io/1/layer-sha256:<hex>`, belongs to `namespace`, if there are
/// any, and is neither a manifest nor an index.
fn is_shareable(name: &str, namespace: Option<&str>) -> bool {
    let of = name.split_once('/').map(|(of, _)| of);
    let kind = name.rsplit('/').next().unwrap_or_default();
    let is_content = !kind.starts_with("manifest-") && !kind.starts_with("index-");
    is_content && namespace.is_none_or(|namespace| of == Some(namespace))
}

/// Whether an ingest that began at `begun` had begun by `limit`. A begin after `now` comes from a clock that
/// was wrong, and lies before everything that begins by the present clock.
pub(super) fn begun_by(begun: Option<SystemTime>, limit: SystemTime, now: SystemTime) -> bool {
    begun.is_none_or(|begun| begun <= limit || begun > now)
}

/// Whether a file that was last written at `written` has rested for [`INGEST_UNTOUCHED_MIN`]. A date that far
/// in the future comes from a clock that was wrong, so that nobody wrote within that time either.
fn rests(written: SystemTime, now: SystemTime) -> bool {
    let apart = now.duration_since(written).unwrap_or_else(|future| future.duration());
    apart >= INGEST_UNTOUCHED_MIN
}

/// Calls `see` with `ref`, `total` and `data` of each ingest.
fn each(folder: &Path, mut see: impl FnMut(String, Option<u64>, Option<File>)) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        // The ingest was committed or aborted meanwhile.
        let Ok(name) = line(&path.join("ref")) else { continue };
        let total_bytes = line(&path.join("total")).ok().and_then(|total| total.parse().ok());
        // containerd writes 0 for an unknown length.
        see(name, total_bytes.filter(|total| *total > 0), File::open(path.join("data")).ok());
    }
    Ok(())
}

fn line(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(File::open(path)?, INGEST_LINE_BYTES_MAX), &mut text)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ingests_are_found_by_the_end_of_their_ref() {
        let root = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"layer");
        assert!(find(root.path(), &digest, Some("k8s.io")).await.unwrap().is_empty(), "no folder yet");
        let ingest = |id: &str, name: String, total: &str, data: &str| {
            let folder = root.path().join("ingest").join(id);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("ref"), name).unwrap();
            std::fs::write(folder.join("total"), total).unwrap();
            std::fs::write(folder.join("data"), data).unwrap();
        };
        ingest("a", format!("k8s.io/1/layer-{digest}"), "5", "lay");
        ingest("b", format!("k8s.io/2/layer-{}", Digest::of(b"other")), "7", "");
        ingest("c", format!("other/3/{digest}"), "0", "");
        let found = find(root.path(), &digest, Some("k8s.io")).await.unwrap();
        let mut totals: Vec<_> = found.iter().map(|ingest| ingest.total_bytes).collect();
        totals.sort();
        assert_eq!(totals, [None, Some(5)]);
        assert!(found.iter().all(|ingest| ingest.data.is_some()));
        assert_eq!(found.iter().filter(|ingest| ingest.is_shareable).count(), 1);
    }

    #[test]
    fn only_layers_and_configs_of_the_namespace_may_be_shared() {
        for (name, expected) in [
            ("k8s.io/1/layer-sha256:00", true),
            ("k8s.io/17/config-sha256:00", true),
            ("k8s.io/1/manifest-sha256:00", false),
            ("k8s.io/1/index-sha256:00", false),
            ("buildkit/1/layer-sha256:00", false),
            ("k8s.io.other/1/layer-sha256:00", false),
            ("layer-sha256:00", false),
        ] {
            assert_eq!(is_shareable(name, Some("k8s.io")), expected, "{name}");
        }
    }

    #[test]
    fn a_date_in_the_future_neither_saves_an_ingest_nor_condemns_a_running_one() {
        let second = std::time::Duration::from_secs(1);
        let now = SystemTime::now();
        for (written, expected) in [
            (now - INGEST_UNTOUCHED_MIN, true),
            (now - INGEST_UNTOUCHED_MIN + second, false),
            (now, false),
            (now + second, false),
            (now + INGEST_UNTOUCHED_MIN * 60, true),
        ] {
            assert_eq!(rests(written, now), expected, "{:?}", written.duration_since(now));
        }
        let limit = now - 2 * second;
        for (begun, expected) in [
            (None, true),
            (Some(limit), true),
            (Some(limit + second), false),
            (Some(now + 3_600 * second), true),
        ] {
            assert_eq!(begun_by(begun, limit, now), expected, "{begun:?}");
        }
    }

    #[test]
    fn without_namespaces_only_the_kind_counts() {
        assert!(is_shareable("layer-sha256:00", None) && is_shareable("k8s.io/1/layer-sha256:00", None));
        assert!(!is_shareable("index-sha256:00", None));
    }

    #[tokio::test]
    async fn only_what_is_whole_and_rests_is_complete() {
        let root = tempfile::tempdir().unwrap();
        let rested = SystemTime::now() - INGEST_UNTOUCHED_MIN * 2;
        for (id, total, written) in
            [("whole", "5", rested), ("half", "6", rested), ("fresh", "5", SystemTime::now())]
        {
            let folder = root.path().join("ingest").join(id);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("ref"), format!("k8s.io/1/layer-{}", Digest::of(id.as_bytes())))
                .unwrap();
            std::fs::write(folder.join("total"), total).unwrap();
            std::fs::write(folder.join("data"), "bytes").unwrap();
            File::options().write(true).open(folder.join("data")).unwrap().set_modified(written).unwrap();
        }
        let found = complete(root.path()).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|(digest, _)| digest).collect();
        assert_eq!(found, [Digest::of(b"whole")]);
    }
}
