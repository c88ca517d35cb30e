//! A model of containerd's fetcher: hosts in order, what is resumed and retried, parallel ranges, the limiter
//! of downloads, and the ingest. Each rule cites the file, line or function and version of containerd
//! that it was read from; nothing is copied.
//!
//! Three families: 1.6 (read at 1.6.20), 2.1–2.2 (read at 2.1.4, the strictest of them) and 2.3+ (read at
//! 2.3.4; 2.4.0-beta.0 changes none of these rules).

pub mod fetcher;
mod parallel;
mod retries;
mod seeker;
mod store;
mod transport;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

pub use fetcher::{Host, SLOTS};
pub use retries::HostError;
pub use store::Store;

use fetcher::Fetcher;
use seeker::{Read, Seeker};
use store::Writer;
use transport::ReadError;

/// 1.6.20 and 2.1.4 `content/helpers.go`: the pooled buffer, filled before each write (`ReadAtLeast`).
const COPY_BYTES: usize = 1 << 20;

/// A family of containerd versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1_6,
    V2_1,
    V2_3,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::V1_6, Self::V2_1, Self::V2_3];

    pub fn name(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6",
            Self::V2_1 => "2.1",
            Self::V2_3 => "2.3",
        }
    }

    /// 2.3.0 `core/remotes/docker/registry.go:267`; none before.
    pub fn header_timeout(self) -> Option<Duration> {
        (self == Self::V2_3).then_some(Duration::from_secs(30))
    }
}

/// One daemon.
#[derive(Clone, Debug)]
pub struct Containerd {
    fetcher: Arc<Fetcher>,
    pub store: Arc<Store>,
}

/// One request of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Index into the hosts.
    pub host: usize,
    pub method: &'static str,
    /// `bytes=N-`
    pub range: Option<String>,
    /// A status, or an error.
    pub outcome: String,
}

/// What a pull did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Body bytes read from each host.
    pub bytes: Vec<u64>,
    pub attempts: Vec<Attempt>,
}

/// A pull that failed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct PullError {
    pub reason: String,
    pub outcome: Outcome,
}

/// What a HEAD said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub digest: String,
    pub size: u64,
    /// Index into the hosts.
    pub host: usize,
}

/// What is noted during a pull.
#[derive(Debug)]
pub struct Trace {
    bytes: Vec<Arc<AtomicU64>>,
    attempts: Mutex<Vec<Attempt>>,
}

impl Trace {
    fn new(hosts: usize) -> Self {
        Self { bytes: (0..hosts).map(|_| Arc::default()).collect(), attempts: Mutex::default() }
    }

    fn outcome(&self) -> Outcome {
        Outcome { bytes: self.bytes_by_host(), attempts: self.attempts.lock().unwrap().clone() }
    }
}

impl Containerd {
    /// A daemon with an empty store; the registry is the last of `hosts`. `chunk_bytes` is
    /// `concurrent_layer_fetch_buffer`, 0 by default and unknown to 1.6.
    pub fn new(version: Version, hosts: Vec<Host>, chunk_bytes: u64) -> Self {
        Self::with_slots(version, hosts, chunk_bytes, SLOTS)
    }

    /// With another `max_concurrent_downloads`.
    pub fn with_slots(version: Version, hosts: Vec<Host>, chunk_bytes: u64, slots: usize) -> Self {
        Self::with_all(version, hosts, chunk_bytes, slots, version.header_timeout())
    }

    /// With another header timeout, too.
    pub fn with_all(
        version: Version,
        hosts: Vec<Host>,
        chunk_bytes: u64,
        slots: usize,
        header_timeout: Option<Duration>,
    ) -> Self {
        assert!(version != Version::V1_6 || chunk_bytes == 0, "1.6 has no parallel fetch");
        let registry = hosts.last().expect("the registry is always there").name.clone();
        let slots = (version != Version::V1_6).then(|| Arc::new(Semaphore::new(slots)));
        let repository = "library/model".to_owned();
        let realms = Mutex::new(HashMap::new());
        let fetcher =
            Fetcher { version, hosts, registry, repository, slots, chunk_bytes, header_timeout, realms };
        Self { fetcher: Arc::new(fetcher), store: Arc::default() }
    }

    /// The same, with the files of its ingests below `root`.
    #[must_use]
    pub fn with_content_root(mut self, root: &Path) -> Self {
        self.store = Arc::new(Store::at(root));
        self
    }

    /// HEAD for a tag or digest.
    pub async fn resolve(&self, object: &str) -> Result<(Resolved, Outcome), HostError> {
        let trace = Trace::new(self.fetcher.hosts.len());
        let resolved = self.fetcher.resolve(object, &trace).await?;
        Ok((resolved, trace.outcome()))
    }

    /// 1.6.20 `remotes/handlers.go:109` `fetch`, 2.1.4 `core/remotes/handlers.go:114` `Fetch`.
    pub async fn pull_blob(&self, digest: &str, size: u64) -> Result<Outcome, PullError> {
        let trace = Arc::new(Trace::new(self.fetcher.hosts.len()));
        match self.pull(digest, size, &trace).await {
            Ok(()) => Ok(trace.outcome()),
            Err(reason) => Err(PullError { reason, outcome: trace.outcome() }),
        }
    }

    async fn pull(&self, digest: &str, size: u64, trace: &Arc<Trace>) -> Result<(), String> {
        let Some(writer) = self.store.writer(digest, size).await else { return Ok(()) };
        // `handlers.go:132`: a complete ingest is committed without one request, right or wrong.
        if writer.offset() == size {
            let committed = self.store.commit(writer, size, digest);
            return committed.map_err(|error| format!("failed commit on ref: {error}"));
        }
        let seeker = Seeker::new(Arc::clone(&self.fetcher), Arc::clone(trace), digest, size);
        self.copy(writer, seeker, size, digest).await
    }

    /// 1.6.20 `content/helpers.go:140` `Copy`.
    async fn copy(
        &self,
        mut writer: Writer,
        mut seeker: Seeker,
        size: u64,
        digest: &str,
    ) -> Result<(), String> {
        let start = writer.offset();
        if start > 0 {
            seeker.seek(start);
        }
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let (count, end) = read_at_least(&mut seeker, &mut buffer).await;
            // `helpers.go:299`: what was read before an error is written.
            writer.write(&buffer[..count]);
            match end {
                None => {}
                // `helpers.go:317`: an unexpected EOF ends the copy like an EOF …
                Some(Ok(()) | Err(ReadError::UnexpectedEof)) => break,
                Some(Err(error)) => return Err(format!("failed to copy: {error}")),
            }
        }
        // … and `helpers.go:172` finds the bytes missing.
        let copied = writer.offset() - start;
        if copied < size.saturating_sub(start) {
            return Err(format!("failed to read expected number of bytes: {copied} of {}", size - start));
        }
        self.store.commit(writer, size, digest).map_err(|error| format!("failed commit on ref: {error}"))
    }
}

/// Go's `io.ReadAtLeast` for a whole buffer: how much, and the end if it came before.
async fn read_at_least(seeker: &mut Seeker, buffer: &mut [u8]) -> (usize, Option<Result<(), ReadError>>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match seeker.read(&mut buffer[filled..]).await {
            Ok(Read::Bytes(count)) => filled += count,
            Ok(Read::End) => return (filled, Some(Ok(()))),
            Err(error) => return (filled, Some(Err(error))),
        }
    }
    (filled, None)
}
