//! Queries and bodies as they are sent.

use bytes::Bytes;
use serde::Serialize;

use crate::api::FindQuery;

/// A wire type as a body.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("wire types are plain data with string keys").into()
}

/// The query of a findkey.
pub(super) fn find_query(query: &FindQuery) -> String {
    let mut text = format!("key={}&group={}", percent_encoded(&query.key), percent_encoded(&query.group));
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("&{name}={}", percent_encoded(&value)));
        }
    };
    add("count", query.count.map(|count| count.to_string()));
    add("request_host", query.request_host.clone());
    add("min_index", query.min_index.map(|index| index.to_string()));
    add("rank", query.rank.clone());
    text
}

/// RFC 3986: everything but unreserved characters as `%XX`.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
