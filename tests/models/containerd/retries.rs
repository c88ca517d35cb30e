//! One request to one host, with containerd's retries before it goes on to the next host.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fetcher::Fetcher;
use super::transport::{self, Request, RequestError, Response};
use super::{Attempt, Trace, Version};

/// Limit of responses: 1.6.20 `remotes/docker/resolver.go:598` and 2.1.4 `resolver.go:732`: `len(responses) >
/// 5`.
const RESPONSES_MAX: usize = 5;
/// Limit of attempts: 2.3.4 `core/remotes/docker/resolver.go:733` `maxAttempts`.
const ATTEMPTS_MAX: usize = 5;
/// Pause before a retry: 2.3.4 `resolver.go:799`.
const TRANSPORT_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Limit of redirects: Go `net/http/client.go` and 1.6.20 `resolver.go:560`: "stopped after 10 redirects".
const REDIRECTS_MAX: usize = 10;
/// Why a host cannot be used; the next one is tried.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    #[error("failed to do request: {0}")]
    Request(#[from] RequestError),
    #[error("failed to authorize: {0}")]
    Authorize(String),
    #[error("unexpected status code {0}")]
    Status(u16),
    #[error("{0}")]
    Answer(String),
}

impl Fetcher {
    /// Sends a request with retries: 1.6.20 `resolver.go:578` `doWithRetries`, 2.1.4 `resolver.go:712`, 2.3.4
    /// `resolver.go:755`.
    pub async fn do_with_retries(
        &self,
        host: usize,
        request: &mut Request,
        last_host: bool,
        trace: &Trace,
    ) -> Result<Response, HostError> {
        let mut attempts = ATTEMPTS_MAX;
        let mut statuses = Vec::new();
        loop {
            let response = self.send_with_retries(host, request, last_host, trace, &mut attempts).await?;
            statuses.push(response.status);
            let allowed = match self.version {
                Version::V1_6 | Version::V2_1 => statuses.len() <= RESPONSES_MAX,
                Version::V2_3 => attempts > 0,
            };
            if !(self.is_retried(host, request, &response, &statuses, last_host)? && allowed) {
                return Ok(response);
            }
        }
    }

    /// 2.3.4 `resolver.go:778` `doWithTransportRetries`: timeouts and EOF are retried at the last host only.
    /// Earlier versions do not retry them.
    async fn send_with_retries(
        &self,
        host: usize,
        request: &mut Request,
        last_host: bool,
        trace: &Trace,
        attempts: &mut usize,
    ) -> Result<Response, HostError> {
        loop {
            let result = self.send_following(host, request, trace).await;
            *attempts = attempts.saturating_sub(1);
            match result {
                Err(HostError::Request(error))
                    if self.version == Version::V2_3
                        && last_host
                        && error.is_transient()
                        && *attempts > 0 =>
                {
                    tokio::time::sleep(TRANSPORT_RETRY_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// Sends a request: 1.6.20 `resolver.go:526` `do`: Go's client follows redirects.
    async fn send_following(
        &self,
        host: usize,
        request: &mut Request,
        trace: &Trace,
    ) -> Result<Response, HostError> {
        self.authorize(host, request).await?;
        let mut address = self.hosts[host].address;
        let mut current = request.clone();
        for _ in 0..=REDIRECTS_MAX {
            let range =
                current.headers.iter().find(|(name, _)| *name == "Range").map(|(_, value)| value.clone());
            let counter = trace.counter(host);
            let host_name = address.to_string();
            let result = transport::send(address, &host_name, &current, self.header_timeout, counter).await;
            let method = current.method;
            let outcome = match &result {
                Ok(response) => response.status.to_string(),
                Err(error) => error.to_string(),
            };
            trace.attempts.lock().unwrap().push(Attempt { host, method, range, outcome });
            let response = result?;
            let location = response
                .header("location")
                .filter(|_| matches!(response.status, 301 | 302 | 303 | 307 | 308));
            let Some(location) = location else { return Ok(response) };
            (address, current.target) = parse_url(location).ok_or(HostError::Status(response.status))?;
        }
        Err(HostError::Answer("stopped after 10 redirects".to_owned()))
    }

    /// `retryRequest`: 1.6.20 `resolver.go:597`, 2.1.4 `resolver.go:731`, 2.3.4 `resolver.go:821`.
    fn is_retried(
        &self,
        host: usize,
        request: &mut Request,
        response: &Response,
        statuses: &[u16],
        last_host: bool,
    ) -> Result<bool, HostError> {
        match response.status {
            401 => self.challenged(host, response, statuses),
            // A registry without HEAD for manifests (1.6.20 `:614`).
            405 if request.method == "HEAD" && request.target.contains("/manifests/") => {
                request.method = "GET";
                Ok(true)
            }
            // 1.6.20 `:621`, 2.1.4 `:755`, 2.3.4 `:842`.
            408 | 429 => Ok(true),
            // 2.1.4 `:757`, 2.3.4 `:844`: at the last host, unless the one before was the same. Never in 1.6.
            500 | 503 | 504 if self.version != Version::V1_6 => {
                let before = statuses.len().checked_sub(2).map(|index| statuses[index]);
                Ok(last_host && before != Some(response.status))
            }
            _ => Ok(false),
        }
    }

    /// 1.6.20 `remotes/docker/authorizer.go:151` `AddResponses`: a bearer challenge is followed without
    /// credentials; another kind of challenge, or none, is not.
    fn challenged(&self, host: usize, response: &Response, statuses: &[u16]) -> Result<bool, HostError> {
        let challenge = response.header("www-authenticate").unwrap_or_default();
        let Some(parameters) = challenge.strip_prefix("Bearer ") else { return Ok(false) };
        let realm = parameters.split(',').find_map(|part| part.trim().strip_prefix("realm="));
        let realm = realm.map(|value| value.trim_matches('"').to_owned());
        let realm =
            realm.ok_or_else(|| HostError::Authorize("no realm specified for token auth".to_owned()))?;
        self.realms.lock().unwrap().insert(host, realm);
        Ok(statuses.len() <= RESPONSES_MAX)
    }

    /// 1.6.20 `authorizer.go:119` `Authorize`: fetches the token of a host that has required one; if that
    /// fails, the host is not asked.
    async fn authorize(&self, host: usize, request: &mut Request) -> Result<(), HostError> {
        let realm = self.realms.lock().unwrap().get(&host).cloned();
        let Some(realm) = realm else { return Ok(()) };
        let failed =
            |reason: &str| HostError::Authorize(format!("failed to fetch anonymous token: {reason}"));
        let (address, target) = parse_url(&realm).ok_or_else(|| failed("bad realm"))?;
        let ask = Request { method: "GET", target, headers: Vec::new() };
        let answer = transport::send(address, &address.to_string(), &ask, None, Default::default()).await;
        let mut answer = answer.map_err(|error| failed(&error.to_string()))?;
        let text = answer.body.text().await.map_err(|error| failed(&error.to_string()))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|_| failed("no JSON"))?;
        let token = json["token"].as_str().ok_or_else(|| failed("no token"))?;
        request.set("Authorization", format!("Bearer {token}"));
        Ok(())
    }
}

/// Address and target of `http://ip:port/…`.
fn parse_url(url: &str) -> Option<(std::net::SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_once('/')?;
    Some((authority.parse().ok()?, format!("/{path}")))
}

impl Trace {
    fn counter(&self, host: usize) -> std::sync::Arc<std::sync::atomic::AtomicU64> {
        std::sync::Arc::clone(&self.bytes[host])
    }

    /// Number of body bytes read from each host.
    pub fn bytes_by_host(&self) -> Vec<u64> {
        self.bytes.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
