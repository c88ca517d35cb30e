//! Finds the holders of a key. A circuit breaker opens when no server answers: then no request waits for the
//! servers until one of them is seen to answer again (I4).

#[cfg(test)]
mod far_tests;
mod flight;
pub(crate) mod holder_reports;
pub(crate) mod home_cluster;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::address::own::OwnAddress;
use super::backoff::Backoff;
use crate::api::client::{Client, ClientError, Timeouts};
use crate::api::flight::{FlightSources, INTENT_FETCH};
use crate::api::{FindQuery, FindResponse};
use crate::limits::{
    BREAKER_PROBE_PAUSE, CANDIDATES, FETCH_AFTER_FAR_LOOKUP, LOOKUP_TIMEOUT_FAR_MAX, LOOKUPS_CONCLUSIVE,
    RESOLVE_TIMEOUT_DEFAULT,
};
use crate::oci::Digest;
use crate::task::Stop;
pub(crate) use flight::{FlightFound, FlightOffer, FlightQuestion};

/// Finds holders. A trait, so that tests can take the place of the servers.
pub(crate) trait Lookup: Send + Sync + 'static {
    /// Returns the holders of `key`, nearest first, at most `count` of them.
    fn find<'a>(
        &'a self,
        key: &'a str,
        count: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, LookupError>>;

    /// Returns the holders of `key`, at most `count` of them, and the nodes that have a part of it; registers this
    /// node as one of these. A server that knows no flights answers like [`Self::find`].
    fn find_for_flight<'a>(
        &'a self,
        key: &'a str,
        count: usize,
        _: FlightQuestion,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<FlightFound, LookupError>> {
        let find = self.find(key, count, deadline);
        Box::pin(async move { Ok(FlightFound { holders: find.await?, flight: None }) })
    }

    /// Time limits of a lookup at the servers' distance.
    fn timeouts(&self) -> Timeouts {
        Timeouts::of(Some(Duration::ZERO))
    }
}

/// Why a lookup has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// No server answered, or none of those that did could serve.
    #[error("no server answered: {0}")]
    NoServer(ClientError),
    /// No server answered within the time of this lookup.
    #[error("no server answered: nothing within {} ms", within.as_millis())]
    Late {
        /// How long the lookup had.
        within: Duration,
    },
    /// The breaker is open: the servers are not asked.
    #[error("no server answered: none has answered since the last lookup")]
    BreakerOpen,
    /// A server answered, but not with holders.
    #[error("could not find holders: {0}")]
    Failed(ClientError),
}

impl LookupError {
    /// Whether no server answered.
    fn is_unanswered(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

/// Whether any server answered a lookup.
fn is_answered<T>(found: &Result<T, LookupError>) -> bool {
    !found.as_ref().is_err_and(LookupError::is_unanswered)
}

/// The discovery servers, asked on behalf of one agent.
pub(crate) struct Servers {
    pub(crate) client: Client,
    pub(crate) group: String,
    /// Address of this agent's own blob server, which is removed from the results.
    pub(crate) own: OwnAddress,
}

impl Lookup for Servers {
    fn find<'a>(
        &'a self,
        key: &'a str,
        count: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, LookupError>> {
        Box::pin(async move {
            let found = self.ask(&self.query(key, count), deadline).await?;
            Ok(found.map_or_else(Vec::new, |found| self.usable(&found.holders, count)))
        })
    }

    fn find_for_flight<'a>(
        &'a self,
        key: &'a str,
        count: usize,
        question: FlightQuestion,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<FlightFound, LookupError>> {
        Box::pin(async move {
            let FlightQuestion { have_bytes, transfer, begins, is_starved, lost, owes, attempt } = question;
            let query = FindQuery {
                intent: Some(INTENT_FETCH.to_owned()),
                have: Some(have_bytes),
                transfer: Some(transfer),
                begins: begins.then_some(true),
                starved: is_starved.then_some(true),
                lost: lost.map(|lost| lost.to_string()),
                owes: Some(owes),
                attempt,
                ..self.query(key, count)
            };
            let Some(found) = self.ask(&query, deadline).await? else { return Ok(FlightFound::default()) };
            let holders = self.usable(&found.holders, count);
            let flight = found.flight.map(|flight| {
                let FlightSources { mut partial, fetcher, claim, came, attempt } = flight;
                partial.retain(|address| Some(address) != fetcher.as_ref());
                let known = self.usable(fetcher.as_slice(), 1).pop();
                partial.extend(fetcher);
                let partial = self.usable(&partial, usize::MAX);
                FlightOffer { partial, fetcher: known, claim, came, attempt }
            });
            Ok(FlightFound { holders, flight })
        })
    }

    fn timeouts(&self) -> Timeouts {
        self.client.timeouts()
    }
}

impl Servers {
    fn query(&self, key: &str, count: usize) -> FindQuery {
        FindQuery {
            key: key.to_owned(),
            group: self.group.clone(),
            count: Some(i64::try_from(count).unwrap_or(i64::MAX)),
            request_host: self.own.now().map(|own| own.to_string()),
            ..FindQuery::default()
        }
    }

    async fn ask(&self, query: &FindQuery, deadline: Duration) -> Result<Option<FindResponse>, LookupError> {
        match self.client.find(query, deadline).await {
            Ok(found) => Ok(found),
            // Servers that cannot serve count as silent: the others were asked as well.
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Unavailable { .. })) => {
                Err(LookupError::NoServer(error))
            }
            Err(error) => Err(LookupError::Failed(error)),
        }
    }

    /// Parses holders. A bad one does not spoil the others (fault B8 of the Go version).
    fn usable(&self, holders: &[String], count: usize) -> Vec<SocketAddr> {
        let parsed = holders.iter().filter_map(|holder| holder.parse::<SocketAddr>().ok());
        let own = self.own.now();
        let usable =
            |holder: &SocketAddr| holder.port() != 0 && !holder.ip().is_unspecified() && Some(*holder) != own;
        parsed.filter(usable).take(count).collect()
    }
}

/// Lookups at the discovery servers, behind a circuit breaker.
pub(crate) struct HolderLookup {
    lookup: Arc<dyn Lookup>,
    open: AtomicBool,
    opened: Notify,
    /// Consecutive lookups without an answer whose time was too short for a conclusion.
    inconclusive: AtomicUsize,
    /// When a server answered last.
    answered: Mutex<Option<Instant>>,
}

impl HolderLookup {
    pub(crate) fn new(lookup: Arc<dyn Lookup>) -> Self {
        Self {
            lookup,
            open: AtomicBool::new(false),
            opened: Notify::new(),
            inconclusive: AtomicUsize::new(0),
            answered: Mutex::default(),
        }
    }

    /// How long the mirror holds a request: `resolve_timeout`, or longer where a lookup at far servers needs
    /// it, unless the configuration asks for less than the default.
    pub(crate) fn held_for(&self, resolve_timeout: Duration) -> Duration {
        let Timeouts { lookup, far, .. } = self.lookup.timeouts();
        if far && resolve_timeout >= RESOLVE_TIMEOUT_DEFAULT {
            resolve_timeout.max(lookup + FETCH_AFTER_FAR_LOOKUP)
        } else {
            resolve_timeout
        }
    }

    /// The nearest holders of `key`, within `deadline` and the time that a lookup may take at the servers'
    /// distance. While the breaker is open this returns at once.
    pub(crate) async fn find(&self, key: &str, deadline: Duration) -> Result<Vec<SocketAddr>, LookupError> {
        self.find_up_to(CANDIDATES, key, deadline).await
    }

    /// Like [`Self::find`], with up to `count` holders.
    pub(crate) async fn find_up_to(
        &self,
        count: usize,
        key: &str,
        deadline: Duration,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        self.behind_breaker(deadline, |deadline| self.lookup.find(key, count, deadline)).await
    }

    /// Finds who has `key` or a part of it, within `deadline` and the time that a lookup may take at the servers'
    /// distance, and registers this node.
    pub(crate) async fn find_for_flight(
        &self,
        key: &str,
        question: FlightQuestion,
        deadline: Duration,
    ) -> Result<FlightFound, LookupError> {
        let ask = |deadline| self.lookup.find_for_flight(key, CANDIDATES, question, deadline);
        self.behind_breaker(deadline, ask).await
    }

    async fn behind_breaker<'a, T>(
        &'a self,
        deadline: Duration,
        ask: impl FnOnce(Duration) -> BoxFuture<'a, Result<T, LookupError>>,
    ) -> Result<T, LookupError> {
        if self.is_open() {
            return Err(LookupError::BreakerOpen);
        }
        let Timeouts { lookup, conclusive, .. } = self.lookup.timeouts();
        let deadline = deadline.min(lookup);
        let start = Instant::now();
        let found = self.ask(deadline, ask(deadline)).await;
        if let Err(error) = &found
            && error.is_unanswered()
            && self.is_conclusive(deadline, conclusive)
            // An answer to another lookup since then means that this node is slow.
            && self.last_answer().is_none_or(|answered| answered < start)
            && !self.open.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(
                %error,
                "no discovery server answers: images come from the registry until one does"
            );
            ::metrics::gauge!("piccolo_discovery_reachable").set(0.0);
            self.opened.notify_one();
        }
        found
    }

    /// Whether a lookup without an answer is conclusive: one is enough if it had time, short ones need
    /// several in a row.
    fn is_conclusive(&self, deadline: Duration, conclusive: Duration) -> bool {
        deadline >= conclusive || self.inconclusive.fetch_add(1, Ordering::AcqRel) + 1 >= LOOKUPS_CONCLUSIVE
    }

    /// Whether the breaker is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    async fn ask<T>(
        &self,
        deadline: Duration,
        lookup: BoxFuture<'_, Result<T, LookupError>>,
    ) -> Result<T, LookupError> {
        let found = match timeout(deadline, lookup).await {
            Ok(found) => found,
            Err(_) => Err(LookupError::Late { within: deadline }),
        };
        if is_answered(&found) {
            self.inconclusive.store(0, Ordering::Release);
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        found
    }

    fn last_answer(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of the breaker: while the breaker is open, it looks for a server that answers. That delays no
    /// pull, so that it waits as long as for the farthest server.
    pub(crate) async fn watch(&self, stop: Stop) -> Result<(), LookupError> {
        ::metrics::gauge!("piccolo_discovery_reachable").set(1.0);
        // A key that nobody holds, because any answer closes the breaker.
        let nobody_has = Digest::of(b"piccolo breaker probe").to_string();
        loop {
            if stop.run_until_cancelled(self.opened.notified()).await.is_none() {
                return Ok(());
            }
            let mut backoff = Backoff::new(BREAKER_PROBE_PAUSE.0, BREAKER_PROBE_PAUSE.1);
            while self.is_open() {
                let lookup = self.lookup.find(&nobody_has, CANDIDATES, LOOKUP_TIMEOUT_FAR_MAX);
                let found = self.ask(LOOKUP_TIMEOUT_FAR_MAX, lookup).await;
                if is_answered(&found) {
                    self.open.store(false, Ordering::Release);
                    tracing::info!("a discovery server answers again");
                    ::metrics::gauge!("piccolo_discovery_reachable").set(1.0);
                    break;
                }
                let pause = stop.run_until_cancelled(tokio::time::sleep(backoff.next_pause()));
                if pause.await.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOOKUP_TIMEOUT_MAX;

    /// A server that answers nothing until it is told to.
    #[derive(Default)]
    struct Silent {
        answers: AtomicBool,
        asked: AtomicUsize,
    }

    impl Lookup for Silent {
        fn find<'a>(
            &'a self,
            _: &'a str,
            _: usize,
            _: Duration,
        ) -> BoxFuture<'a, Result<Vec<SocketAddr>, LookupError>> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                if !self.answers.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                Ok(Vec::new())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_one_silent_lookup_nobody_waits_until_a_server_answers_again() {
        let servers = Arc::new(Silent::default());
        let discovery = Arc::new(HolderLookup::new(Arc::clone(&servers) as Arc<dyn Lookup>));
        let stop = Stop::new();
        let tasks = tokio_util::task::TaskTracker::new();
        let (watched, stopped) = (Arc::clone(&discovery), stop.clone());
        tasks.spawn(async move { watched.watch(stopped).await });

        let start = Instant::now();
        let found = discovery.find("k", Duration::from_secs(9)).await;
        assert!(matches!(found, Err(LookupError::Late { .. })), "{found:?}");
        assert_eq!(start.elapsed(), LOOKUP_TIMEOUT_MAX);
        let asked = servers.asked.load(Ordering::Relaxed);
        let start = Instant::now();
        for _ in 0..100 {
            assert!(discovery.find("k", Duration::from_secs(9)).await.is_err());
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(servers.asked.load(Ordering::Relaxed), asked);

        servers.answers.store(true, Ordering::Relaxed);
        tokio::time::timeout(Duration::from_secs(3), async {
            while discovery.find("k", Duration::from_secs(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the breaker closes by itself");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_deadline_bounds_the_lookup() {
        let discovery = HolderLookup::new(Arc::<Silent>::default());
        let start = Instant::now();
        assert!(discovery.find("k", Duration::from_millis(30)).await.is_err());
        assert_eq!(start.elapsed(), Duration::from_millis(30));
        assert!(!discovery.is_open(), "so little time says nothing about the servers");
        for _ in 1..LOOKUPS_CONCLUSIVE {
            assert!(discovery.find("k", Duration::from_millis(30)).await.is_err());
        }
        assert!(discovery.is_open(), "several in a row do");
    }

    /// A server that gives `answer` to each request, and the lookup of an agent that knows only this server.
    struct Site {
        discovery: Arc<HolderLookup>,
        asked: Arc<AtomicUsize>,
        stop: Stop,
        tasks: tokio_util::task::TaskTracker,
    }

    impl Site {
        async fn start(answer: String) -> Self {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = format!("http://{}", listener.local_addr().unwrap());
            let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Stop::new());
            let tasks = tokio_util::task::TaskTracker::new();
            let (count, stopped) = (Arc::clone(&asked), stop.clone());
            tasks.spawn(async move {
                let serve = async {
                    loop {
                        let (mut wire, _) = listener.accept().await.unwrap();
                        assert!(wire.read(&mut [0; 4_096]).await.unwrap() > 0);
                        wire.write_all(answer.as_bytes()).await.unwrap();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                };
                stopped.run_until_cancelled(serve).await.unwrap_or(())
            });
            let client = Client::new(vec![server]).unwrap();
            let own = OwnAddress::from(SocketAddr::from(([10, 0, 0, 1], 7781)));
            let servers = Servers { client, group: "g".to_owned(), own };
            let discovery = Arc::new(HolderLookup::new(Arc::new(servers)));
            let (watched, stopped) = (Arc::clone(&discovery), stop.clone());
            tasks.spawn(async move { _ = watched.watch(stopped).await });
            Self { discovery, asked, stop, tasks }
        }

        async fn end(self) {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        }
    }

    /// With two silent servers beside it each lookup would wait for those.
    #[tokio::test]
    async fn a_server_that_cannot_serve_opens_the_breaker_and_does_not_close_it() {
        let answer = "HTTP/1.1 503 Loading\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let site = Site::start(answer.to_owned()).await;
        let found = site.discovery.find("k", Duration::from_secs(9)).await;
        assert!(matches!(found, Err(LookupError::NoServer(_))), "{found:?}");
        assert!(site.discovery.is_open());
        tokio::time::timeout(Duration::from_secs(60), async {
            while site.asked.load(Ordering::Relaxed) < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the breaker looks again");
        assert!(site.discovery.is_open(), "an answer of 503 says that it cannot serve");
        site.end().await;
    }

    /// A server that is behind serves: what it knows is better than nothing.
    #[tokio::test]
    async fn a_server_that_is_behind_does_not_open_the_breaker() {
        let (behind, body) =
            (crate::api::header::BEHIND, r#"{"message":"Didn't find the key k in piccolo"}"#);
        let answer = format!(
            "HTTP/1.1 404 N\r\n{behind}: 1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let site = Site::start(answer).await;
        for _ in 0..5 {
            let found = site.discovery.find("k", Duration::from_secs(9)).await;
            assert!(found.as_ref().is_ok_and(Vec::is_empty), "{found:?}");
            assert!(!site.discovery.is_open());
        }
        site.end().await;
    }

    #[test]
    fn one_bad_holder_spoils_only_itself_and_oneself_is_none() {
        let own = OwnAddress::from(SocketAddr::from(([10, 0, 0, 1], 7781)));
        let client = Client::new(vec!["http://127.0.0.1:1".to_owned()]).unwrap();
        let servers = Servers { client, group: "g".to_owned(), own };
        let holders = ["nonsense", "10.0.0.1:7781", "0.0.0.0:1", "10.0.0.2:0", "[fd00::2]:1", "10.0.0.2:1"];
        let usable = servers.usable(&holders.map(str::to_owned), CANDIDATES);
        assert_eq!(usable, ["[fd00::2]:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()]);
    }
}
