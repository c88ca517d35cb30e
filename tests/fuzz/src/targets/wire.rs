//! JSON of the discovery API in both directions, and the server's own parser of requests.

use piccolo::api::{
    Capabilities, FindQuery, FindResponse, HostsResponse, KeepaliveRequest, KeepaliveResponse,
    MembersProgress, MembersRequest, MembersResponse, Message, Readiness, ReportRequest, ReportResponse,
    StatusResponse, WriteRequest, WriteResponse,
};
use piccolo::server::requests::accepted::{self, HolderPolicy};
use piccolo_raft::model::{GROUP_BYTES_MAX, KEY_BYTES_MAX, ZONE_BYTES_MAX};
use piccolo_raft::network::Whoami;
use serde::{Serialize, de::DeserializeOwned};

pub(super) fn run(json: &[u8]) {
    again::<WriteRequest>(json);
    again::<WriteResponse>(json);
    again::<FindQuery>(json);
    again::<FindResponse>(json);
    again::<KeepaliveRequest>(json);
    again::<KeepaliveResponse>(json);
    again::<ReportRequest>(json);
    again::<ReportResponse>(json);
    again::<Capabilities>(json);
    again::<Message>(json);
    again::<Readiness>(json);
    again::<StatusResponse>(json);
    again::<HostsResponse>(json);
    again::<MembersRequest>(json);
    again::<MembersProgress>(json);
    again::<MembersResponse>(json);
    again::<Whoami>(json);
    requests(json);
}

/// Checks that a value that was read is equal after it is written and read again.
fn again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let written = serde_json::to_vec(&value).expect("wire types are plain data");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("what is written is read"), value);
}

/// Checks that an accepted request is within its limits.
fn requests(json: &[u8]) {
    let holders = HolderPolicy { loopback: true };
    if let Ok(write) = accepted::write(json, holders) {
        assert!(write.keys.is_sorted() && write.keys.windows(2).all(|two| two[0] != two[1]));
        assert!(write.keys.iter().all(|key| (1..=KEY_BYTES_MAX).contains(&key.to_string().len())));
        assert!(
            (1..=GROUP_BYTES_MAX).contains(&write.holder.group.len()) && write.holder.address.port() != 0
        );
        assert!(write.zone.is_none_or(|zone| zone.len() <= ZONE_BYTES_MAX));
    }
    if let Ok(accepted) = accepted::heartbeat(json, holders) {
        assert!((1..=GROUP_BYTES_MAX).contains(&accepted.holder.group.len()));
        assert!(accepted.heartbeat.ttl_seconds.is_none_or(|ttl| ttl >= 3));
    }
}
