//! A test for each rule of the models, with scripted servers.

mod hosts;
mod ingest;
mod parallel;
mod resume;
mod retries;

use std::sync::Arc;

use crate::blob::Blob;
use crate::containerd::{Containerd, Host, Outcome, Version};
use crate::scripted::{Asked, Part, Script, Scripted, good, honest, promise};

/// A mirror, a registry after it, and a daemon that pulls from both.
struct Pair {
    blob: Blob,
    mirror: Scripted,
    registry: Scripted,
}

impl Pair {
    /// A pair whose registry serves the blob correctly.
    async fn new(size: u64, mirror: impl Fn(&Blob) -> Script) -> Self {
        Self::with(size, mirror, good).await
    }

    async fn with(size: u64, mirror: impl Fn(&Blob) -> Script, registry: impl Fn(&Blob) -> Script) -> Self {
        let blob = Blob::new(size);
        let mirror = Scripted::start("127.0.0.1", mirror(&blob)).await;
        let registry = Scripted::start("127.0.0.1", registry(&blob)).await;
        Self { blob, mirror, registry }
    }

    fn hosts(&self) -> Vec<Host> {
        vec![Host::at(self.mirror.address), Host::at(self.registry.address)]
    }

    fn daemon(&self, version: Version) -> Containerd {
        Containerd::new(version, self.hosts(), 0)
    }

    async fn pull(&self, daemon: &Containerd) -> Result<Outcome, String> {
        let result = daemon.pull_blob(&self.blob.digest, self.blob.size()).await;
        assert_eq!(result.is_ok(), daemon.store.holds(&self.blob.digest));
        result.map_err(|error| error.to_string())
    }
}

/// A script made of a closure over the blob.
fn script(
    f: impl Fn(&Blob, &Asked) -> Vec<Part> + Clone + Send + Sync + 'static,
) -> impl Fn(&Blob) -> Script {
    move |blob| {
        let (blob, f) = (blob.clone(), f.clone());
        Arc::new(move |asked: &Asked| f(&blob, asked))
    }
}

/// Headers and the bytes up to `until`, then `end`; a correct answer if the range lies before.
fn up_to(blob: &Blob, asked: &Asked, until: u64, end: Part) -> Vec<Part> {
    let (head, body) = promise(blob, asked);
    let (from, to) = body.expect("a GET inside the blob");
    if to <= until {
        return honest(blob, asked);
    }
    let mut parts = vec![Part::Head(head)];
    parts.extend(blob.slice(from, until).into_iter().map(Part::Body));
    parts.push(end);
    parts
}

/// Host and range of each request of a pull.
fn route(outcome: &Outcome) -> Vec<(usize, Option<String>)> {
    outcome.attempts.iter().map(|attempt| (attempt.host, attempt.range.clone())).collect()
}

fn range(from: u64) -> Option<String> {
    Some(format!("bytes={from}-"))
}
