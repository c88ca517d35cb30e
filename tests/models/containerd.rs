//! A model of containerd's fetcher: order of hosts, resume and retries, parallel ranges, the limiter of
//! downloads, and the ingest. Each rule cites the file, line or function and version of containerd that it
//! was read from; nothing is copied.
//!
//! Three families: 1.6 (read at 1.6.20), 2.1–2.2 (read at 2.1.4, the strictest of them) and 2.3+ (read at
//! 2.3.4; 2.4.0-beta.0 changes none of these rules).

pub mod fetcher;
mod image;
mod parallel;
mod retries;
mod seeker;
mod store;
mod transport;

use std::collections::HashMap;
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

/// Size of the pooled buffer, filled before each write (`ReadAtLeast`): 1.6.20 and 2.1.4
/// `content/helpers.go`.
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

    /// Timeout of headers: 2.3.0 `core/remotes/docker/registry.go:267`; none in earlier versions.
    pub fn header_timeout(self) -> Option<Duration> {
        (self == Self::V2_3).then_some(Duration::from_secs(30))
    }
}

/// A containerd daemon.
#[derive(Clone, Debug)]
pub struct Containerd {
    fetcher: Arc<Fetcher>,
    pub store: Arc<Store>,
}

/// A request of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Index of the host.
    pub host: usize,
    pub method: &'static str,
    /// `bytes=N-` of the request.
    pub range: Option<String>,
    /// Status, or error.
    pub outcome: String,
}

/// Result of a pull.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Number of body bytes read from each host.
    pub bytes: Vec<u64>,
    pub attempts: Vec<Attempt>,
}

/// Error of a pull.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct PullError {
    pub reason: String,
    pub outcome: Outcome,
}

/// Answer to a HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub digest: String,
    pub size: u64,
    /// Index of the host.
    pub host: usize,
}

/// Records of a pull.
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

    /// A daemon with another `max_concurrent_downloads`.
    pub fn with_slots(version: Version, hosts: Vec<Host>, chunk_bytes: u64, slots: usize) -> Self {
        Self::with_all(version, hosts, chunk_bytes, slots, version.header_timeout())
    }

    /// A daemon with another `max_concurrent_downloads` and timeout of headers.
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

    /// Takes `store` in place of its own.
    #[must_use]
    pub fn with_store(mut self, store: Store) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// Sends a HEAD for a tag or digest.
    pub async fn resolve(&self, object: &str) -> Result<(Resolved, Outcome), HostError> {
        let trace = Trace::new(self.fetcher.hosts.len());
        let resolved = self.fetcher.resolve(object, &trace).await?;
        Ok((resolved, trace.outcome()))
    }

    /// Pulls a blob: 1.6.20 `remotes/handlers.go:109` `fetch`, 2.1.4 `core/remotes/handlers.go:114` `Fetch`.
    pub async fn pull_blob(&self, digest: &str, size: u64) -> Result<Outcome, PullError> {
        let trace = Arc::new(Trace::new(self.fetcher.hosts.len()));
        match self.pull(digest, size, &trace).await {
            Ok(()) => Ok(trace.outcome()),
            Err(reason) => Err(PullError { reason, outcome: trace.outcome() }),
        }
    }

    async fn pull(&self, digest: &str, size: u64, trace: &Arc<Trace>) -> Result<(), String> {
        let Some(writer) = self.store.writer(digest, size).await else { return Ok(()) };
        // `handlers.go:132`: a complete ingest is committed without a request, right or wrong.
        if writer.offset() == size {
            let committed = self.store.commit(writer, size, digest);
            return committed.map_err(|error| format!("failed commit on ref: {error}"));
        }
        let seeker = Seeker::new(Arc::clone(&self.fetcher), Arc::clone(trace), digest, size);
        self.copy(writer, seeker, size, digest).await
    }

    /// Copies a blob into an ingest: 1.6.20 `content/helpers.go:140` `Copy`.
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
            // `helpers.go:299`: bytes that were read before an error are written.
            writer.write(&buffer[..count]);
            match end {
                None => {}
                // `helpers.go:317`: an unexpected EOF ends the copy like an EOF.
                Some(Ok(()) | Err(ReadError::UnexpectedEof)) => break,
                Some(Err(error)) => return Err(format!("failed to copy: {error}")),
            }
        }
        // `helpers.go:172` then detects the missing bytes.
        let copied = writer.offset() - start;
        if copied < size.saturating_sub(start) {
            return Err(format!("failed to read expected number of bytes: {copied} of {}", size - start));
        }
        self.store.commit(writer, size, digest).map_err(|error| format!("failed commit on ref: {error}"))
    }
}

/// Go's `io.ReadAtLeast` for a whole buffer: number of bytes, and the end if it came before.
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
