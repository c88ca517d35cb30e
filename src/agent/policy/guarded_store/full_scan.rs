//! A full scan: which images all content belongs to and where it was fetched from, and what is therefore held
//! back.

use std::collections::{BTreeSet, HashMap};

use futures_util::TryStreamExt;

use super::{GuardedStore, Key, Mark, Restriction};
use crate::agent::content::store::{Scan, Source, StoreError};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::{Children, Digest};

/// The result of a full scan.
#[derive(Default)]
pub(super) struct FullScan {
    /// Content of the store that may be given.
    pub(super) given: Scan,
    /// New content whose source is not recorded yet, with its length.
    pub(super) unsettled: Vec<(Digest, u64)>,
    /// Content that is held back now, and was not before.
    pub(super) withheld: Vec<Digest>,
    /// Content that may be given now, and was held back before.
    pub(super) released: BTreeSet<Digest>,
}

/// What the store records about sources.
#[derive(Default)]
struct RecordedSources {
    restrictions: HashMap<Key, Restriction>,
    /// Images whose parts have to be found out.
    images: Vec<(Digest, Restriction)>,
    unrecorded: BTreeSet<Digest>,
}

impl GuardedStore {
    /// Scans everything and replaces the known restrictions. An error changes nothing (I3). The caller holds
    /// `scan_lock`.
    pub(super) async fn full_scan(&self) -> Result<FullScan, StoreError> {
        let scan = self.inner.scan().await?;
        // Asked after the scan, so that the sources of everything it found are included.
        let RecordedSources { mut restrictions, images, unrecorded } = self.recorded_sources().await?;
        self.walk(images, &mut restrictions).await?;
        let nameless = self.policies.of_nameless();
        let mut found = FullScan::default();
        let mut marks = HashMap::new();
        for (digest, size_bytes) in scan.content {
            let key = Key::of(&digest);
            let named = restrictions.remove(&key);
            if named.is_none() && unrecorded.contains(&digest) {
                found.unsettled.push((digest, size_bytes));
                continue;
            }
            let mut restriction = named.unwrap_or(nameless);
            restriction |= self.policies.of_asked(&digest);
            let mark = self.judged(&digest, size_bytes, restriction).await?;
            if !restriction.is_none() || (named.is_some() && !nameless.is_none()) {
                marks.insert(key, mark);
            }
            let before = self.mark(&digest).is_some_and(|mark| mark.withheld);
            match (before, mark.withheld) {
                (false, true) => found.withheld.push(digest.clone()),
                (true, false) => _ = found.released.insert(digest.clone()),
                _ => {}
            }
            if !mark.withheld {
                found.given.content.insert(digest, size_bytes);
            }
        }
        // Parts of images that have not arrived yet.
        let absent = restrictions.into_iter().filter(|(_, restriction)| !restriction.is_none());
        marks.extend(absent.map(|(key, restriction)| (key, Mark { restriction, ..Mark::default() })));
        let given = &found.given.content;
        found.given.tags = scan.tags.into_iter().filter(|(_, target)| given.contains_key(target)).collect();
        tracing::debug!(
            marks = marks.len(),
            withheld = found.withheld.len(),
            "looked what policy holds back"
        );
        marks.shrink_to_fit();
        let mut known = self.known();
        known.marks = marks;
        known.scanned = true;
        Ok(found)
    }

    async fn judged(
        &self,
        digest: &Digest,
        size_bytes: u64,
        restriction: Restriction,
    ) -> Result<Mark, StoreError> {
        let mut mark = Mark { restriction, ..Mark::default() };
        if restriction.is_partial() {
            let is_large = size_bytes > MANIFEST_BYTES_MAX;
            mark.is_manifest = if is_large { Some(false) } else { self.is_manifest(digest).await? };
        }
        mark.withheld = restriction.forbids(mark.is_manifest);
        Ok(mark)
    }

    async fn recorded_sources(&self) -> Result<RecordedSources, StoreError> {
        let mut recorded = RecordedSources::default();
        // Where content without a name is restricted, it matters which content has a name at all.
        let names_matter = !self.policies.of_nameless().is_none();
        let mut take = |source: Source| match source {
            Source::Fetched { digest, name } => {
                let restriction = self.policies.of_name(&name);
                if names_matter || !restriction.is_none() {
                    *recorded.restrictions.entry(Key::of(&digest)).or_default() |= restriction;
                }
            }
            Source::Unrecorded { digest } => _ = recorded.unrecorded.insert(digest),
            // Not a name of a registry: containerd's CRI plugin uses names like `sha256:<config>`.
            Source::Image { name, .. } if self.policies.registry_of(&name).is_none() => {}
            Source::Image { name, target } => {
                let restriction = self.policies.of_name(&name);
                if names_matter || !restriction.is_none() {
                    recorded.images.push((target, restriction));
                }
            }
        };
        let mut pages = self.inner.sources();
        while let Some(page) = pages.try_next().await? {
            page.into_iter().for_each(&mut take);
        }
        Ok(recorded)
    }

    /// Gives everything below an image the image's restriction.
    async fn walk(
        &self,
        images: Vec<(Digest, Restriction)>,
        restrictions: &mut HashMap<Key, Restriction>,
    ) -> Result<(), StoreError> {
        let mut walked: HashMap<Key, Restriction> = HashMap::new();
        let mut waiting = images;
        while let Some((digest, restriction)) = waiting.pop() {
            let key = Key::of(&digest);
            if walked.get(&key).is_some_and(|before| restriction.is_within(*before)) {
                continue;
            }
            *walked.entry(key).or_default() |= restriction;
            *restrictions.entry(key).or_default() |= restriction;
            let Some(content) = self.inner.open(&digest).await? else { continue };
            if content.size_bytes() > MANIFEST_BYTES_MAX {
                continue;
            }
            let children = Children::of(&self.read_whole(&digest, content).await?);
            for blob in &children.blobs {
                *restrictions.entry(Key::of(blob)).or_default() |= restriction;
            }
            waiting.extend(children.manifests.into_iter().map(|manifest| (manifest, restriction)));
        }
        Ok(())
    }
}
