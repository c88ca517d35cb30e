//! Reports to the servers which holders could not be reached, so that other nodes are not sent to them.
//! Reports are sent in the background, with best effort: a pull never waits for one, and a lost report costs
//! another node one failed connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::address::own::OwnAddress;
use crate::api::client::{Client, ClientError};
use crate::api::{ReportReason, ReportRequest};
use crate::limits::{REPORT_AGAIN_AFTER, REPORT_TIMEOUT, REPORTS_QUEUED_MAX, REPORTS_REMEMBERED_MAX};
use crate::task::Stop;

/// Takes reports. A trait, so that tests can take the place of the servers.
pub(crate) trait TakesReports: Send + Sync + 'static {
    /// Sends one report, within [`REPORT_TIMEOUT`].
    fn send<'a>(&'a self, request: &'a ReportRequest) -> BoxFuture<'a, Result<(), ClientError>>;
}

impl TakesReports for Client {
    fn send<'a>(&'a self, request: &'a ReportRequest) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async move { self.report(request, REPORT_TIMEOUT).await.map(|_| ()) })
    }
}

/// Creates a reporter, and the task that sends for it. `host` is this node's own blob server.
pub(crate) fn channel(servers: impl TakesReports, host: OwnAddress, group: String) -> (Reporter, Reports) {
    let (queue, queued) = mpsc::channel(REPORTS_QUEUED_MAX);
    let said = Said::default();
    let reporter = Reporter { queue, said: Arc::clone(&said) };
    (reporter, Reports { servers: Box::new(servers), host, group, queued, said })
}

/// What is reported once per [`REPORT_AGAIN_AFTER`]. A holder that cannot be reached is the same for all
/// keys; wrong bytes belong to one key.
type Subject = (SocketAddr, ReportReason, Option<String>);

/// When each subject was reported last.
type Said = Arc<Mutex<HashMap<Subject, Instant>>>;

fn lock(said: &Said) -> MutexGuard<'_, HashMap<Subject, Instant>> {
    said.lock().expect("nothing panics with it in hand")
}

struct Report {
    holder: SocketAddr,
    key: String,
    reason: ReportReason,
}

impl Report {
    fn subject(&self) -> Subject {
        let key = (self.reason == ReportReason::Wrong).then(|| self.key.clone());
        (self.holder, self.reason, key)
    }
}

/// Takes reports from fetches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Report>,
    said: Said,
}

impl Reporter {
    /// Reports that `holder` was asked for `key` with this result. Never waits; a report that finds the queue
    /// full is dropped, and may be made again.
    pub(crate) fn report(&self, holder: SocketAddr, key: &str, reason: ReportReason) {
        let report = Report { holder, key: key.to_owned(), reason };
        if !self.is_news(report.subject()) {
            return;
        }
        if let Err(error) = self.queue.try_send(report) {
            let (mpsc::error::TrySendError::Full(report) | mpsc::error::TrySendError::Closed(report)) = error;
            lock(&self.said).remove(&report.subject());
            count(reason, "dropped");
        }
    }

    fn is_news(&self, subject: Subject) -> bool {
        let now = Instant::now();
        let mut said = lock(&self.said);
        if said.len() >= REPORTS_REMEMBERED_MAX {
            said.retain(|_, at| now.duration_since(*at) < REPORT_AGAIN_AFTER);
        }
        let full = said.len() >= REPORTS_REMEMBERED_MAX;
        match said.entry(subject) {
            Entry::Occupied(at) if now.duration_since(*at.get()) < REPORT_AGAIN_AFTER => false,
            Entry::Occupied(mut at) => {
                at.insert(now);
                true
            }
            Entry::Vacant(_) if full => false,
            Entry::Vacant(vacant) => {
                vacant.insert(now);
                true
            }
        }
    }
}

/// The task that sends reports, one after the other.
pub(crate) struct Reports {
    servers: Box<dyn TakesReports>,
    host: OwnAddress,
    group: String,
    queued: mpsc::Receiver<Report>,
    said: Said,
}

impl Reports {
    /// Sends until `stop`. Reports that are still queued then are dropped.
    pub(crate) async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        while let Some(Some(report)) = stop.run_until_cancelled(self.queued.recv()).await {
            if stop.run_until_cancelled(self.send(report)).await.is_none() {
                break;
            }
        }
        // Without reporters there is nothing to send, which happens only while the agent stops.
        stop.cancelled().await;
        Ok(())
    }

    async fn send(&self, report: Report) {
        let Some(host) = self.host.now() else {
            // Servers take only reports that name both nodes.
            lock(&self.said).remove(&report.subject());
            return count(report.reason, "dropped");
        };
        let request = ReportRequest {
            host: host.to_string(),
            holder: report.holder.to_string(),
            group: self.group.clone(),
            key: report.key.clone(),
            reason: report.reason,
        };
        match self.servers.send(&request).await {
            Ok(()) => {
                tracing::info!(
                    holder = %report.holder,
                    key = report.key,
                    reason = report.reason.as_str(),
                    "reported a holder"
                );
                count(report.reason, "sent");
            }
            // A refusal holds for a while: the server does not know the holder, or takes no reports.
            Err(error @ ClientError::Refused { .. }) => {
                tracing::debug!(holder = %report.holder, %error, "a report was refused");
                count(report.reason, "refused");
            }
            Err(error) => {
                tracing::debug!(holder = %report.holder, %error, "could not report a holder");
                lock(&self.said).remove(&report.subject());
                count(report.reason, "failed");
            }
        }
    }
}

fn count(reason: ReportReason, outcome: &'static str) {
    ::metrics::counter!("piccolo_reports_total", "reason" => reason.as_str(), "outcome" => outcome)
        .increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_util::task::TaskTracker;

    /// Servers that take reports, or are away.
    #[derive(Clone, Default)]
    struct Servers(Arc<Mutex<(Vec<ReportRequest>, bool)>>);

    impl Servers {
        fn taken(&self) -> Vec<ReportRequest> {
            self.0.lock().unwrap().0.clone()
        }

        fn set_away(&self, away: bool) {
            self.0.lock().unwrap().1 = away;
        }
    }

    impl TakesReports for Servers {
        fn send<'a>(&'a self, request: &'a ReportRequest) -> BoxFuture<'a, Result<(), ClientError>> {
            Box::pin(async move {
                let mut state = self.0.lock().unwrap();
                state.0.push(request.clone());
                if state.1 { Err(ClientError::Unreachable { servers: Vec::new() }) } else { Ok(()) }
            })
        }
    }

    const HOST: &str = "10.0.0.1:7781";

    fn holder(n: u16) -> SocketAddr {
        SocketAddr::new([10, 0, 1, 1].into(), n)
    }

    fn start() -> (Reporter, Servers, Stop, TaskTracker) {
        let servers = Servers::default();
        let (reporter, reports) =
            channel(servers.clone(), HOST.parse::<SocketAddr>().unwrap().into(), "g".to_owned());
        let (stop, tasks) = (Stop::new(), TaskTracker::new());
        tasks.spawn(reports.run(stop.clone()));
        (reporter, servers, stop, tasks)
    }

    /// With paused time this returns after everything that can run has run.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_arrives_once_for_each_holder_and_reason_in_a_minute() {
        let (reporter, servers, stop, tasks) = start();
        for key in ["a", "b", "c"] {
            reporter.report(holder(1), key, ReportReason::Unreachable);
        }
        reporter.report(holder(1), "a", ReportReason::Silent);
        reporter.report(holder(2), "a", ReportReason::Unreachable);
        settle().await;
        let expected = |n, key: &str, reason| ReportRequest {
            host: HOST.to_owned(),
            holder: holder(n).to_string(),
            group: "g".to_owned(),
            key: key.to_owned(),
            reason,
        };
        assert_eq!(
            servers.taken(),
            [
                expected(1, "a", ReportReason::Unreachable),
                expected(1, "a", ReportReason::Silent),
                expected(2, "a", ReportReason::Unreachable)
            ]
        );
        tokio::time::sleep(REPORT_AGAIN_AFTER).await;
        reporter.report(holder(1), "d", ReportReason::Unreachable);
        settle().await;
        assert_eq!(servers.taken().len(), 4);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_bytes_are_reported_for_each_key() {
        let (reporter, servers, stop, _tasks) = start();
        for key in ["a", "b", "a"] {
            reporter.report(holder(1), key, ReportReason::Wrong);
        }
        settle().await;
        let keys: Vec<_> = servers.taken().into_iter().map(|request| request.key).collect();
        assert_eq!(keys, ["a", "b"]);
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_arrive_may_be_said_again_at_once() {
        let (reporter, servers, stop, _tasks) = start();
        servers.set_away(true);
        reporter.report(holder(1), "a", ReportReason::Broken);
        settle().await;
        servers.set_away(false);
        reporter.report(holder(1), "a", ReportReason::Broken);
        settle().await;
        reporter.report(holder(1), "a", ReportReason::Broken);
        settle().await;
        assert_eq!(servers.taken().len(), 2);
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn queue_and_memory_are_bounded_and_a_report_never_waits() {
        let servers = Servers::default();
        // The task is not started, so that nothing is sent.
        let (reporter, reports) =
            channel(servers.clone(), HOST.parse::<SocketAddr>().unwrap().into(), "g".to_owned());
        for n in 1..=(REPORTS_QUEUED_MAX as u16 + 100) {
            reporter.report(holder(n), "a", ReportReason::Unreachable);
        }
        assert_eq!(lock(&reporter.said).len(), REPORTS_QUEUED_MAX, "what was dropped is not taken for said");
        let (stop, tasks) = (Stop::new(), TaskTracker::new());
        tasks.spawn(reports.run(stop.clone()));
        for n in 1..=(REPORTS_REMEMBERED_MAX as u16 + 100) {
            reporter.report(holder(n), "a", ReportReason::Unreachable);
            settle().await;
        }
        assert_eq!(lock(&reporter.said).len(), REPORTS_REMEMBERED_MAX);
        assert_eq!(servers.taken().len(), REPORTS_REMEMBERED_MAX);
        tokio::time::sleep(REPORT_AGAIN_AFTER).await;
        reporter.report(holder(60_000), "a", ReportReason::Unreachable);
        assert_eq!(lock(&reporter.said).len(), 1, "what is old is forgotten");
        stop.cancel();
    }
}
