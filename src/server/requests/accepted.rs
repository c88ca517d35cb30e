//! Checks of writes and heartbeats before anything is proposed: `apply` never sees bad data of a client.
//!
//! Requests with a pair come from native agents, which are told what is wrong. Requests without one come from
//! the Go `pi`, which does not retry after a 4xx: one bad key must not make its node invisible.

mod keys;

use std::net::{IpAddr, SocketAddr};

use keys::KeyList;
use piccolo_raft::model::{Fingerprint, GROUP_BYTES_MAX, Holder, Key, Pair, ZONE_BYTES_MAX};

use crate::limits::{EPOCH_MAX, EPOCH_STEP_MAX, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN};
use crate::server::error::FormatError;
use crate::server::leases::Heartbeat;
use crate::server::leases::fleet::Usage;
use crate::server::requests::json::{Fields, Texts};

const HEARTBEAT_FIELDS: [&str; 11] = [
    "host",
    "group",
    "zone",
    "ttl_seconds",
    "fingerprint",
    "count",
    "bytes_from_peers",
    "bytes_served",
    "misses",
    "epoch",
    "seq",
];

/// Which addresses a holder may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderPolicy {
    /// Whether loopback addresses are accepted: the server itself listens only there.
    pub loopback: bool,
}

/// An accepted advertise, withdraw or sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedWrite {
    /// Whose keys these are.
    pub holder: Holder,
    /// Its place in the order of the holder's writes; `None` of a client without pairs.
    pub pair: Option<Pair>,
    /// The keys, sorted and without duplicates. A list longer than any holder may have is cut after the first
    /// key too many.
    pub keys: Vec<Key>,
    /// How many entries of the list were skipped because they are not keys.
    pub skipped: u64,
    /// Whether the list was empty, or had only empty strings.
    pub named_nothing: bool,
    /// Zone label of the holder; `None` leaves the stored one.
    pub zone: Option<String>,
    /// Length of the holder's lease; `None` leaves the stored one.
    pub ttl_seconds: Option<u32>,
}

/// An accepted heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedHeartbeat {
    /// The holder that has sent it.
    pub holder: Holder,
    /// What it says of its sender.
    pub heartbeat: Heartbeat,
    /// What its sender has done since its start; `None` if it does not say.
    pub usage: Option<Usage>,
}

/// Reads the body of an advertise, a withdraw or a sync.
pub fn write(body: &[u8], holders: HolderPolicy) -> Result<AcceptedWrite, FormatError> {
    let names = ["holder", "group", "epoch", "seq", "zone", "ttl_seconds"];
    let mut fields = Fields::<KeyList>::parse_with(body, &names, "keys")?;
    let address = fields.required_text("holder")?;
    let list = fields.required_texts()?;
    let group = required_group(&mut fields)?;
    let pair = pair(&mut fields)?;
    let (zone, ttl_seconds) = zone_and_ttl(&mut fields)?;
    let holder = Holder { group, address: holder_address("holder", &address, holders)? };
    let named_nothing = list.named_nothing();
    let skipped = list.skipped();
    let keys = if pair.is_some() { list.all_valid()? } else { list.some_valid()? };
    Ok(AcceptedWrite { holder, pair, keys, skipped, named_nothing, zone, ttl_seconds })
}

/// Reads the body of a keepalive.
pub fn heartbeat(body: &[u8], holders: HolderPolicy) -> Result<AcceptedHeartbeat, FormatError> {
    let mut fields = Fields::parse(body, &HEARTBEAT_FIELDS)?;
    let address = fields.required_text("host")?;
    let group = required_group(&mut fields)?;
    let holder = Holder { group, address: holder_address("host", &address, holders)? };
    let (zone, ttl_seconds) = zone_and_ttl(&mut fields)?;
    let fingerprint = fields.text("fingerprint")?.map(fingerprint).transpose()?;
    fields.unsigned("count")?;
    let counters =
        (fields.unsigned("bytes_from_peers")?, fields.unsigned("bytes_served")?, fields.unsigned("misses")?);
    let usage = match counters {
        (Some(bytes_from_peers), Some(bytes_served), Some(misses)) => {
            Some(Usage { bytes_from_peers, bytes_served, misses })
        }
        _ => None,
    };
    let heartbeat = Heartbeat { zone, ttl_seconds, pair: pair(&mut fields)?, fingerprint };
    Ok(AcceptedHeartbeat { holder, heartbeat, usage })
}

fn zone_and_ttl<T: Texts>(fields: &mut Fields<T>) -> Result<(Option<String>, Option<u32>), FormatError> {
    let zone = fields.text_within("zone", ZONE_BYTES_MAX)?;
    let zone = zone.map(|zone| name("zone", zone, ZONE_BYTES_MAX)).transpose()?;
    Ok((zone, fields.unsigned("ttl_seconds")?.map(ttl).transpose()?))
}

fn ttl(seconds: u64) -> Result<u32, FormatError> {
    let range = LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX;
    u32::try_from(seconds).ok().filter(|seconds| range.contains(seconds)).ok_or_else(|| {
        let reason = format!("must be {LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX}");
        FormatError::value("ttl_seconds", reason)
    })
}

fn fingerprint(hex: String) -> Result<Fingerprint, FormatError> {
    let well_formed = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let error = || FormatError::value("fingerprint", "is not 32 hex digits");
    if well_formed { hex.parse().map_err(|_| error()) } else { Err(error()) }
}

/// Refuses an epoch that leaves no room for later ones: each later write of the holder must be above the
/// stored epoch. An epoch far below [`EPOCH_MAX`] locks no holder out, however wrong the clock is that it
/// comes from, because a writer that is told of a stored epoch goes on above it. An epoch that goes on from
/// the stored one in this way is accepted, so that a holder at the limit can go on as well.
///
/// No clock is asked: an agent's epoch would be compared with the clock of another machine, and a leader
/// without a battery for its clock would refuse every new holder.
pub fn refuse_last_epoch(pair: Option<Pair>, stored: Option<Pair>) -> Result<(), FormatError> {
    let behind_stored = stored.map_or(0, |stored| stored.epoch.saturating_add(EPOCH_STEP_MAX));
    let epoch_max = EPOCH_MAX.max(behind_stored);
    match pair {
        Some(Pair { epoch, .. }) if epoch > epoch_max => {
            let reason = format!("{epoch} is over the limit of {epoch_max}; it is a time in milliseconds");
            Err(FormatError::value("epoch", reason))
        }
        _ => Ok(()),
    }
}

fn pair<T: Texts>(fields: &mut Fields<T>) -> Result<Option<Pair>, FormatError> {
    match (fields.unsigned("epoch")?, fields.unsigned("seq")?) {
        (Some(epoch), Some(seq)) => Ok(Some(Pair { epoch, seq })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(FormatError::value("epoch", "needs field seq beside it")),
        (None, Some(_)) => Err(FormatError::value("seq", "needs field epoch beside it")),
    }
}

fn required_group<T: Texts>(fields: &mut Fields<T>) -> Result<String, FormatError> {
    let group = group_of(fields)?.filter(|group| !group.is_empty());
    group.ok_or(FormatError::Missing { field: "group" })
}

/// The group of a request, which may leave it out.
pub fn group_of<T: Texts>(fields: &mut Fields<T>) -> Result<Option<String>, FormatError> {
    fields.text_within("group", GROUP_BYTES_MAX)?.map(group).transpose()
}

/// Checks the name of a group.
pub fn group<T: AsRef<str>>(given: T) -> Result<T, FormatError> {
    name("group", given, GROUP_BYTES_MAX)
}

/// Checks a name, by the rule for settings and keys: people see names in tables and logs, so they have no
/// characters that move the cursor.
fn name<T: AsRef<str>>(field: &str, given: T, bytes_max: usize) -> Result<T, FormatError> {
    let text = given.as_ref();
    if text.len() > bytes_max {
        return Err(FormatError::value(field, format!("is longer than {bytes_max} bytes")));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(FormatError::value(field, "has white space or a control character"));
    }
    Ok(given)
}

/// Reads the address of a blob server, which other nodes must be able to reach.
pub fn holder_address(field: &str, text: &str, policy: HolderPolicy) -> Result<SocketAddr, FormatError> {
    let address =
        socket_address(text).ok_or_else(|| FormatError::value(field, format!("is not ip:port: {text:?}")))?;
    let ip = address.ip();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let fault = match ip {
        _ if address.port() == 0 => Some("has port 0"),
        ip if ip.is_unspecified() => Some("is an unspecified address, others cannot reach it"),
        ip if ip.is_multicast() => Some("is a multicast address"),
        ip if ip.is_loopback() && !policy.loopback => Some("is a loopback address, others cannot reach it"),
        _ if link_local && !policy.loopback => Some("is a link-local address, others cannot reach it"),
        _ => None,
    };
    match fault {
        Some(fault) => {
            let reason = format!(
                "{fault}: {text:?}; start that agent with --advertise IP:PORT or --advertise-interface NAME, an \
                 address under which the other nodes reach it"
            );
            Err(FormatError::value(field, reason))
        }
        None => Ok(address),
    }
}

/// Reads `ip:port`. An IPv4-mapped address becomes IPv4, and a scope is dropped, so that one host has one
/// name.
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REQUEST_KEYS_MAX;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const PUBLIC: HolderPolicy = HolderPolicy { loopback: false };

    fn refused(json: &str) -> String {
        write(json.as_bytes(), PUBLIC).unwrap_err().to_string()
    }

    fn with_holder(holder: &str) -> String {
        format!(r#"{{"holder":"{holder}","group":"g","keys":["a/b:1"]}}"#)
    }

    #[test]
    fn a_native_request_is_told_which_key_is_bad() {
        let request = |keys: &str| {
            refused(&format!(
                r#"{{"holder":"10.0.0.1:1","group":"g","epoch":1,"seq":1,"keys":["a/b:1",{keys}]}}"#
            ))
        };
        assert_eq!(request(r#""sha256:xyz""#), "field keys[1] is not sha256: and 64 lower-case hex digits");
        assert_eq!(request(r#""""#), "field keys[1] is empty");
        let long = format!(r#""{}""#, "k".repeat(256));
        assert_eq!(request(&long), "field keys[1] has 256 bytes, the limit is 255");
        let many = vec![r#""a/b:1""#; REQUEST_KEYS_MAX].join(",");
        assert_eq!(request(&many), "field keys has 100001 entries, the limit is 100000");
    }

    #[test]
    fn the_largest_native_request_is_taken() {
        let many = vec![r#""a/b:1""#; REQUEST_KEYS_MAX].join(",");
        let json = format!(r#"{{"holder":"10.0.0.1:1","group":"g","epoch":1,"seq":1,"keys":[{many}]}}"#);
        assert_eq!(write(json.as_bytes(), PUBLIC).unwrap().keys.len(), 1);
    }

    /// B25: the Go server cuts a long key to its column and stores something else.
    #[test]
    fn without_a_pair_bad_keys_are_skipped_and_counted_and_the_rest_counts() {
        let long = "k".repeat(256);
        let json = format!(
            r#"{{"holder":"10.0.0.1:1","group":"g","keys":["{DIGEST}","sha256:xyz","{long}","","{DIGEST}"]}}"#
        );
        let accepted = write(json.as_bytes(), PUBLIC).unwrap();
        assert_eq!(accepted.keys, [DIGEST.parse().unwrap()]);
        assert_eq!((accepted.skipped, accepted.named_nothing), (3, false));
        assert!(
            refused(r#"{"holder":"10.0.0.1:1","group":"g","keys":["sha256:x","a b"]}"#)
                .contains("no valid key among 2")
        );
    }

    #[test]
    fn lists_without_a_name_are_marked() {
        for keys in ["[]", r#"["",""]"#] {
            let json = format!(r#"{{"holder":"10.0.0.1:1","group":"g","keys":{keys}}}"#);
            assert!(write(json.as_bytes(), PUBLIC).unwrap().named_nothing, "{keys}");
        }
    }

    #[test]
    fn an_epoch_needs_a_seq_and_the_other_way_round() {
        let json = |extra: &str| {
            refused(&format!(r#"{{"holder":"10.0.0.1:1","group":"g","keys":["a/b:1"],{extra}}}"#))
        };
        assert_eq!(json(r#""epoch":1"#), "field epoch needs field seq beside it");
        assert_eq!(json(r#""seq":1"#), "field seq needs field epoch beside it");
    }

    #[test]
    fn an_epoch_is_held_to_its_limit_or_to_the_stored_one_and_to_no_clock() {
        let pair = |epoch: u64| Some(Pair { epoch, seq: 1 });
        for epoch in [0, 1, 1_800_000_000_000, EPOCH_MAX] {
            assert_eq!(refuse_last_epoch(pair(epoch), None), Ok(()), "{epoch}");
            assert_eq!(refuse_last_epoch(pair(epoch), pair(7)), Ok(()), "{epoch} behind a low one");
        }
        for epoch in [EPOCH_MAX + 1, u64::MAX] {
            let message = refuse_last_epoch(pair(epoch), None).unwrap_err().to_string();
            assert!(message.starts_with("field epoch") && message.contains("over the limit"), "{message}");
        }
        let stored = pair(EPOCH_MAX);
        assert_eq!(refuse_last_epoch(pair(EPOCH_MAX + EPOCH_STEP_MAX), stored), Ok(()), "it goes on");
        assert!(refuse_last_epoch(pair(EPOCH_MAX + EPOCH_STEP_MAX + 1), stored).is_err());
        assert_eq!(refuse_last_epoch(pair(u64::MAX), pair(u64::MAX)), Ok(()), "a repetition at the end");
        assert_eq!(refuse_last_epoch(None, stored), Ok(()));
    }

    /// This holds for the Go `pi` as well, which has no pair: its operator should see the error.
    #[test]
    fn names_have_no_white_space_and_no_control_characters() {
        for bad in [r"a b", r"a\nb", r"\u001b[2J", r"\u0000", r"a\u00a0b", r"\u0085"] {
            let reason = "has white space or a control character";
            let json = format!(r#"{{"holder":"10.0.0.1:1","group":"{bad}","keys":["a/b:1"]}}"#);
            assert_eq!(refused(&json), format!("field group {reason}"), "{bad}");
            let sent = |group: &str, zone: &str| {
                let json = format!(r#"{{"host":"10.0.0.1:1","Group":"{group}","zone":"{zone}"}}"#);
                heartbeat(json.as_bytes(), PUBLIC).map_err(|error| error.to_string())
            };
            assert_eq!(sent(bad, "z"), Err(format!("field group {reason}")), "{bad}");
            assert_eq!(sent("g", bad), Err(format!("field zone {reason}")), "{bad}");
            assert!(sent("g", "").is_ok());
        }
    }

    #[test]
    fn holders_that_cannot_be_reached_are_refused_with_the_reason() {
        for (holder, reason) in [
            ("127.0.0.1:7781", "loopback"),
            ("[::1]:7781", "loopback"),
            ("[::ffff:127.0.0.1]:7781", "loopback"),
            ("169.254.1.1:7781", "link-local"),
            ("[fe80::1]:7781", "link-local"),
            ("0.0.0.0:7781", "unspecified"),
            ("[::]:7781", "unspecified"),
            ("224.0.0.1:7781", "multicast"),
            ("10.0.0.1:0", "port 0"),
            (":7781", "ip:port"),
            ("10.0.0.1", "ip:port"),
            ("node-1:7781", "ip:port"),
            ("10.0.0.1:99999", "ip:port"),
            ("[fd00::1:7781", "ip:port"),
            ("../..:1", "ip:port"),
        ] {
            let message = refused(&with_holder(holder));
            assert!(message.starts_with("field holder") && message.contains(reason), "{holder}: {message}");
            let advises = message.contains("--advertise IP:PORT or --advertise-interface NAME");
            assert!(advises || reason == "ip:port", "{holder}: {message}");
        }
    }

    #[test]
    fn a_loopback_server_takes_loopback_holders_but_not_unspecified_ones() {
        let loopback = HolderPolicy { loopback: true };
        assert!(write(with_holder("127.0.0.1:7781").as_bytes(), loopback).is_ok());
        assert!(write(with_holder("0.0.0.0:7781").as_bytes(), loopback).is_err());
    }

    #[test]
    fn one_host_has_one_name() {
        for holder in ["10.0.0.1:7781", "[::ffff:10.0.0.1]:7781", "[::ffff:a00:1]:7781"] {
            let accepted = write(with_holder(holder).as_bytes(), PUBLIC).unwrap();
            assert_eq!(accepted.holder.address.to_string(), "10.0.0.1:7781");
        }
        let accepted = write(with_holder("[FD00:0:0::1]:7781").as_bytes(), PUBLIC).unwrap();
        assert_eq!(accepted.holder.address.to_string(), "[fd00::1]:7781");
    }

    #[test]
    fn groups_have_a_limit() {
        let json = |n: usize| format!(r#"{{"host":"10.0.0.1:1","Group":"{}"}}"#, "g".repeat(n));
        assert!(heartbeat(json(GROUP_BYTES_MAX).as_bytes(), PUBLIC).is_ok());
        let error = heartbeat(json(GROUP_BYTES_MAX + 1).as_bytes(), PUBLIC).unwrap_err();
        assert_eq!(error.to_string(), "field group is longer than 64 bytes");
    }

    #[test]
    fn a_heartbeat_is_told_what_is_wrong_with_it() {
        for (extra, reason) in [
            (r#""ttl_seconds":2"#, "ttl_seconds must be 3 to 86400"),
            (r#""ttl_seconds":86401"#, "ttl_seconds must be 3 to 86400"),
            (r#""ttl_seconds":"90""#, "ttl_seconds must be an integer"),
            (r#""fingerprint":"abc""#, "fingerprint is not 32 hex digits"),
            (r#""fingerprint":"+0000000000000000000000000000000""#, "fingerprint is not 32 hex digits"),
            (r#""zone":7"#, "zone must be a string"),
            (r#""misses":"x""#, "misses must be an integer"),
            (r#""epoch":1"#, "epoch needs field seq"),
        ] {
            let json = format!(r#"{{"host":"10.0.0.1:1","group":"g",{extra}}}"#);
            let message = heartbeat(json.as_bytes(), PUBLIC).unwrap_err().to_string();
            assert!(message.contains(reason), "{extra}: {message}");
        }
    }
}
