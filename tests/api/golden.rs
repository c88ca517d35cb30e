//! The bytes of every wire type, compared both ways with `tests/golden/*.json`.

use std::fmt::Debug;
use std::path::Path;

use piccolo::api::{
    Capabilities, FindQuery, FindResponse, HostStatus, HostsResponse, KeepaliveRequest, KeepaliveResponse,
    LevelRange, LevelStatus, MemberEntry, MemberStatus, MembersProgress, MembersRequest, MembersResponse,
    Message, Readiness, ReportReason, ReportRequest, ReportResponse, StatusResponse, WriteRequest,
    WriteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: T) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let stored = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let stored = stored.trim_end();
    assert_eq!(serde_json::to_string(&value).unwrap(), stored, "{name} as written");
    assert_eq!(serde_json::from_str::<T>(stored).unwrap(), value, "{name} as read");
    let with_more = format!("{},\"of_a_later_version\":[1]}}", stored.strip_suffix('}').unwrap());
    assert_eq!(serde_json::from_str::<T>(&with_more).unwrap(), value, "{name} with an unknown field");
}

const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const TAG: &str = "docker.io/library/alpine:3.20";

#[test]
fn writes() {
    let go = WriteRequest {
        holder: "10.0.0.1:7781".into(),
        group: "default".into(),
        keys: vec![DIGEST.into(), TAG.into()],
        epoch: None,
        seq: None,
        zone: None,
        ttl_seconds: None,
    };
    golden("write_request_go", go.clone());
    golden("write_request", WriteRequest { epoch: Some(1_700_000_000_000), seq: Some(7), ..go });
    let plain = WriteResponse {
        success: true,
        message: "Distribution created!".into(),
        stale: false,
        epoch: None,
        seq: None,
        skipped: 0,
    };
    golden("write_response_go", plain.clone());
    golden("write_response_skipped", WriteResponse { skipped: 1, ..plain.clone() });
    let paired = WriteResponse { epoch: Some(1_700_000_000_000), seq: Some(7), ..plain };
    golden("write_response", paired.clone());
    golden(
        "write_response_stale",
        WriteResponse { success: false, stale: true, message: String::new(), ..paired },
    );
}

#[test]
fn lookups() {
    let query = FindQuery { key: DIGEST.into(), group: "default".into(), ..FindQuery::default() };
    golden("find_query_least", query.clone());
    golden(
        "find_query",
        FindQuery {
            count: Some(16),
            request_host: Some("10.0.0.1:7781".into()),
            min_index: Some(42),
            rank: Some("prefix".into()),
            ..query
        },
    );
    golden(
        "find_response",
        FindResponse {
            key: DIGEST.into(),
            group: "default".into(),
            holders: vec!["10.0.0.2:7781".into(), "[fd00::3]:7781".into()],
            total: 0,
            flight: None,
        },
    );
}

#[test]
fn keepalives() {
    let go = KeepaliveRequest {
        host: "10.0.0.1:7781".into(),
        group: "default".into(),
        ..KeepaliveRequest::default()
    };
    golden("keepalive_request_go", go.clone());
    golden(
        "keepalive_request",
        KeepaliveRequest {
            ttl_seconds: Some(90),
            zone: Some("rack-1".into()),
            fingerprint: Some("000102030405060708090a0b0c0d0e0f".into()),
            count: Some(400),
            epoch: Some(1_700_000_000_000),
            seq: Some(7),
            bytes_from_peers: Some(1),
            bytes_served: Some(2),
            misses: Some(3),
            ..go
        },
    );
    let answer = KeepaliveResponse { success: true, message: "keep alive success".into(), resync: false };
    golden("keepalive_response", answer.clone());
    golden("keepalive_response_resync", KeepaliveResponse { resync: true, ..answer });
}

#[test]
fn reports() {
    let request = |reason| ReportRequest {
        host: "10.0.0.1:7781".into(),
        holder: "10.0.0.2:7781".into(),
        group: "default".into(),
        key: DIGEST.into(),
        reason,
    };
    golden("report_request", request(ReportReason::Unreachable));
    for reason in ReportReason::ALL {
        assert_eq!(serde_json::to_value(request(reason)).unwrap()["reason"], reason.as_str());
    }
    let message = "report accepted".into();
    golden("report_response", ReportResponse { success: true, message, recorded: true });
}

#[test]
fn messages() {
    let none = Message { success: None, message: String::new(), error: String::new() };
    golden("message_ok", Message { message: "ok".into(), ..none.clone() });
    let wrong = "Wrong request format: field key is required";
    golden("message_refused", Message { success: Some(false), message: wrong.into(), ..none.clone() });
    golden("message_error", Message { error: wrong.into(), ..none });
    let reasons = vec!["the index is loading".into()];
    golden("readiness", Readiness { ready: false, reasons });
}

#[test]
fn membership() {
    let none = MembersRequest::default();
    let addresses = vec!["10.0.1.4:7790".into(), "10.0.1.5:7790".into()];
    golden("members_request_add", MembersRequest { addresses, ..none.clone() });
    let (address, member) = (Some("10.0.1.4:7790".into()), Some("00000000000000aa".into()));
    golden("members_request_replace", MembersRequest { address, member, ..none });
    golden(
        "members_progress",
        MembersProgress {
            done: false,
            phase: "snapshot".into(),
            node: Some("00000000000000cc".into()),
            position: 5,
            goal: 60,
            message: "server 00000000000000cc gets a snapshot".into(),
        },
    );
    let leader = MemberEntry {
        node: "00000000000000bb".into(),
        raft_address: "10.0.1.2:7790".into(),
        api_address: "10.0.1.2:7789".into(),
        role: "leader".into(),
        lag: Some(0),
        answers: None,
        answered_ms_ago: None,
        leaving: false,
    };
    let leaving = MemberEntry { role: "voter".into(), lag: None, leaving: true, ..leader.clone() };
    let answers = MemberEntry { answers: Some(true), answered_ms_ago: Some(90), ..leader.clone() };
    let silent = MemberEntry { answers: Some(false), answered_ms_ago: None, ..leaving.clone() };
    let response = MembersResponse {
        cluster: "0f".repeat(16),
        node: "00000000000000bb".into(),
        quorum: true,
        voters: 2,
        majority: 2,
        answering: None,
        members: vec![leader, leaving],
        reasons: vec!["no leader with a quorum is known".into()],
    };
    golden("members_response", response.clone());
    let members = vec![answers, silent];
    golden("members_response_answering", MembersResponse { answering: Some(1), members, ..response });
}

#[test]
fn views() {
    golden(
        "capabilities",
        Capabilities { api: 1, cluster: "0f".repeat(16), features: vec!["withdraw".into()], servers: 3 },
    );
    golden(
        "status_response",
        StatusResponse {
            version: "0.1.0".into(),
            cluster: "0f".repeat(16),
            node: "00000000000000aa".into(),
            leader: Some("00000000000000bb".into()),
            quorum: true,
            current: true,
            term: 3,
            applied_index: 42,
            checksum: "01".repeat(16),
            level: LevelStatus {
                active: 1,
                lowest: 1,
                highest: 2,
                next: Some(2),
                begins_in_seconds: Some(60),
                way_back: "servers can go back".into(),
            },
            members: vec![MemberStatus {
                node: "00000000000000bb".into(),
                raft_address: "10.0.1.2:7790".into(),
                api_address: "10.0.1.2:7789".into(),
                role: "leader".into(),
                lag: Some(0),
                answers: Some(true),
                answered_ms_ago: Some(90),
                disk: None,
                reads: Some(LevelRange { lowest: 1, highest: 2 }),
            }],
            hosts: 2,
            hosts_hidden: 1,
            keys: 30,
            pairs: 40,
            bytes_from_peers: Some(5),
            bytes_served: Some(6),
            misses: Some(7),
            reasons: vec!["no leader with a quorum is known".into()],
        },
    );
    let host = HostStatus {
        group: "default".into(),
        holder: "10.0.0.1:7781".into(),
        zone: "rack-1".into(),
        keys: 30,
        hidden_unix_ms: None,
    };
    let hidden = HostStatus {
        holder: "10.0.0.2:7781".into(),
        hidden_unix_ms: Some(1_700_000_000_000),
        ..host.clone()
    };
    golden("hosts_response", HostsResponse { hosts: vec![host.clone(), hidden], next: None });
    let next = Some("10.0.0.1:7781/default".into());
    golden("hosts_response_page", HostsResponse { hosts: vec![host], next });
}
