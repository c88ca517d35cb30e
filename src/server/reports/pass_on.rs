//! Brings a report, or the end of one, to the other servers: once, at the same time, and best effort.
//! Who misses it learns of that holder by the next report, or forgets its own with time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full, Limited};
use piccolo_raft::cluster::Node;
use piccolo_raft::errors::chain;
use piccolo_raft::model::{Holder, Key};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::api::{ReportReason, header, path};
use crate::limits::{
    PASS_ON_ANSWER_BYTES_MAX, REPORT_TIMEOUT, REPORTS_PASSED_ON_AT_ONCE, REPORTS_TO_PASS_ON_MAX,
};
use crate::server::cluster::identity::ClusterIdentity;
use crate::server::cluster::server_client::ServerClient;
use crate::task::Stop;

/// The reason that a server names when it tells another one that a holder is alive; a client cannot name it.
pub const ALIVE: &str = "alive";

/// What the other servers should know.
#[derive(Clone, Debug)]
pub enum News {
    /// A report.
    Report {
        /// Where it came from.
        from: IpAddr,
        /// Who says so.
        host: SocketAddr,
        /// Of whom.
        holder: Holder,
        /// What was asked for.
        key: Key,
        /// What happened.
        reason: ReportReason,
    },
    /// A reported holder was heard of.
    Alive {
        /// Who.
        holder: Holder,
    },
}

impl News {
    fn body(&self) -> Bytes {
        let body = match self {
            News::Report { host, holder: Holder { group, address }, key, reason, .. } => {
                json!({"host": host, "holder": address, "group": group, "key": key.to_string(), "reason": reason})
            }
            News::Alive { holder: Holder { group, address } } => {
                json!({"host": address, "holder": address, "group": group, "key": "-", "reason": ALIVE})
            }
        };
        body.to_string().into()
    }

    /// Whom it comes from: the holder itself is who was heard.
    fn from(&self) -> IpAddr {
        match self {
            News::Report { from, .. } => *from,
            News::Alive { holder } => holder.address.ip(),
        }
    }
}

/// Passes reports on; clones share its permits.
#[derive(Clone)]
pub struct PassOn {
    node: Node,
    identity: ClusterIdentity,
    client: ServerClient,
    /// Ends what is on its way.
    stop: Stop,
    /// Permits for those that wait or are on their way.
    permits: Arc<Semaphore>,
    /// Permits for those on their way.
    under_way: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl PassOn {
    /// Passes on over connections of `client`, until `stop`.
    pub fn new(node: Node, identity: ClusterIdentity, client: ServerClient, stop: Stop) -> Self {
        Self {
            node,
            identity,
            client,
            stop,
            permits: Arc::new(Semaphore::new(REPORTS_TO_PASS_ON_MAX)),
            under_way: Arc::new(Semaphore::new(REPORTS_PASSED_ON_AT_ONCE)),
            tasks: TaskTracker::new(),
        }
    }

    /// Passes `news` on to all other servers, in the background.
    pub fn spread(&self, news: News) {
        let others = self.others();
        if others.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::debug!("too many reports to pass on");
            return;
        };
        let this = self.clone();
        let bring = async move {
            let _permit = permit;
            let _under_way = this.under_way.acquire().await;
            join_all(others.iter().map(|server| this.send(server, &news))).await;
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(bring).await });
    }

    /// Waits for what is on its way; that ends at the stop signal.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// API addresses of the other servers.
    fn others(&self) -> Vec<String> {
        let status = self.node.status();
        let others = status.members.into_iter().filter(|info| info.node_id != status.node_id);
        others.map(|info| info.member.api_address).collect()
    }

    async fn send(&self, server: &str, news: &News) {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{server}{}", path::REPORT))
            .header(CONTENT_TYPE, "application/json")
            .header(header::FORWARDED, "1")
            .header(header::REPORTER, news.from().to_string());
        let request = self.identity.mark_request(request).body(Full::new(news.body()));
        let exchange = async {
            let request = request.map_err(|error| error.to_string())?;
            let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
            let status = answer.status();
            // Read to its end, or the connection could not be used again.
            let body = Limited::new(answer.into_body(), PASS_ON_ANSWER_BYTES_MAX).collect().await;
            body.map_err(|error| error.to_string())?;
            if status.is_success() { Ok(()) } else { Err(status.to_string()) }
        };
        match tokio::time::timeout(REPORT_TIMEOUT, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::debug!(server, reason, "could not pass a report on"),
            Err(_) => tracing::debug!(server, "no answer to a report in time"),
        }
    }
}
