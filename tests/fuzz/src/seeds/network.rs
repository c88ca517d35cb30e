//! Seeds from the network: requests, answers, raft messages.

use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use piccolo_raft::command::{Command, Write};
use piccolo_raft::format::Level;
use piccolo_raft::model::{Holder, Key};
use piccolo_raft::network::SentAppend;
use piccolo_raft::types::{Entry, LogId, TypeConfig, Vote};
use serde::Serialize;

use super::{Seed, golden, nasty_json, seed};
use crate::targets::RAFT_ROUTES;

pub(super) fn all() -> Vec<Seed> {
    [discovery(), raft_rpc(), server_answers(), peer_answers()].concat()
}

fn discovery() -> Vec<Seed> {
    const JSON: &str = "content-type: application/json";
    let write = |keys: &str| format!(r#"{{"holder":"10.0.0.1:7781","group":"default","keys":[{keys}]}}"#);
    let native = |pair: &str| {
        format!(
            r#"{{"holder":"10.0.0.2:7781","group":"g","keys":["a/b:1","a/c:2"],{pair},"zone":"z","ttl_seconds":90}}"#
        )
    };
    let tag = "docker.io/library/alpine:3.20";
    let mut requests = vec![
        ("go-sync", format!("POST /api/v1/distribution/sync\n{JSON}\n\n{}", write(&format!("\"{tag}\"")))),
        ("go-advertise", format!("POST /api/v1/distribution/advertise\n{JSON}\n\n{}", write(&format!("\"{tag}\"")))),
        ("go-keepalive", "POST /api/v1/keepalive\n\n{\"host\":\"10.0.0.1:7781\",\"Group\":\"default\"}".to_owned()),
        ("go-find", "GET /api/v1/distribution/findkey?count=3&group=default&key=docker.io%2Flibrary%2Falpine%3A3.20&request_host=10.0.0.9".to_owned()),
        ("advertise", format!("POST /api/v1/distribution/advertise\n\n{}", native("\"epoch\":1,\"seq\":1"))),
        ("withdraw", format!("POST /api/v1/distribution/withdraw\n\n{}", native("\"epoch\":1,\"seq\":2"))),
        ("far-epoch", format!("POST /api/v1/distribution/advertise\n\n{}", native("\"epoch\":18446744073709551615,\"seq\":0"))),
        ("forwarded", format!("POST /api/v1/distribution/sync\npiccolo-forwarded: 1\n\n{}", write(""))),
        ("find-tiers", "GET /api/v1/distribution/findkey?key=a/b:1&group=g&request_host=10.0.0.9:1&count=9223372036854775807".to_owned()),
        ("find-prefix", "GET /api/v1/distribution/findkey?key=a/b:1&group=g&request_host=[fd00&rank=prefix&count=-1".to_owned()),
        ("find-later", "GET /api/v1/distribution/findkey?key=a/b:1&group=g&min_index=18446744073709551615".to_owned()),
        ("report", "POST /api/v1/distribution/report\npiccolo-reporter: 10.0.0.7\n\n{\"host\":\"10.0.0.3:1\",\"holder\":\"10.0.0.2:7781\",\"group\":\"g\",\"key\":\"a/b:1\",\"reason\":\"wrong\"}".to_owned()),
        ("status", "GET /api/v1/status".to_owned()),
        ("hosts", "GET /api/v1/hosts?group=g".to_owned()),
        ("capabilities", "GET /api/v1/capabilities".to_owned()),
        ("metrics", "GET /metrics".to_owned()),
        ("readyz", "HEAD /readyz".to_owned()),
        ("members", "GET /api/v1/members".to_owned()),
        ("members-add", format!("POST /api/v1/members/add\n{JSON}\n\n{{\"addresses\":[\"127.0.0.1:1\"]}}")),
        ("members-replace", format!("POST /api/v1/members/replace\n{JSON}\n\n{{\"address\":\"127.0.0.1:1\",\"member\":\"1\"}}")),
        ("members-remove", format!("POST /api/v1/members/remove\n{JSON}\n\n{{\"member\":\"127.0.0.1:1\"}}")),
        ("members-transfer", format!("POST /api/v1/members/transfer-leader\n{JSON}\n\n{{}}")),
        ("snapshot", format!("POST /api/v1/snapshot\n{JSON}\n\n")),
        ("unknown", "BREW /api/v1/distribution/..%2fkeepalive?%00=%ff".to_owned()),
    ];
    for (name, json) in nasty_json() {
        requests.push((name, format!("POST /api/v1/distribution/sync\n\n{json}")));
    }
    requests.into_iter().map(|(name, text)| seed("discovery", name, text)).collect()
}

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::impls::leader_id_adv::LeaderId { term: 1, node_id: 1 }, index)
}

fn raft_rpc() -> Vec<Seed> {
    let holder = Holder { group: "g".to_owned(), address: ([10, 0, 0, 1], 7781).into() };
    let write = Write {
        holder: holder.clone(),
        pair: None,
        stores_pair: false,
        keys: vec![Key::Text("a:1".to_owned())],
    };
    let append = |vote, prev: Option<u64>, entries, commit: Option<u64>| {
        let (prev_log_id, leader_commit) = (prev.map(log_id), commit.map(log_id));
        SentAppend::of(
            &AppendEntriesRequest::<TypeConfig> { vote, prev_log_id, entries, leader_commit },
            Level::FIRST,
        )
    };
    let entry = |index, command| Entry::new_normal(log_id(index), command);
    let (none, far) = (Vec::new(), u64::MAX);
    let vote = |term, last: Option<u64>| VoteRequest::<TypeConfig>::new(Vote::new(term, 1), last.map(log_id));
    let transfer = TransferLeaderRequest::<TypeConfig>::new(Vote::new_committed(1, 1), 1, Some(log_id(1)));
    let hide = Command::Hide { holder, last_write_index: far, unix_ms: far };
    let messages = [
        ("heartbeat", message("append", &append(Vote::new_committed(1, 1), None, none.clone(), None))),
        (
            "append",
            message(
                "append",
                &append(
                    Vote::new_committed(2, 1),
                    Some(1),
                    vec![entry(2, Command::Advertise(write))],
                    Some(2),
                ),
            ),
        ),
        (
            "append-gap",
            message(
                "append",
                &append(
                    Vote::new_committed(2, 1),
                    Some(1),
                    vec![entry(7, hide.clone()), entry(3, hide)],
                    Some(9),
                ),
            ),
        ),
        (
            "append-end",
            message("append", &append(Vote::new_committed(far, 1), Some(far), none.clone(), Some(far))),
        ),
        ("append-from-candidate", message("append", &append(Vote::new(3, 1), None, none, None))),
        ("vote", message("vote", &vote(2, Some(1)))),
        ("vote-end", message("vote", &vote(far, Some(far)))),
        ("pre-vote", message("pre-vote", &vote(2, Some(1)))),
        ("pre-vote-end", message("pre-vote", &vote(far, None))),
        ("transfer", message("transfer", &transfer)),
        ("standing", message("standing", &Some("a:7790"))),
        ("whoami", vec![route("whoami"), 0]),
        ("reach", [&[route("reach"), 0][..], b"[]"].concat()),
    ];
    let mut seeds: Vec<_> = messages.into_iter().map(|(name, bytes)| seed("raft_rpc", name, bytes)).collect();
    for (name, bytes) in golden("raft/tests/golden") {
        let (route_name, mode) = match name.as_str() {
            "rpc_append" => ("append", 0),
            "rpc_vote" => ("vote", 0),
            "snapshot" => ("snapshot", 1),
            _ => continue,
        };
        seeds.push(seed(
            "raft_rpc",
            format!("golden-{name}"),
            [&[route(route_name), mode], &bytes[..]].concat(),
        ));
        if name == "snapshot" {
            seeds.push(seed("snapshot", "golden", [&[0], &bytes[..]].concat()));
            seeds.push(seed("snapshot", "golden-sealed", [&[7], &bytes[..]].concat()));
            seeds.push(seed("snapshot_file", "golden-stream", [&[7], &bytes[..]].concat()));
            seeds.push(seed("snapshot", "golden-cut", [&[2], &bytes[..bytes.len() / 2]].concat()));
        }
    }
    seeds
}

fn route(name: &str) -> u8 {
    RAFT_ROUTES.iter().position(|route| *route == name).expect("a route of ours") as u8
}

/// `message` after a valid header.
fn message(to: &str, message: &impl Serialize) -> Vec<u8> {
    [&[route(to), 1], &postcard::to_stdvec(message).expect("messages are written")[..]].concat()
}

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    [format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n").as_bytes(), body].concat()
}

fn server_answers() -> Vec<Seed> {
    const JSON: &str = "content-type: application/json\r\n";
    let mut seeds = Vec::new();
    for (name, json) in golden("tests/golden") {
        let call: u8 = match name.as_str() {
            "find_response" => 0,
            "write_response" | "write_response_go" | "write_response_skipped" => 1,
            "write_response_stale" => 2,
            "keepalive_response" | "keepalive_response_resync" => 3,
            "report_response" => 4,
            "status_response" => 5,
            "hosts_response" => 6,
            "capabilities" => 7,
            "members_response" => 8,
            _ => continue,
        };
        let status = if name == "write_response_stale" { "409 Conflict" } else { "200 OK" };
        seeds.push(seed("server_answer", name, [&[call], &http(status, JSON, &json)[..]].concat()));
    }
    let others: [(&str, Vec<u8>); 9] = [
        ("not-found", http("404 Not Found", JSON, br#"{"message":"Didn't find the key k in piccolo"}"#)),
        ("not-ours", http("404 Not Found", "", b"<html>")),
        ("busy", http("503 Service Unavailable", "retry-after: 18446744073709551615\r\n", b"{}")),
        (
            "full",
            http("507 Insufficient Storage", "retry-after: 40\r\n", br#"{"success":false,"message":"x"}"#),
        ),
        ("long-length", b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n{}".to_vec()),
        (
            "chunked",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\nffffffffffffffff\r\n".to_vec(),
        ),
        ("interims", [b"HTTP/1.1 103 Early\r\n\r\n".repeat(200), http("200 OK", JSON, b"{}")].concat()),
        ("redirect", http("301 Moved", "location: http://127.0.0.1:1/\r\n", b"")),
        ("many-headers", http("200 OK", &"a: b\r\n".repeat(300), b"{}")),
    ];
    let others =
        others.into_iter().map(|(name, bytes)| seed("server_answer", name, [&[0], &bytes[..]].concat()));
    let nasty = nasty_json().into_iter().enumerate().map(|(call, (name, json))| {
        seed("server_answer", name, [&[call as u8], &http("200 OK", JSON, json.as_bytes())[..]].concat())
    });
    seeds.into_iter().chain(others).chain(nasty).collect()
}

fn peer_answers() -> Vec<Seed> {
    let manifest: &[u8] = br#"{"schemaVersion":2,"config":{"digest":"sha256:00"},"layers":[]}"#;
    let answers: [(&str, u8, Vec<u8>); 16] = [
        ("whole", 0, http("200 OK", "", b"bytes of a layer")),
        ("empty", 0, http("200 OK", "", b"")),
        (
            "manifest",
            1,
            http("200 OK", "content-type: application/vnd.oci.image.manifest.v1+json\r\n", manifest),
        ),
        ("range", 2, http("206 Partial Content", "content-range: bytes 1-16/17\r\n", b"ytes of a layers")),
        (
            "range-of-other",
            2,
            http("206 Partial Content", "content-range: bytes 5-20/17\r\n", b"ytes of a layers"),
        ),
        (
            "range-end",
            2,
            http(
                "206 Partial Content",
                "content-range: bytes 1-18446744073709551615/18446744073709551615\r\n",
                b"x",
            ),
        ),
        ("head", 3, http("200 OK", "", b"")),
        ("gone", 0, http("404 Not Found", "", b"{}")),
        ("busy", 0, http("503 Service Unavailable", "retry-after: 1\r\n", b"")),
        (
            "unsatisfiable",
            2,
            http("416 Range Not Satisfiable", "content-range: bytes */18446744073709551615\r\n", b""),
        ),
        ("cut", 0, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbytes".to_vec()),
        ("long", 0, b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\nbytes".to_vec()),
        (
            "chunked",
            0,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbytes\r\n0\r\n\r\n".to_vec(),
        ),
        ("encoded", 0, http("200 OK", "content-encoding: gzip\r\n", b"\x1f\x8b")),
        ("interims", 0, [b"HTTP/1.1 100 Continue\r\n\r\n".repeat(40), http("200 OK", "", b"bytes")].concat()),
        ("no-http", 0, vec![0xff; 300]),
    ];
    let found: [(&str, &[u8]); 5] = [
        ("found-nobody", br#"{"key":"k","Group":"g","holders":[],"total":0}"#),
        (
            "found-nonsense",
            br#"{"key":"k","Group":"g","holders":["x","127.0.0.1:99999","[::1]:0",""],"total":1}"#,
        ),
        (
            "found-many",
            br#"{"key":"k","Group":"g","holders":["127.0.0.1:1","127.0.0.1:1","127.0.0.1:2"],"total":3}"#,
        ),
        ("found-nothing", b"null"),
        ("found-types", br#"{"key":1,"Group":[],"holders":{},"total":-1}"#),
    ];
    let found = found.into_iter().map(|(name, json)| (name, 0x80, json.to_vec()));
    let all = answers.into_iter().chain(found);
    all.map(|(name, mode, bytes)| seed("peer_answer", name, [&[mode], &bytes[..]].concat())).collect()
}
