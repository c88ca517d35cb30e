//! `GET /api/v1/distribution/findkey`: the holders of a key, the best for the asker first. Any server answers
//! from its own index, with or without a quorum. The 404 of a server that may lack what the others have is
//! marked ([`crate::api::header::BEHIND`]): another server may know a holder. An answer with holders needs no
//! mark.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{FromRef, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use metrics::Histogram;
use piccolo_raft::cluster::Node;
use piccolo_raft::index::{Index, Postings};
use piccolo_raft::model::{Holder, Key};

use crate::api::flight::{FlightClaim, FlightSources, INTENT_FETCH};
use crate::limits::{FINDKEY_COUNT_DEFAULT, FINDKEY_COUNT_MAX, MIN_INDEX_WAIT_MAX};
use crate::server::app::{App, Loaded};
use crate::server::error::FormatError;
use crate::server::error::{ApiError, QueryError};
use crate::server::flights::claim::Ruling;
use crate::server::flights::table::Content;
use crate::server::flights::{self, Flights};
use crate::server::ranking::{Asker, Holders, rank, rank_by_reputation};
use crate::server::reports::Reports;
use crate::server::requests::accepted::{group, socket_address};
use crate::server::requests::query::Query;

/// The parts that a lookup uses.
#[derive(Clone)]
pub struct Lookups {
    node: Node,
    index: Index,
    reports: Arc<Reports>,
    flights: Arc<Flights>,
}

impl FromRef<App> for Lookups {
    fn from_ref(app: &App) -> Self {
        Self {
            node: app.node.clone(),
            index: app.index.clone(),
            reports: Arc::clone(&app.reports),
            flights: Arc::clone(&app.flights),
        }
    }
}

/// A findkey that can be answered.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    key: &'a str,
    group: &'a str,
    count: usize,
    asked_by: AskedBy,
    prefix_order: bool,
    min_index: u64,
    /// Set by a node that receives the content, and passes it on meanwhile.
    flight: Option<FlightQuestion>,
}

/// What a node that asks with `intent=fetch` says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FlightQuestion {
    have_bytes: u64,
    transfer: u64,
    begins: bool,
    is_starved: bool,
    lost: Option<SocketAddr>,
    owes: u32,
    attempt: Option<u64>,
}

/// The asker, as `request_host` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedBy {
    Unknown,
    Holder(SocketAddr),
    Host(IpAddr),
}

/// Answers a lookup that came through the routes.
pub async fn handle(
    lookups: Result<Loaded<Lookups>, ApiError>,
    request: Request,
) -> Result<Response, QueryError> {
    let Loaded(lookups) = lookups?;
    lookups.answer(&Query::parse(request.uri().query())).await
}

impl Lookups {
    /// Answers one findkey.
    ///
    /// # Errors
    /// [`ApiError::KeyNotFound`] if no holder is known, [`ApiError::NotMember`] if this server is no member
    /// yet, [`ApiError::MinIndexTimeout`] and [`ApiError::Format`].
    pub async fn answer(&self, query: &Query<'_>) -> Result<Response, QueryError> {
        let question = question(query)?;
        check_admitted(self.node.is_member())?;
        self.wait_applied(question.min_index).await?;
        let key = question.key.parse::<Key>().ok();
        let look = || key.as_ref().map(|key| self.holders(&question, key)).unwrap_or_default();
        let mut found = look();
        let behind = found.is_empty() && self.node.behind().is_some();
        if found.is_empty() && !behind {
            // The server may have caught up after the first look.
            found = look();
        }
        result_count().record(found.len() as f64);
        if let (Some(flight), Some(key), AskedBy::Holder(address), false) =
            (question.flight, key, question.asked_by, behind)
        {
            // In a box: otherwise each lookup would move the memory for this future.
            let sources = Box::pin(self.flight_sources(&question, flight, key, (address, !found.is_empty())));
            return Ok(json(written(&question, &found, Some(&sources.await))));
        }
        if found.is_empty() {
            return Err(ApiError::KeyNotFound { key: question.key.to_owned(), behind }.into());
        }
        Ok(json(written(&question, &found, None)))
    }

    /// Where the node at `asker.0` may get content that is still arriving; `asker.1`: complete holders are known.
    async fn flight_sources(
        &self,
        question: &Question<'_>,
        flight: FlightQuestion,
        key: Key,
        asker: (SocketAddr, bool),
    ) -> FlightSources {
        let (address, is_held) = asker;
        let holder = Holder { group: question.group.to_owned(), address };
        let zone = self.index.host(&holder).map(|record| record.zone).unwrap_or_default();
        let FlightQuestion { have_bytes, transfer, begins, is_starved, lost, owes, attempt } = flight;
        let node = flights::table::Node { address, zone, have_bytes, transfer };
        let asked = flights::table::Question { node, begins, is_held, is_starved, lost, owes, attempt };
        let content = Content { group: holder.group, key };
        let sources = self.flights.ask(content, asked).await;
        let not: Vec<_> = std::iter::once(address).chain(lost).collect();
        let partial = sources.pick(&not, &mut rand::rng());
        FlightSources {
            partial: partial.iter().map(ToString::to_string).collect(),
            fetcher: sources.fetcher.map(|fetcher| fetcher.to_string()),
            claim: sources.ruling.map(claim),
            came: sources.came,
            attempt: sources.attempt,
        }
    }

    /// The holders of `key`, the best for the asker first.
    fn holders(&self, question: &Question<'_>, key: &Key) -> Vec<SocketAddr> {
        let found = self.index.find(question.group, key, |postings| {
            let asker = asker(postings, question);
            let by_reputation = self.reports.with_reputation(question.group, key, |reputation| {
                rank_by_reputation(postings, key, &asker, question.count, reputation)
            });
            by_reputation.unwrap_or_else(|| rank(postings, key, &asker, question.count))
        });
        found.unwrap_or_default()
    }

    /// Waits until the log index `wanted` is applied.
    async fn wait_applied(&self, wanted: u64) -> Result<(), ApiError> {
        if self.index.applied_index() >= wanted {
            return Ok(());
        }
        let waited = tokio::time::timeout(MIN_INDEX_WAIT_MAX, self.index.wait_applied(wanted)).await;
        waited.map_err(|_| ApiError::MinIndexTimeout { wanted, applied: self.index.applied_index() })
    }
}

/// The ruling as it is on the wire.
fn claim(ruling: Ruling) -> FlightClaim {
    match ruling {
        Ruling::Yours => FlightClaim::Yours,
        Ruling::HeldBy(_) => FlightClaim::Held,
        Ruling::Undecided(_) => FlightClaim::Undecided,
        Ruling::Open => FlightClaim::Open,
    }
}

/// An answer with this JSON.
fn json(body: Vec<u8>) -> Response {
    let mut answer = Response::new(Body::from(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Refuses a lookup while this server waits to be admitted: it has nothing, or a snapshot that ages. Its 404
/// would send the asker to the registry, and its holders may be gone. A 503 sends the asker to the next
/// server: a server that has lost its disk is still in the lists of all agents. A member answers, with or
/// without a quorum.
fn check_admitted(member: bool) -> Result<(), ApiError> {
    if member {
        return Ok(());
    }
    Err(ApiError::NotMember)
}

/// The histogram of the number of holders in answers; found once instead of at each lookup.
fn result_count() -> &'static Histogram {
    static RESULT_COUNT: OnceLock<Histogram> = OnceLock::new();
    RESULT_COUNT.get_or_init(|| metrics::histogram!("piccolo_api_findkey_db_result_count"))
}

/// A [`crate::api::FindResponse`] as JSON, without a string for each address: writing each of them twice
/// would be half of a lookup's own work.
fn written(question: &Question<'_>, holders: &[SocketAddr], flight: Option<&FlightSources>) -> Vec<u8> {
    const ADDRESS_BYTES: usize = "\"255.255.255.255:65535\",".len();
    let mut body = Vec::with_capacity(128 + question.key.len() + holders.len() * ADDRESS_BYTES);
    body.extend_from_slice(b"{\"key\":");
    serde_json::to_writer(&mut body, question.key).expect("memory takes every string");
    body.extend_from_slice(b",\"Group\":");
    serde_json::to_writer(&mut body, question.group).expect("memory takes every string");
    body.extend_from_slice(b",\"holders\":[");
    for (position, holder) in holders.iter().enumerate() {
        body.extend_from_slice(if position == 0 { b"\"" } else { b",\"" });
        write_address(&mut body, *holder);
        body.push(b'"');
    }
    body.extend_from_slice(b"],\"total\":0");
    if let Some(flight) = flight {
        body.extend_from_slice(b",\"flight\":");
        serde_json::to_writer(&mut body, flight).expect("memory takes every string");
    }
    body.push(b'}');
    body
}

/// Writes an address as `Display` does, which takes three times as long for IPv4.
fn write_address(body: &mut Vec<u8>, address: SocketAddr) {
    let SocketAddr::V4(address) = address else {
        write!(body, "{address}").expect("memory takes everything");
        return;
    };
    let mut digits = itoa::Buffer::new();
    for octet in address.ip().octets() {
        body.extend_from_slice(digits.format(octet).as_bytes());
        body.push(b'.');
    }
    body.pop();
    body.push(b':');
    body.extend_from_slice(digits.format(address.port()).as_bytes());
}

fn question<'a>(query: &'a Query<'_>) -> Result<Question<'a>, FormatError> {
    let count = match query.integer::<i64>("count")? {
        None | Some(i64::MIN..=0) => FINDKEY_COUNT_DEFAULT,
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX).min(FINDKEY_COUNT_MAX),
    };
    let prefix_order = match query.text("rank") {
        None => false,
        Some("prefix") => true,
        Some(other) => return Err(FormatError::value("rank", format!("must be prefix, not {other:?}"))),
    };
    Ok(Question {
        key: query.required("key")?,
        group: group(query.required("group")?)?,
        count,
        asked_by: query.text("request_host").map_or(AskedBy::Unknown, asked_by),
        prefix_order,
        min_index: query.integer("min_index")?.unwrap_or(0),
        flight: flight(query)?,
    })
}

/// What a node says of itself that asks with `intent=fetch`; another intent is not known, and none at all.
fn flight(query: &Query<'_>) -> Result<Option<FlightQuestion>, FormatError> {
    if query.text("intent") != Some(INTENT_FETCH) {
        return Ok(None);
    }
    let is_set = |name| query.text(name).is_some_and(|value| value == "true");
    Ok(Some(FlightQuestion {
        have_bytes: query.integer("have")?.unwrap_or(0),
        transfer: query.integer("transfer")?.unwrap_or(0),
        begins: is_set("begins"),
        is_starved: is_set("starved"),
        lost: query.text("lost").and_then(socket_address),
        owes: query.integer("owes")?.unwrap_or(0),
        attempt: query.integer("attempt")?,
    }))
}

/// The asker that `text` names. A text that cannot be read is an unknown asker, and no reason to refuse an
/// answer: a Go `pi` on IPv6 cuts its own address at the first colon and sends `[fd00`.
fn asked_by(text: &str) -> AskedBy {
    if let Some(address) = socket_address(text) {
        return AskedBy::Holder(address);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().map_or(AskedBy::Unknown, |ip| AskedBy::Host(ip.to_canonical()))
}

fn asker<'a>(postings: &Postings<'a>, question: &Question<'_>) -> Asker<'a> {
    match question.asked_by {
        AskedBy::Unknown => Asker::Unknown,
        AskedBy::Host(ip) => Asker::Host(ip),
        AskedBy::Holder(address) => {
            let zone = postings.zone_of(address).unwrap_or_default();
            Asker::Holder { address, zone, prefix_order: question.prefix_order }
        }
    }
}

impl Holders for Postings<'_> {
    fn len(&self) -> usize {
        Postings::len(self)
    }

    fn address(&self, position: usize) -> SocketAddr {
        Postings::address(self, position)
    }

    fn range(&self, zone: &str, low: u128, high: u128) -> Range<usize> {
        Postings::range(self, zone, low, high)
    }

    fn zone_range(&self, zone: &str) -> Range<usize> {
        Postings::zone_range(self, zone)
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        Postings::addresses(self)
    }

    fn hosts(&self, low: u128, high: u128) -> impl Iterator<Item = (SocketAddr, bool)> {
        Postings::hosts(self, low, high)
    }

    fn host_at_or_below(&self, address: u128) -> Option<u128> {
        Postings::host_at_or_below(self, address)
    }

    fn host_at_or_above(&self, address: u128) -> Option<u128> {
        Postings::host_at_or_above(self, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FindResponse;

    /// The question of a query that lives as long as the test.
    fn ask(query: &str) -> Result<Question<'static>, String> {
        let query = Query::parse(Some(query.to_owned().leak()));
        question(Box::leak(Box::new(query))).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_is_written_as_the_client_reads_it() {
        let holders =
            ["10.0.0.1:7781", "0.0.0.0:1", "255.255.255.255:65535", "192.168.100.20:80", "[fd00::1]:1"];
        let addresses: Vec<SocketAddr> = holders.iter().map(|text| text.parse().unwrap()).collect();
        for key in ["sha256:00", "r/\"a\\:1\u{7f}é"] {
            let query = format!("group=g&key={key}");
            let query = Query::parse(Some(&query));
            let body = written(&question(&query).unwrap(), &addresses, None);
            let read: FindResponse = serde_json::from_slice(&body).unwrap();
            let holders = holders.map(str::to_owned).to_vec();
            assert_eq!(
                read,
                FindResponse { key: key.into(), group: "g".into(), holders, total: 0, flight: None }
            );
            assert_eq!(body, serde_json::to_vec(&read).unwrap());
        }
    }

    #[test]
    fn a_server_that_is_not_admitted_sends_the_asker_on() {
        assert!(matches!(check_admitted(false), Err(ApiError::NotMember)));
        assert!(check_admitted(true).is_ok());
    }

    #[test]
    fn counts_follow_the_rules_of_the_go_piccolo() {
        for (count, expected) in
            [("", 100), ("0", 100), ("-3", 100), ("7", 7), ("2000", 2000), ("2001", 2000), ("+5", 5)]
        {
            let question = ask(&format!("key=k&group=g&count={}", count.replace('+', "%2B"))).unwrap();
            assert_eq!(question.count, expected, "{count}");
        }
        assert_eq!(ask("key=k&group=g").unwrap().count, 100);
        for count in ["x", "1.5", "99999999999999999999"] {
            let error = ask(&format!("key=k&group=g&count={count}")).unwrap_err();
            assert!(error.contains("field count must be an integer"), "{error}");
        }
    }

    #[test]
    fn the_asker_is_a_holder_a_host_or_unknown() {
        let who = |text: &str| ask(&format!("key=k&group=g&request_host={text}")).map(|q| q.asked_by);
        assert_eq!(who("[fd00::1]").unwrap(), AskedBy::Host("fd00::1".parse().unwrap()));
        assert_eq!(who("[fd00::1]:7781").unwrap(), AskedBy::Holder("[fd00::1]:7781".parse().unwrap()));
        assert_eq!(who("").unwrap(), AskedBy::Unknown);
        assert_eq!(who("10.0.0.1:7781").unwrap(), AskedBy::Holder("10.0.0.1:7781".parse().unwrap()));
        assert_eq!(who("10.0.0.1").unwrap(), AskedBy::Host("10.0.0.1".parse().unwrap()));
        assert_eq!(who("fd00::1").unwrap(), AskedBy::Host("fd00::1".parse().unwrap()));
        assert_eq!(who("[::ffff:10.0.0.1]:1").unwrap(), AskedBy::Holder("10.0.0.1:1".parse().unwrap()));
        for bad in ["node-1", "10.0.0.256", "[fd00", "../x"] {
            assert_eq!(who(bad).unwrap(), AskedBy::Unknown, "{bad}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (query, reason) in [
            ("group=g", "field key is required"),
            ("key=k", "field group is required"),
            ("key=k&group=", "field group is required"),
            ("key=k&group=g&min_index=-1", "field min_index must be an integer"),
            ("key=k&group=g&rank=random", "field rank must be prefix"),
        ] {
            assert!(ask(query).unwrap_err().starts_with(reason), "{query}");
        }
    }
}
