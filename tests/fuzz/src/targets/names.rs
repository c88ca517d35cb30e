//! Small grammars: digests, references, keys, ranges, addresses, request paths, query strings.

use std::net::SocketAddr;

use piccolo::agent::content::store::name::ImageName;
use piccolo::oci::{ApiPath, ByteRange, ContentPath, Digest, RangeHeader, Reference};
use piccolo::server::requests::accepted::{HolderPolicy, group, holder_address, socket_address};
use piccolo::server::requests::query::Query;
use piccolo_raft::address::is_address;
use piccolo_raft::cluster::Who;
use piccolo_raft::model::{Fingerprint, GROUP_BYTES_MAX, KEY_BYTES_MAX, Key};

/// Runs all parsers of short texts on one text.
pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    content_names(text);
    ranges(text);
    addresses(text);
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    }
}

fn content_names(text: &str) {
    let digest = text.parse::<Digest>();
    if let Ok(digest) = &digest {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()), "a part of a path: {text}");
    }
    let reference = text.parse::<Reference>();
    if let Ok(reference) = &reference {
        assert_eq!(reference.to_string(), text);
        assert!(!reference.repository.split('/').any(|part| part == ".." || part.is_empty()), "{text}");
    }
    let key = text.parse::<Key>();
    if let Ok(key) = &key {
        assert!(key.to_string() == text && text.len() <= KEY_BYTES_MAX, "{text}");
    }
    if text.starts_with("sha256:") {
        assert_eq!(digest.is_ok(), key.is_ok(), "index and OCI agree on what a digest is: {text}");
    }
    if let ImageName::Tag(name) = ImageName::parse(text) {
        assert!(reference.is_ok() && name.parse::<Key>().is_ok(), "an advertised tag is a key: {text}");
    }
}

fn ranges(text: &str) {
    if let Some(range) = RangeHeader::parse(text) {
        assert_eq!(RangeHeader::parse(&range.to_string()), Some(range));
        for total in [0, 1, 1000, u64::MAX] {
            if let Some(part) = range.within(total) {
                assert!(part.start < part.end && part.end <= total && part.total == total, "{part:?}");
                assert_eq!(ByteRange::parse_content_range(&part.to_string()), Some(part));
            }
        }
    }
    if let Some(part) = ByteRange::parse_content_range(text) {
        assert!(part.start < part.end && part.end <= part.total && part.len() > 0, "{part:?}");
        assert_eq!(ByteRange::parse_content_range(&part.to_string()), Some(part));
    }
}

fn addresses(text: &str) {
    if let Some(address) = socket_address(text) {
        assert_eq!(socket_address(&address.to_string()), Some(address));
    }
    if let Ok(holder) = holder_address("holder", text, HolderPolicy { loopback: false }) {
        let reachable = |address: SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
        assert!(reachable(holder) && holder.port() != 0, "{holder}");
    }
    if let Ok(group) = group(text) {
        assert!(group.len() <= GROUP_BYTES_MAX && !group.chars().any(char::is_control), "{group:?}");
    }
    if let Ok(who) = text.parse::<Who>() {
        assert_eq!(who.to_string().parse(), Ok(who));
    }
    assert!(!is_address(text) || text.len() <= 300, "{text}");
}

/// Parses path and query of a request.
pub(super) fn run_path(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let parsed = Query::parse(query);
    for name in ["key", "group", "count", "request_host"] {
        assert!(parsed.text(name).is_none_or(|value| !value.is_empty()));
        parsed.integer::<i64>(name).ok();
    }
    let Ok(ApiPath::Content(content)) = ApiPath::parse(path, query) else { return };
    let target = content.request_target();
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    // If the first part of a name looks like a registry, the registry is known.
    assert_eq!(ApiPath::parse(path, query), Ok(ApiPath::Content(content.clone())), "{target}");
    assert!(
        target.is_ascii() && !target.contains([' ', '\r', '\n']),
        "it becomes a request line: {target:?}"
    );
    let ContentPath { repository, .. } = &content;
    assert!(!repository.split('/').any(|part| part == ".." || part.is_empty()), "{repository}");
    if let Some(name) = content.tag_name() {
        assert!(name.parse::<Reference>().is_ok(), "{name}");
    }
}
