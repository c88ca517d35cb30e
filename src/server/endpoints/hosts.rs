//! `GET /api/v1/hosts`: the holders, all or those of `?group=`. With `?limit=` the answer is a page, whose
//! `next` is the `after` of the next page; without a limit it is all of them. Either is copied from the index
//! a page at a time, because writers wait for readers of the index; no more than a page is in memory.
//!
//! Each page shows the index at one moment: a host that comes, goes or changes between two pages is shown as
//! it was or as it is, and never twice.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRef, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use piccolo_raft::cluster::Node;
use piccolo_raft::index::{HostRecord, Index};
use piccolo_raft::limits::HOSTS_UNDER_LOCK_MAX;
use piccolo_raft::model::Holder;

use crate::api::{HostStatus, HostsResponse};
use crate::limits::HOSTS_PAGE_MAX;
use crate::server::app::{App, Loaded};
use crate::server::error::{ApiError, FormatError};
use crate::server::headers;
use crate::server::requests::accepted::{group, socket_address};
use crate::server::requests::query::Query;

const _: () = assert!(HOSTS_PAGE_MAX <= HOSTS_UNDER_LOCK_MAX);

/// The parts that a list of hosts uses.
#[derive(Clone)]
pub struct Hosts {
    node: Node,
    index: Index,
}

impl FromRef<App> for Hosts {
    fn from_ref(app: &App) -> Self {
        Self { node: app.node.clone(), index: app.index.clone() }
    }
}

/// A list of hosts, up to where it has been read.
struct Pages {
    index: Index,
    group: Option<String>,
    after: Option<Holder>,
}

/// Answers with a page, or with all hosts.
pub async fn handle(Loaded(hosts): Loaded<Hosts>, incoming: Request) -> Result<Response, ApiError> {
    let Hosts { node, index } = hosts;
    // A server that catches up while the answer is made may lack what it says it has, not the other way
    // round.
    let behind = node.behind().is_some();
    let mut answer = answer(&index, &Query::parse(incoming.uri().query()))?;
    if behind {
        answer.headers_mut().extend([headers::behind()]);
    }
    Ok(answer)
}

fn answer(index: &Index, query: &Query<'_>) -> Result<Response, FormatError> {
    let group = query.text("group").map(group).transpose()?.map(str::to_owned);
    let after = query.text("after").map(cursor).transpose()?;
    let mut pages = Pages { index: index.clone(), group, after };
    let Some(limit) = query.integer::<usize>("limit")? else {
        let (hosts, next) = pages.next(HOSTS_PAGE_MAX);
        return Ok(if next.is_none() { page(hosts, None) } else { all(hosts, pages) });
    };
    if limit == 0 {
        return Err(FormatError::value("limit", "must be a number from 1 on"));
    }
    let (hosts, next) = pages.next(limit.min(HOSTS_PAGE_MAX));
    Ok(page(hosts, next))
}

impl Pages {
    /// The next page, and the host after which the page behind it begins, if there may be one.
    fn next(&mut self, limit: usize) -> (Vec<HostRecord>, Option<Holder>) {
        let hosts = self.index.hosts_after(self.group.as_deref(), self.after.as_ref(), limit);
        let next = hosts.last().filter(|_| hosts.len() == limit).map(|host| host.holder.clone());
        self.after.clone_from(&next);
        (hosts, next)
    }
}

fn page(hosts: Vec<HostRecord>, next: Option<Holder>) -> Response {
    let hosts = hosts.into_iter().map(host_status).collect();
    let next = next.map(|holder| format!("{}/{}", holder.address, holder.group));
    Json(HostsResponse { hosts, next }).into_response()
}

/// The whole list, which begins with `first`: a page is read when the client has taken the one before.
fn all(first: Vec<HostRecord>, pages: Pages) -> Response {
    let pieces = stream::unfold(Some((Some(first), pages)), |left| async {
        let (first, mut pages) = left?;
        let mut piece = Vec::new();
        let hosts = match first {
            Some(first) => {
                piece.extend_from_slice(b"{\"hosts\":[");
                first
            }
            None => {
                let (hosts, _) = pages.next(HOSTS_PAGE_MAX);
                if !hosts.is_empty() {
                    piece.push(b',');
                }
                hosts
            }
        };
        for (position, host) in hosts.into_iter().map(host_status).enumerate() {
            if position > 0 {
                piece.push(b',');
            }
            serde_json::to_writer(&mut piece, &host).expect("memory takes everything");
        }
        let goes_on = pages.after.is_some();
        if !goes_on {
            piece.extend_from_slice(b"]}");
        }
        Some((Ok::<_, Infallible>(Bytes::from(piece)), goes_on.then_some((None, pages))))
    });
    let mut answer = Response::new(Body::from_stream(pieces));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn host_status(record: HostRecord) -> HostStatus {
    HostStatus {
        group: record.holder.group,
        holder: record.holder.address.to_string(),
        zone: record.zone,
        keys: record.count,
        hidden_unix_ms: record.hidden_unix_ms,
    }
}

/// Reads the `next` of an earlier answer.
fn cursor(text: &str) -> Result<Holder, FormatError> {
    let holder = text.split_once('/').and_then(|(address, name)| {
        Some(Holder { address: socket_address(address)?, group: group(name).ok()?.to_owned() })
    });
    holder.ok_or_else(|| FormatError::value("after", "is not the next of an answer to this request"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use futures_util::future::join_all;
    use http_body::Body as _;
    use piccolo_raft::command::{Command, Write};

    use super::*;
    use crate::server::testing::leading_app;

    /// A holder of one of two groups.
    fn holder(n: usize) -> Holder {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n as u32);
        Holder { group: ["a", "b/c"][n % 2].into(), address: (address, 7781).into() }
    }

    async fn app_with_hosts(count: usize) -> Arc<App> {
        let app = leading_app().await;
        let hosts = (0..count).map(|n| {
            let write = Write { holder: holder(n), pair: None, stores_pair: true, keys: vec![] };
            app.node.propose(Command::Advertise(write))
        });
        assert!(join_all(hosts).await.iter().all(Result::is_ok));
        app
    }

    async fn read(app: &Arc<App>, query: &str) -> HostsResponse {
        let answer = answer(&app.index, &Query::parse(Some(query))).unwrap();
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn pages_follow_each_other_and_hosts_may_come_and_go_between_them() {
        let app = app_with_hosts(40).await;
        for (group, among) in [("", 40), ("&group=a", 20), ("&group=b/c", 20), ("&group=none", 0)] {
            for limit in [1, 7, 20, 40, 5_000] {
                let (mut found, mut after) = (Vec::new(), String::new());
                loop {
                    let page = read(&app, &format!("limit={limit}{group}{after}")).await;
                    assert!(page.hosts.len() <= limit, "{limit}{group}");
                    let hosts = page.hosts.into_iter();
                    found.extend(hosts.map(|host| (host.group, host.holder.parse::<SocketAddr>().unwrap())));
                    let Some(next) = page.next else { break };
                    after = format!("&after={next}");
                }
                assert_eq!(found.len(), among, "{limit}{group}");
                assert!(found.is_sorted() && found.iter().collect::<BTreeSet<_>>().len() == among);
            }
        }
        // The page begins after a host that is not known.
        let page = read(&app, "limit=2&after=10.0.0.3:1/a").await;
        let found: Vec<_> = page.hosts.into_iter().map(|host| host.holder).collect();
        assert_eq!(found, ["10.0.0.4:7781", "10.0.0.6:7781"]);
        for bad in ["limit=0", "limit=x", "limit=-1", "after=10.0.0.1:1", "after=a/10.0.0.1:1", "after=x/"] {
            assert!(answer(&app.index, &Query::parse(Some(bad))).is_err(), "{bad}");
        }
        app.node.shutdown().await;
    }

    /// All hosts were copied under the lock, and made one body.
    #[tokio::test]
    async fn without_a_limit_all_hosts_come_and_no_more_than_a_page_is_in_memory() {
        for count in [0, 1, HOSTS_PAGE_MAX, HOSTS_PAGE_MAX + 1, 2 * HOSTS_PAGE_MAX] {
            let app = app_with_hosts(count).await;
            let answer = answer(&app.index, &Query::parse(None)).unwrap();
            let is_whole = answer.body().size_hint().exact().is_some();
            assert_eq!(is_whole, count < HOSTS_PAGE_MAX, "{count}");
            let found = read(&app, "").await;
            assert_eq!((found.hosts.len(), found.next), (count, None));
            app.node.shutdown().await;
        }
    }
}
