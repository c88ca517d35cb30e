//! Finds images that this node has and cannot share: those of other namespaces, and those whose layers
//! containerd discarded after it had unpacked them.

use std::collections::HashSet;

use super::ContainerdStore;
use super::client::Client;
use crate::agent::content::store::StoreError;
use crate::agent::notices::Topic;
use crate::limits::{
    NOTICE_EXAMPLES_MAX, SURVEY_IMAGES_MAX, SURVEYED_LAYERS_MAX, SURVEYED_MANIFEST_BYTES_MAX,
    SURVEYED_MANIFESTS_MAX,
};
use crate::oci::Digest;
use crate::oci::children::Children;

impl ContainerdStore {
    /// Looks at the other namespaces, and at the layers of this one only if `images_changed`, because that
    /// needs calls for each image.
    pub(super) async fn survey(&self, images_changed: bool) -> Result<(), StoreError> {
        let mut others = Vec::new();
        for namespace in self.client.namespaces().await? {
            if namespace != self.client.namespace() {
                let images = self.client.of(&namespace)?.list_images().await?.len();
                others.push((namespace, images));
            }
        }
        self.say("namespaces", elsewhere(&others, self.client.namespace()));
        if images_changed {
            let (discarded, total) = self.discarded().await?;
            self.say("discarded layers", without_layers(discarded, total));
        }
        Ok(())
    }

    fn say(&self, subject: &str, text: Option<String>) {
        match text {
            Some(text) => self.notices.set(Topic::Store, subject, text),
            None => self.notices.clear(Topic::Store, subject),
        }
    }

    /// How many images of the namespace have a manifest here and none of its layers, and how many images
    /// there are.
    async fn discarded(&self) -> Result<(usize, usize), StoreError> {
        let mut targets: Vec<Digest> =
            self.client.list_images().await?.iter().filter_map(|image| image.target.parse().ok()).collect();
        // An image has one name for its tag, one for its digest, and one for its config.
        targets.sort_unstable();
        targets.dedup();
        let (mut discarded, mut images) = (0, 0);
        for target in targets.iter().take(SURVEY_IMAGES_MAX) {
            if let Some(has_layers) = has_layers(&self.client, target).await? {
                images += 1;
                discarded += usize::from(!has_layers);
            }
        }
        Ok((discarded, images))
    }
}

/// Whether any layer of the image is here; `None` if no manifest of it is here, or none that has layers.
async fn has_layers(client: &Client, target: &Digest) -> Result<Option<bool>, StoreError> {
    let mut manifests = Manifests::of(target);
    let mut found = None;
    while let Some(digest) = manifests.waiting.pop() {
        let Some(bytes) = client.read_whole(&digest, SURVEYED_MANIFEST_BYTES_MAX).await? else { continue };
        let children = Children::of(&bytes);
        manifests.add(children.manifests);
        // The first blob is the config, which containerd keeps.
        for layer in children.blobs.iter().skip(1).take(SURVEYED_LAYERS_MAX) {
            found = Some(false);
            if client.info(layer).await?.is_some() {
                return Ok(Some(true));
            }
        }
    }
    Ok(found)
}

/// The manifests and indexes of one image, each once.
struct Manifests {
    waiting: Vec<Digest>,
    seen: HashSet<Digest>,
}

impl Manifests {
    fn of(target: &Digest) -> Self {
        Self { waiting: vec![target.clone()], seen: HashSet::from([target.clone()]) }
    }

    fn add(&mut self, children: Vec<Digest>) {
        for child in children {
            if self.seen.len() < SURVEYED_MANIFESTS_MAX && self.seen.insert(child.clone()) {
                self.waiting.push(child);
            }
        }
    }
}

fn elsewhere(others: &[(String, usize)], own: &str) -> Option<String> {
    let mut others: Vec<&(String, usize)> = others.iter().filter(|(_, images)| *images > 0).collect();
    others.sort_by_key(|(_, images)| std::cmp::Reverse(*images));
    let named = others.iter().take(NOTICE_EXAMPLES_MAX);
    let named: Vec<String> = named.map(|(name, images)| format!("{images} in {name}")).collect();
    if named.is_empty() {
        return None;
    }
    let rest: usize = others.iter().skip(NOTICE_EXAMPLES_MAX).map(|(_, images)| images).sum();
    let rest = if rest > 0 { format!(" and {rest} in others") } else { String::new() };
    Some(format!(
        "images of other containerd namespaces are not shared: {}{rest}. Only those of {own} are; import with ctr -n \
         {own} images import, or set --containerd-namespace",
        named.join(", ")
    ))
}

fn without_layers(discarded: usize, total: usize) -> Option<String> {
    (discarded > 0).then(|| {
        format!(
            "{discarded} of {total} images have none of their layers any more, so that this node cannot share them: \
             containerd throws layers away once they are unpacked. Set discard_unpacked_layers = false in its CRI \
             plugin's configuration (containerd 2: [plugins.\"io.containerd.cri.v1.images\"]), and pull them again"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four indexes that name each other a thousand times each would need a thousand million reads.
    #[test]
    fn an_index_that_names_one_manifest_often_has_it_looked_into_once_and_not_without_end() {
        let of = |number: usize| Digest::of(&number.to_le_bytes());
        let mut manifests = Manifests::of(&of(0));
        let mut looked_into = 0;
        while let Some(digest) = manifests.waiting.pop() {
            looked_into += 1;
            let next = (0..4).find(|number| of(*number) == digest).unwrap_or(4) + 1;
            manifests.add(vec![of(next); 1_000]);
            manifests.add(vec![digest, of(0)]);
        }
        assert_eq!(looked_into, 6);
        manifests.add((10..10 + 2 * SURVEYED_MANIFESTS_MAX).map(of).collect());
        assert_eq!(manifests.seen.len(), SURVEYED_MANIFESTS_MAX);
    }

    #[test]
    fn what_is_not_shared_is_counted_and_said_with_what_to_set() {
        let others = |of: &[(&str, usize)]| {
            let others: Vec<_> = of.iter().map(|(name, images)| ((*name).to_owned(), *images)).collect();
            elsewhere(&others, "k8s.io")
        };
        assert_eq!(others(&[]), None);
        assert_eq!(others(&[("default", 0)]), None, "a namespace without images is no matter");
        let text = others(&[("a", 1), ("default", 12), ("b", 1), ("moby", 3), ("c", 1)]).unwrap();
        assert!(text.contains("12 in default, 3 in moby, 1 in a and 2 in others"), "{text}");
        assert!(text.contains("ctr -n k8s.io images import"), "{text}");
        assert_eq!(without_layers(0, 9), None);
        let text = without_layers(2, 9).unwrap();
        assert!(
            text.starts_with("2 of 9 images") && text.contains("discard_unpacked_layers = false"),
            "{text}"
        );
    }
}
