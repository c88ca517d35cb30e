//! `dockerFetcher`: which host gets which request, and what of its answer is used.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::parallel::Parallel;
use super::retries::HostError;
use super::transport::{Body, ReadError, Request, Response};
use super::{Resolved, Trace, Version};

/// 2.1.4 `core/remotes/docker/fetcher.go:441` `minChunkSize`, bytes.
const CHUNK_BYTES_MIN: u64 = 512;
/// `max_concurrent_downloads`: 2.1.4 `internal/cri/config/config_unix.go:34`, 3 by default.
pub const SLOTS: usize = 3;

/// One entry of hosts.toml; the registry itself is the last.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: SocketAddr,
    /// `host:port`; a request to the host with the registry's name has no `ns`.
    pub name: String,
}

impl Host {
    pub fn at(address: SocketAddr) -> Self {
        Self { address, name: address.to_string() }
    }
}

/// Configuration and state of a pull's requests.
#[derive(Debug)]
pub struct Fetcher {
    pub version: Version,
    pub hosts: Vec<Host>,
    /// Name of the registry, as in the image's reference.
    pub registry: String,
    pub repository: String,
    /// Slots of the whole daemon (2.1.4 `internal/cri/server/images/service.go:114`); absent in 1.6, where
    /// `max_concurrent_downloads` limits the layers of one image before they are fetched.
    pub slots: Option<Arc<Semaphore>>,
    /// `concurrent_layer_fetch_buffer`; 0 (the default): no parallel fetch.
    pub chunk_bytes: u64,
    /// Go's `Transport.ResponseHeaderTimeout`.
    pub header_timeout: Option<Duration>,
    /// Token endpoints of hosts that have required a token.
    pub realms: Mutex<HashMap<usize, String>>,
}

/// A response body that is being read, with its slot.
#[derive(Debug)]
pub enum Opened {
    Single { body: Body, _slot: Option<OwnedSemaphorePermit> },
    Parallel(Parallel),
}

impl Opened {
    pub async fn read(&mut self, target: &mut [u8]) -> Result<usize, ReadError> {
        match self {
            Self::Single { body, .. } => body.read(target).await,
            Self::Parallel(parallel) => parallel.read(target).await,
        }
    }
}

impl Fetcher {
    /// Opens a response of the hosts in their order, whatever their capabilities (1.6.20 `fetcher.go:125`,
    /// 2.1.4 `fetcher.go:302`); the first error is the reported one.
    pub async fn open(
        self: &Arc<Self>,
        digest: &str,
        offset: u64,
        trace: &Arc<Trace>,
    ) -> Result<Opened, HostError> {
        let mut first = None;
        for host in 0..self.hosts.len() {
            let request = self.request(host, "GET", &format!("blobs/{digest}"));
            let opened = match self.version {
                Version::V1_6 => self.open_1_6(host, request, offset, trace).await,
                Version::V2_1 | Version::V2_3 => self.open_2(host, request, offset, trace).await,
            };
            match opened {
                Ok(opened) => return Ok(opened),
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        Err(first.unwrap_or_else(|| HostError::Answer("no pull hosts".to_owned())))
    }

    /// A request. 1.6.20 `resolver.go:460` `request` and `:494` `addNamespace`: with `ns` if the host is not
    /// the registry itself (`registry.go:79` `isProxy`).
    pub fn request(&self, host: usize, method: &'static str, object: &str) -> Request {
        let mut target = format!("/v2/{}/{object}", self.repository);
        if self.hosts[host].name != self.registry {
            target.push_str(&format!("?ns={}", self.registry.replace(':', "%3A")));
        }
        let mut request = Request { method, target, headers: Vec::new() };
        request.set("User-Agent", format!("containerd/{}", self.version.name()));
        request.set("Accept", "application/vnd.oci.image.layer.v1.tar, */*".to_owned());
        request
    }

    fn is_last(&self, host: usize) -> bool {
        host + 1 == self.hosts.len()
    }

    /// Opens a response: 1.6.20 `remotes/docker/fetcher.go:154` `open`.
    async fn open_1_6(
        &self,
        host: usize,
        mut request: Request,
        offset: u64,
        trace: &Trace,
    ) -> Result<Opened, HostError> {
        if offset > 0 {
            request.set("Range", format!("bytes={offset}-"));
        }
        let mut response = self.do_with_retries(host, &mut request, self.is_last(host), trace).await?;
        check_status(&response)?;
        check_identity(&response)?;
        if offset > 0 {
            // `:190`: for any status a Content-Range must match; without one the prefix is discarded.
            match response.header("content-range") {
                Some(range) => check_content_range(range, offset)?,
                None => response.body.discard(offset).await.map_err(not_discarded)?,
            }
        }
        Ok(Opened::Single { body: response.body, _slot: None })
    }

    /// Opens a response: 2.1.4 `core/remotes/docker/fetcher.go:440` `open`, 2.3.4 `fetcher.go:442`.
    async fn open_2(
        self: &Arc<Self>,
        host: usize,
        mut request: Request,
        offset: u64,
        trace: &Arc<Trace>,
    ) -> Result<Opened, HostError> {
        let mut parallelism = if self.chunk_bytes < CHUNK_BYTES_MIN { 1 } else { SLOTS as u64 };
        request.set("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5".to_owned());
        if parallelism > 1 || offset > 0 {
            request.set("Range", format!("bytes={offset}-"));
        }
        // 2.1.4 `:459`: a slot for each host's attempt; an error releases it before the next host.
        let slot = self.acquire().await;
        let mut response = self.do_with_retries(host, &mut request, self.is_last(host), trace).await?;
        check_status(&response)?;
        check_identity(&response)?;
        let length = response.content_length().unwrap_or(0);
        let ignored = self.check_offset(&mut response, offset, parallelism).await?;
        let mut remaining = length;
        if ignored {
            // 2.1.4 `:467` logs and continues with one connection; 2.2.7 `:472` counts the remaining bytes.
            parallelism = 1;
            remaining = length.saturating_sub(offset);
        }
        if parallelism == 1 || remaining <= self.chunk_bytes {
            return Ok(Opened::Single { body: response.body, _slot: slot });
        }
        let parts = (response.body, slot, request, host);
        Ok(Opened::Parallel(Parallel::start(Arc::clone(self), Arc::clone(trace), parts, offset, remaining)))
    }

    /// `withOffsetCheck`. 2.1.4 `resolver.go:662`: offset 0 is not checked, not even in parallel mode (a host
    /// that ignores ranges then delivers garbage); 2.1.9, 2.2.0 and 2.3.4 `resolver.go:702` check it. The
    /// Content-Range of a 206 is not checked. Returns whether the range was ignored.
    async fn check_offset(
        &self,
        response: &mut Response,
        offset: u64,
        parallelism: u64,
    ) -> Result<bool, HostError> {
        let unchecked = match self.version {
            Version::V2_3 => parallelism <= 1 && offset == 0,
            Version::V1_6 | Version::V2_1 => offset == 0,
        };
        if unchecked || response.status == 206 {
            return Ok(false);
        }
        if let Some(range) = response.header("content-range") {
            check_content_range(range, offset)?;
            return Ok(false);
        }
        response.body.discard(offset).await.map_err(not_discarded)?;
        Ok(true)
    }

    /// Waits for a slot: 2.1.4 `resolver.go:477` `Acquire`, first come, first served.
    pub async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        let slots = Arc::clone(self.slots.as_ref()?);
        Some(slots.acquire_owned().await.expect("the limiter is never closed"))
    }

    /// Resolves a tag or digest with HEAD: 1.6.20 `resolver.go:221` `Resolve`. A digest is requested under
    /// `manifests/` at every host first, then under `blobs/` (`:246`). Without `Docker-Content-Digest` a GET
    /// of the same host follows (`:327`).
    pub async fn resolve(&self, object: &str, trace: &Trace) -> Result<Resolved, HostError> {
        let is_digest = object.starts_with("sha256:");
        let kinds: &[&str] = if is_digest { &["manifests", "blobs"] } else { &["manifests"] };
        let mut first = None;
        for kind in kinds {
            for host in 0..self.hosts.len() {
                match self
                    .resolve_at(host, &format!("{kind}/{object}"), is_digest.then_some(object), trace)
                    .await
                {
                    Ok(resolved) => return Ok(resolved),
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
        }
        Err(first.unwrap_or_else(|| HostError::Answer("no resolve hosts".to_owned())))
    }

    async fn resolve_at(
        &self,
        host: usize,
        object: &str,
        known: Option<&str>,
        trace: &Trace,
    ) -> Result<Resolved, HostError> {
        let mut request = self.request(host, "HEAD", object);
        let response = self.do_with_retries(host, &mut request, self.is_last(host), trace).await?;
        check_status(&response)?;
        let size = response.content_length();
        let digest = known.or_else(|| response.header("docker-content-digest"));
        if let (Some(digest), Some(size)) = (digest, size) {
            return Ok(Resolved { digest: digest.to_owned(), size, host });
        }
        let mut request = self.request(host, "GET", object);
        let mut response = self.do_with_retries(host, &mut request, self.is_last(host), trace).await?;
        check_status(&response)?;
        let text = response.body.text().await.map_err(|error| HostError::Answer(error.to_string()))?;
        let digest = piccolo::oci::Digest::of(text.as_bytes()).to_string();
        Ok(Resolved { digest, size: text.len() as u64, host })
    }
}

/// Checks the status: 1.6.20 `fetcher.go:174`, 2.1.4 `resolver.go:649` `withErrorCheck`.
pub fn check_status(response: &Response) -> Result<(), HostError> {
    if response.status > 299 { Err(HostError::Status(response.status)) } else { Ok(()) }
}

/// A mirror must send no encoding that containerd would decode (2.1.4 `fetcher.go:584`): the digest is that
/// of the stored bytes.
fn check_identity(response: &Response) -> Result<(), HostError> {
    match response.header("content-encoding") {
        None | Some("identity" | "") => Ok(()),
        Some(encoding) => Err(HostError::Answer(format!("content encoding {encoding}"))),
    }
}

fn check_content_range(range: &str, offset: u64) -> Result<(), HostError> {
    if range.starts_with(&format!("bytes {offset}-")) {
        Ok(())
    } else {
        Err(HostError::Answer(format!("unhandled content range in response: {range}")))
    }
}

fn not_discarded(error: ReadError) -> HostError {
    HostError::Answer(format!("failed to discard to offset: {error}"))
}
