//! Messages to the raft port: the routes of an in-memory node.
//!
//! An input is a byte for the route, a byte that says whether a valid header comes before the rest (for a
//! snapshot a preface, with a vote), and the rest.

use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use openraft::EntryPayload;
use piccolo_raft::cluster::Node;
use piccolo_raft::format::{Level, WIRE};
use piccolo_raft::network::{SentAppend, Whoami};
use piccolo_raft::snapshot;
use piccolo_raft::types::{Member, NodeId, Vote};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::in_process::{self, NOBODY};

/// Routes, by the first byte of an input.
pub(crate) const ROUTES: [&str; 8] =
    ["append", "vote", "pre-vote", "transfer", "snapshot", "standing", "whoami", "reach"];
/// Number of messages to one node.
const MESSAGES_MAX: u32 = 500;
/// Time for an answer, which comes at once, or after a disk that is busy with other work.
const ANSWER_MAX: Duration = Duration::from_secs(15);

struct Server {
    runtime: Runtime,
    node: Node,
    router: Router,
    /// Header of a message: format, cluster id, hash of the list, sender, target.
    header: Vec<u8>,
    messages: u32,
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

pub(super) fn run(input: &[u8]) {
    let [route, mode, message @ ..] = input else { return };
    let route = ROUTES[usize::from(*route) % ROUTES.len()];
    let mut server = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let body = match mode % 2 {
        0 if names_others(route, message) => return,
        0 => message.to_vec(),
        _ if speaks_of_others(route, message) => return,
        _ => server.get_or_insert_with(Server::start).addressed(route, message),
    };
    let serving = server.get_or_insert_with(Server::start);
    serving.messages += 1;
    let messages = serving.messages;
    let (status, failed) = serving.send(route, body);
    if (messages >= MESSAGES_MAX || failed.is_some())
        && let Some(server) = server.take()
    {
        server.runtime.block_on(server.node.shutdown());
    }
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(failed, None, "the node ended of a message to {route}");
}

/// A term that no election of the node reaches.
const LATE_TERM: u64 = 1 << 40;

impl Server {
    fn start() -> Self {
        let runtime = in_process::runtime();
        let (node, whoami) = runtime.block_on(async {
            let node = in_process::node().await;
            node.wait_leader(ANSWER_MAX).await.expect("a cluster of one has a leader");
            let request = Request::post("/raft/v1/whoami").body(Body::empty()).expect("a request");
            let answer = node.router().oneshot(request).await.unwrap_or_else(|never| match never {});
            let answer = axum::body::to_bytes(answer.into_body(), 1 << 16).await.expect("a short answer");
            (node, serde_json::from_slice::<Whoami>(&answer).expect("whoami is JSON"))
        });
        let number = |hex: &str| u128::from_str_radix(hex, 16).expect("ids are hex");
        let cluster = number(&whoami.cluster_id.expect("the cluster has formed"));
        let sender: NodeId = 1;
        let header = (cluster, number(&whoami.list_hash), sender, whoami.node_id);
        let mut bytes = WIRE.at(Level::FIRST).to_le_bytes().to_vec();
        bytes.extend(postcard::to_stdvec(&header).expect("numbers are written"));
        Self { runtime, router: node.router(), node, header: bytes, messages: 0 }
    }

    /// `message` with the header of a member.
    fn addressed(&self, route: &str, message: &[u8]) -> Vec<u8> {
        if route != "snapshot" {
            return [&self.header, message].concat();
        }
        // Above the node's own vote; otherwise openraft would ignore the snapshot.
        let vote = postcard::to_stdvec(&Vote::new_committed(LATE_TERM, 1)).expect("a vote is written");
        let length = (self.header.len() + vote.len()) as u32;
        [&length.to_le_bytes()[..], &self.header, &vote, message].concat()
    }

    /// Status of the answer, and the reason if the node has ended.
    fn send(&self, route: &str, body: Vec<u8>) -> (StatusCode, Option<String>) {
        let (answer, failed) = self.ask(route, body);
        (answer.status(), failed)
    }

    fn ask(&self, route: &str, body: Vec<u8>) -> (Response, Option<String>) {
        let request = Request::post(format!("/raft/v1/{route}")).body(Body::from(body)).expect("a request");
        let router = self.router.clone();
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(ANSWER_MAX, router.oneshot(request)).await;
            let answer = answer.expect("an answer in time").unwrap_or_else(|never| match never {});
            let failed = tokio::time::timeout(Duration::ZERO, self.node.failed()).await.ok();
            (answer, failed.map(|failed| failed.to_string()))
        })
    }
}

/// True if the node would contact servers at addresses that may exist.
fn names_others(route: &str, message: &[u8]) -> bool {
    let named = || serde_json::from_slice::<Vec<serde_json::Value>>(message);
    route == "reach" && named().is_ok_and(|named| !named.is_empty())
}

/// True if the message has a membership with addresses that may exist.
fn speaks_of_others(route: &str, message: &[u8]) -> bool {
    let somebody = |member: &Member| member.raft_address != NOBODY;
    match route {
        "append" => {
            let sent = postcard::from_bytes::<SentAppend>(message).ok();
            let Some(request) = sent.and_then(|sent| sent.read().ok()) else { return false };
            request.entries.iter().any(|entry| match &entry.payload {
                EntryPayload::Membership(membership) => {
                    membership.nodes().any(|(_, member)| somebody(member))
                }
                EntryPayload::Blank | EntryPayload::Normal(_) => false,
            })
        }
        "snapshot" if super::snapshot::takes_room(message) => true,
        "snapshot" => snapshot::verify(message).is_ok_and(|(meta, _)| {
            meta.last_membership.membership().nodes().any(|(_, member)| somebody(member))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry;
    use openraft::raft::AppendEntriesRequest;
    use piccolo_raft::types::{Entry, LogId};

    use super::*;
    use crate::seeds;

    /// Seeds of an older format were all refused at their header, and nothing reported that.
    #[test]
    fn seeds_are_messages_that_a_node_of_this_build_reads() {
        let server = Server::start();
        for (_, name, input) in seeds::all().into_iter().filter(|(target, _, _)| *target == "raft_rpc") {
            let [route, mode, message @ ..] = &input[..] else { panic!("{name} has no route") };
            let route = ROUTES[usize::from(*route)];
            let body = if *mode == 0 { message.to_vec() } else { server.addressed(route, message) };
            let (answer, failed) = server.ask(route, body);
            assert_eq!(failed, None, "{name}");
            let status = answer.status();
            let body = server.runtime.block_on(axum::body::to_bytes(answer.into_body(), 1 << 16)).unwrap();
            let text = String::from_utf8_lossy(&body);
            let unread = ["is damaged", "start a newer piccolo", "could not read the body"];
            assert!(status.is_success() || !unread.iter().any(|part| text.contains(part)), "{name}: {text}");
        }
        server.runtime.block_on(server.node.shutdown());
    }

    #[test]
    fn the_members_that_an_append_brings_are_seen() {
        let member = |raft_address: &str| {
            let member = Member { raft_address: raft_address.to_owned(), ..Member::default() };
            let members = std::collections::BTreeMap::from([(1, member)]);
            let membership = openraft::Membership::new(vec![[1].into()], members).unwrap();
            let vote = Vote::new_committed(1, 1);
            let entry = Entry::new_membership(LogId::new(vote.leader_id, 1), membership);
            let request =
                AppendEntriesRequest { vote, prev_log_id: None, entries: vec![entry], leader_commit: None };
            postcard::to_stdvec(&SentAppend::of(&request, Level::FIRST)).unwrap()
        };
        assert!(speaks_of_others("append", &member("192.0.2.1:1")));
        assert!(!speaks_of_others("append", &member(NOBODY)));
    }
}
