//! What arrives at the raft port and is not what a member sends.

use std::net::IpAddr;

use futures_util::future::BoxFuture;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};

use super::*;
use crate::disk::MemoryDisk;
use crate::limits::{APPEND_BODY_BYTES_MAX, MESSAGES_MAX, REACH_LOOKS_MAX, REACH_SERVERS_MAX};
use crate::network::reach::{Claimed, Unreached};
use crate::snapshot::SnapshotData;
use crate::testing::{entry, log_id};
use crate::types::{Entry, LogId};
use openraft::entry::RaftEntry;

impl Server {
    fn post(&self, route: &str, body: Vec<u8>) -> Result<bytes::Bytes, CallError> {
        let client = lone_client();
        let address = self.address.to_string();
        self.run(async { client.call(&address, route, body, SOON).await })
    }

    fn whoami(&self) -> crate::network::Whoami {
        serde_json::from_slice(&self.post("whoami", Vec::new()).unwrap()).unwrap()
    }

    /// A message with the snapshot of a server that has applied these entries.
    fn snapshot_of(&self, entries: &[Entry], leader: Vote) -> Vec<u8> {
        let other = Index::open(&MemoryDisk::default()).unwrap();
        self.run(other.apply(entries)).unwrap();
        let (_, snapshot) = self.run(SnapshotData::of(&other)).unwrap();
        let chunks: Vec<u8> = snapshot.into_chunks().unwrap().flat_map(|chunk| chunk.unwrap()).collect();
        let frame = leader.frame(&self.header(), Level::FIRST);
        [&(frame.len() as u32).to_le_bytes()[..], &frame, &chunks].concat()
    }

    /// In front of a message of another member to this one.
    fn header(&self) -> Header {
        let status = self.node().status();
        let list_hash = self.node().inner.contacts.identity.list_hash;
        let cluster_id = status.cluster_id.unwrap_or(ClusterId(7));
        Header { cluster_id, list_hash, sender: 1, target: status.node_id }
    }
}

#[track_caller]
fn refused(answer: Result<bytes::Bytes, CallError>) -> (u16, String) {
    match answer {
        Err(CallError::Refused { status, reason, .. }) => (status.as_u16(), reason),
        other => panic!("{other:?}"),
    }
}

fn vote() -> VoteRequest<TypeConfig> {
    vote_at(1)
}

fn vote_at(term: u64) -> VoteRequest<TypeConfig> {
    VoteRequest::new(Vote::new(term, 1), None)
}

#[test]
fn a_message_in_another_servers_name_than_its_connection_has_proved_is_answered_403() {
    let servers = servers(1);
    write(&servers, 0);
    let server = &servers[0];
    let (term, header) = (server.node().term(), server.header());
    let answered = |route: &str, body: &[u8], caller: Option<u64>| {
        let mut request = axum::http::Request::post(format!("/raft/v1/{route}"));
        if let Some(caller) = caller {
            request = request.extension(crate::network::Caller(caller));
        }
        let request = request.body(axum::body::Body::from(body.to_vec())).unwrap();
        let answer = server.run(tower::ServiceExt::oneshot(server.node().router(), request)).unwrap();
        answer.status().as_u16()
    };
    let messages = [
        ("standing", None::<String>.frame(&header, Level::FIRST), 200),
        ("pre-vote", vote_at(term + 50).frame(&header, Level::FIRST), 200),
        ("snapshot", server.snapshot_of(&[], Vote::new(0, 1)), 400),
        ("vote", vote_at(term + 50).frame(&header, Level::FIRST), 200),
    ];
    for (route, message, expected) in messages {
        assert_eq!(answered(route, &message, Some(header.sender ^ 2)), 403, "{route}");
        assert_eq!(server.node().term(), term, "{route}: openraft saw a message of an impostor");
        assert_eq!(answered(route, &message, None), expected, "{route}");
        assert_eq!(answered(route, &message, Some(header.sender)), expected, "{route}");
    }
}

#[test]
fn a_message_for_another_node_or_cluster_is_answered_421() {
    let servers = servers(1);
    write(&servers, 0);
    let server = &servers[0];
    let (term, header) = (server.node().term(), server.header());
    let message = |header| vote_at(term + 50).frame(&header, Level::FIRST);
    let other_node = Header { target: header.target ^ 1, ..header };
    let other_cluster = Header { cluster_id: ClusterId(header.cluster_id.0 ^ 1), ..header };
    for route in ["vote", "pre-vote"] {
        assert_eq!(refused(server.post(route, message(other_node))).0, 421);
        assert_eq!(refused(server.post(route, message(other_cluster))).0, 421);
    }
    assert_eq!(server.node().term(), term, "openraft saw a message that was not for it");
    server.post("vote", message(header)).unwrap();
}

#[test]
fn a_pristine_node_joins_with_a_vote_of_its_list_and_with_nothing_less() {
    let servers = servers_with(1, |all, _| vec![all[0].clone(), "127.0.0.1:1".to_owned()]);
    let server = &servers[0];
    let header = server.header();
    let other_list = Header { list_hash: ListHash::of(&[]), ..header };
    assert_eq!(refused(server.post("vote", vote().frame(&other_list, Level::FIRST))).0, 421);
    server.post("pre-vote", vote().frame(&header, Level::FIRST)).unwrap();
    assert_eq!(server.whoami().cluster_id, None);
    server.post("vote", vote().frame(&header, Level::FIRST)).unwrap();
    assert_eq!(server.whoami().cluster_id, Some(ClusterId(7).to_string()));
}

#[test]
fn garbage_newer_formats_and_large_bodies_are_refused_and_the_node_goes_on() {
    let servers = servers(1);
    write(&servers, 0);
    let server = &servers[0];
    let mut newer = vote().frame(&server.header(), Level::FIRST);
    newer[..2].copy_from_slice(&(WIRE.readable().highest + 1).to_le_bytes());
    let (status, reason) = refused(server.post("vote", newer));
    assert!(status == 400 && reason.contains("newer piccolo"), "{status} {reason}");
    assert_eq!(refused(server.post("append", b"garbage".to_vec())).0, 400);
    assert_eq!(refused(server.post("append", Vec::new())).0, 400);
    match server.post("append", vec![0; APPEND_BODY_BYTES_MAX + 1]) {
        Err(CallError::Refused { status, .. }) => assert_eq!(status.as_u16(), 413),
        // The connection may be cut before all is sent.
        Err(CallError::Unreachable { .. }) => {}
        other => panic!("{other:?}"),
    }
    write(&servers, 1);
}

#[test]
fn messages_that_never_end_are_bounded_in_number() {
    use std::io::Write as _;
    let servers = servers(1);
    write(&servers, 0);
    let server = &servers[0];
    let head = b"POST /raft/v1/append HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n";
    let slow = |_| {
        let mut connection = std::net::TcpStream::connect(server.address).unwrap();
        connection.write_all(head).unwrap();
        connection
    };
    let ask = || server.post("vote", vote().frame(&server.header(), Level::FIRST));
    let is_refused = || matches!(ask(), Err(CallError::Refused { status, .. }) if status == 503);
    let held = within(SOON, "a refusal", || {
        // A body is waited for only so long: on a busy machine the first ones are given up before the last ones
        // have come.
        let held: Vec<_> = (0..crate::limits::MESSAGES_MAX).map(slow).collect();
        let refused = (0..20).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            is_refused()
        });
        refused.then_some(held)
    });
    drop(held);
    within(SOON, "an answer", || ask().ok());
}

#[test]
fn a_cut_or_changed_snapshot_is_refused_and_the_node_goes_on() {
    let servers = servers(1);
    write(&servers, 0);
    let server = &servers[0];
    let (_, snapshot) = server.run(SnapshotData::of(server.node().index())).unwrap();
    let chunks: Vec<u8> = snapshot.into_chunks().unwrap().flat_map(|chunk| chunk.unwrap()).collect();
    let frame = Vote::new_committed(1000, 1).frame(&server.header(), Level::FIRST);
    let whole = [&(frame.len() as u32).to_le_bytes()[..], &frame, &chunks].concat();
    let checksum = server.node().index().checksum();

    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bad in [&whole[..3], &whole[..frame.len()], &whole[..whole.len() - 1], &changed, &[0xff; 9][..]] {
        let (status, reason) = refused(server.post("snapshot", bad.to_vec()));
        assert!(status == 400 || status == 413, "{status} {reason}");
    }
    assert_eq!(server.node().index().checksum(), checksum);
    write(&servers, 1);
}

/// Found by fuzzing: openraft asserts what its peers must have checked. A message with a right header could
/// end the node, or cut off of its log what it has applied.
#[test]
fn what_no_member_can_have_sent_is_refused_and_the_node_goes_on() {
    let servers = servers(1);
    write(&servers, 0);
    write(&servers, 1);
    let server = &servers[0];
    let header = server.header();
    let (term, index) = (server.node().term() + 1, server.node().index().applied_index());
    let checksum = server.node().index().checksum();
    let leader = Vote::new_committed(term, header.sender);
    let other =
        |index| Entry::new_normal(LogId::new(leader.leader_id, index), Command::Tombstone { node_id: 4 });
    let append = |vote, prev_log_id, entries, leader_commit| {
        let request = AppendEntriesRequest::<TypeConfig> { vote, prev_log_id, entries, leader_commit };
        ("append", request.frame(&header, Level::FIRST))
    };
    let vote = |vote, last| VoteRequest::<TypeConfig>::new(vote, last).frame(&header, Level::FIRST);
    let far = Some(LogId::new(leader.leader_id, u64::MAX));
    let before = Some(log_id(index - 1));
    let membership = openraft::Membership::new_with_defaults(vec![std::collections::BTreeSet::new()], []);
    let nobody = Entry::new_membership(LogId::new(leader.leader_id, index + 1), membership);
    for (what, (route, body)) in [
        ("the end of the terms", ("vote", vote(Vote::new(u64::MAX, header.sender), None))),
        ("the end of the terms", ("pre-vote", vote(Vote::new(u64::MAX, header.sender), None))),
        ("the end of the log", ("vote", vote(Vote::new(term, header.sender), far))),
        ("the vote of another", ("vote", vote(Vote::new(term, header.sender + 1), None))),
        ("the end of the log", append(leader, far, vec![], None)),
        ("the end of the log", append(leader, None, vec![], far)),
        ("of none that leads", append(Vote::new(term, header.sender), None, vec![], None)),
        ("a gap", append(leader, None, vec![other(1), other(3)], None)),
        (
            "an entry of a later term",
            append(Vote::new_committed(0, header.sender), None, vec![other(0)], None),
        ),
        ("other entries than those applied", append(leader, None, vec![other(0), other(1)], None)),
        ("another entry than the last applied", append(leader, before, vec![other(index)], None)),
        ("another history", append(leader, Some(LogId::new(leader.leader_id, index)), vec![], None)),
        ("a membership of nobody", append(leader, Some(log_id(index)), vec![nobody], None)),
    ] {
        let (status, reason) = refused(server.post(route, body));
        assert_eq!(status, 400, "{what}: {reason}");
    }
    // A snapshot of a later term that ends before what is committed here.
    let member = Member { raft_address: "a:1".to_owned(), ..Member::default() };
    let members = std::collections::BTreeMap::from([(header.sender, member)]);
    let membership = openraft::Membership::new(vec![[header.sender].into()], members).unwrap();
    let history = [Entry::new_membership(LogId::new(leader.leader_id, 0), membership), other(1)];
    let body = server.snapshot_of(&history, leader);
    let (status, reason) = refused(server.post("snapshot", body));
    assert_eq!(status, 400, "a snapshot of another history: {reason}");
    assert_eq!(server.node().index().checksum(), checksum);
    write(&servers, 2);
}

/// Of a leader that was deposed and has other entries: raft tells it so.
#[test]
fn a_deposed_leader_with_other_entries_is_told_of_the_higher_vote() {
    let servers = servers(1);
    write(&servers, 0);
    let server = &servers[0];
    let (header, applied) = (server.header(), server.node().index().applied_index());
    let old = Vote::new_committed(0, header.sender);
    let other = Entry::new_normal(LogId::new(old.leader_id, applied), Command::Tombstone { node_id: 4 });
    let prev_log_id = Some(LogId::new(old.leader_id, applied - 1));
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: old,
        prev_log_id,
        entries: vec![other],
        leader_commit: None,
    };
    let answer = server.post("append", request.frame(&header, Level::FIRST)).unwrap();
    let answer: AppendEntriesResponse<TypeConfig> = WIRE.decode("answer", &answer).unwrap();
    assert!(matches!(answer, AppendEntriesResponse::HigherVote(_)), "{answer:?}");
}

#[test]
fn frames_of_the_first_format_are_read() {
    let header = Header { cluster_id: ClusterId(0xfeed), list_hash: ListHash(0xbee), sender: 1, target: 2 };
    let append = AppendEntriesRequest::<TypeConfig> {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(log_id(8)),
        entries: vec![entry(9, Command::Tombstone { node_id: 4 })],
        leader_commit: Some(log_id(8)),
    };
    let frame = hex(&append.frame(&header, Level::FIRST));
    assert_eq!(frame, include_str!("../../../tests/golden/rpc_append.hex").trim());
    let vote = VoteRequest::<TypeConfig>::new(Vote::new(3, 1), Some(log_id(8)));
    let frame = hex(&vote.frame(&header, Level::FIRST));
    assert_eq!(frame, include_str!("../../../tests/golden/rpc_vote.hex").trim());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The port is easily taken for that of the API; an empty 404 told an operator nothing.
#[test]
fn who_asks_the_raft_port_for_something_else_is_told_where_the_api_is() {
    use std::io::{Read, Write};
    let servers = servers(1);
    write(&servers, 0);
    let ask = |path: &str| {
        let mut stream = std::net::TcpStream::connect(servers[0].address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("/api/v1/status");
    let api_address = servers[0].whoami().api_address;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert!(answer.contains(&format!("its discovery API is at http://{api_address}")), "{answer}");
    assert!(ask("/raft/v1/later").starts_with("HTTP/1.1 404 "), "what a later version asks is unknown here");
}

/// A resolver that never answers.
#[derive(Debug)]
struct Nobody;

impl Resolve for Nobody {
    fn resolve(&self, _: &str) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::pending())
    }
}

/// Each request to look held the place of a message for two seconds: whoever sent as many as there are places kept
/// heartbeats out, and made the server look up as many names as he liked.
#[test]
fn requests_to_look_for_made_up_servers_keep_no_message_out() {
    let mut stopped = servers_stopped(1, |all, _| all.to_vec());
    let (mut server, listener) = stopped.pop().unwrap();
    server.resolver = Some(Arc::new(Nobody));
    server.start(listener);
    let servers = [server];
    write(&servers, 0);
    let server = &servers[0];
    let claimed = |request: usize, at: usize| Claimed {
        node_id: 7,
        raft_address: format!("made-up-{request}-{at}:1"),
        api_address: "a:1".to_owned(),
    };
    let client = lone_client();
    let address = server.address.to_string();
    let requests = (0..MESSAGES_MAX).map(|request| {
        let servers: Vec<Claimed> = (0..REACH_SERVERS_MAX).map(|at| claimed(request, at)).collect();
        let body = serde_json::to_vec(&servers).unwrap();
        let (client, address) = (client.clone(), address.clone());
        async move { client.call(&address, "reach", body, SOON).await }
    });
    let runtime = &server.running.as_ref().unwrap().0;
    let asked: Vec<_> = requests.map(|request| runtime.spawn(request)).collect();
    within(SOON, "a look", || (server.node().names().count() >= REACH_SERVERS_MAX).then_some(()));
    // While names are waited for.
    for _ in 0..20 {
        server.post("vote", vote().frame(&server.header(), Level::FIRST)).unwrap();
        std::thread::sleep(POLL_INTERVAL);
    }
    assert!(asked.iter().any(|asked| !asked.is_finished()), "nobody looks any more");
    assert!(server.node().names().count() <= 2 * REACH_SERVERS_MAX, "{}", server.node().names().count());
    let answers = server.run(futures_util::future::join_all(asked));
    let looked = answers.into_iter().filter(|answer| answer.as_ref().unwrap().is_ok()).count();
    assert!((1..=REACH_LOOKS_MAX).contains(&looked), "{looked}");
    write(&servers, 1);
}

#[test]
fn a_server_is_not_looked_for_at_what_is_no_address() {
    let servers = servers(1);
    let long = format!("{}:1", "a".repeat(4_000));
    let claimed = ["no-port", "a b:1", &long].map(|raft_address| Claimed {
        node_id: 7,
        raft_address: raft_address.to_owned(),
        api_address: "a:1".to_owned(),
    });
    let answer = servers[0].post("reach", serde_json::to_vec(&claimed).unwrap()).unwrap();
    let unreached: Vec<Unreached> = serde_json::from_slice(&answer).unwrap();
    let reasons: Vec<&str> = unreached.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(reasons, ["it is not host:port"; 3]);
    assert_eq!(servers[0].node().names().count(), 0);
}
