//! Encoding of queries and bodies.

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Serialize;

use crate::api::FindQuery;

/// Characters that are sent as `%XX`: all but the unreserved ones of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a wire type as a JSON body.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("wire types are plain data with string keys").into()
}

/// Encodes the query of a findkey.
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
    add("intent", query.intent.clone());
    add("have", query.have.map(|bytes| bytes.to_string()));
    add("transfer", query.transfer.map(|number| number.to_string()));
    add("begins", query.begins.map(|begins| begins.to_string()));
    add("starved", query.starved.map(|starved| starved.to_string()));
    add("lost", query.lost.clone());
    add("owes", query.owes.map(|claims| claims.to_string()));
    add("attempt", query.attempt.map(|attempt| attempt.to_string()));
    text
}

/// Encodes a value of a query.
pub(super) fn percent_encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ESCAPED)
}
