//! `/api/v1/members`: who the servers are, and changes of that.
//!
//! A change goes to the leader like a write. The answer comes after a few steps at most and says how
//! far it is; the client asks again until it is done, at whichever server: nobody waits here for a
//! snapshot to arrive somewhere.
//!
//! Without TLS nobody can prove to be an operator. So these calls are taken from this host only, or
//! from everywhere where `--insecure` says that whoever reaches the ports is trusted. A proxy on this
//! host or a web page in a browser here calls from this host too, for others: what they add to a
//! request gives them away, and JSON is what a page may not send elsewhere without being asked for leave.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, FORWARDED, HeaderName, ORIGIN, VIA};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use piccolo_raft::address::is_address;
use piccolo_raft::cluster::{Change, Contact, MEMBERS_MAX, MembersError, Phase, Progress, Role, Who};

use crate::api::{MemberEntry, MembersAction, MembersProgress, MembersResponse, path};
use crate::http::Connection;
use crate::server::app::App;
use crate::server::cluster::forward::{ForLeader, to_leader};
use crate::server::endpoints::status;
use crate::server::error::ApiError;
use crate::server::requests::intake;
use crate::server::requests::json::{Fields, FormatError, Texts};

/// All members: by the leader, who knows how far they are; without one, by this server.
pub async fn list(app: &Arc<App>, incoming: Request) -> Result<Response, ApiError> {
    let forwarded = ForLeader::is_forwarded(incoming.headers());
    if app.leads() || !app.node.has_quorum() {
        return Ok(Json(answer(app)).into_response());
    }
    let held = Arc::new(());
    let request = ForLeader { path: path::MEMBERS, body: Bytes::new(), forwarded, repeatable: true, held };
    match to_leader(app, request, async || Ok(Json(answer(app)).into_response())).await {
        Err(ApiError::NoLeader | ApiError::OutcomeUnknown) => Ok(Json(answer(app)).into_response()),
        answered => answered,
    }
}

fn answer(app: &App) -> MembersResponse {
    let cluster = app.node.status();
    let voting = || cluster.members.iter().filter(|info| info.role != Role::Learner);
    let voters = voting().count() as u64;
    let fresh = || voting().filter(|info| info.contact.is_some_and(Contact::is_fresh)).count() as u64;
    let answering = voting().any(|info| info.contact.is_some()).then(fresh);
    let members = cluster.members.into_iter().map(|info| MemberEntry {
        node: status::node_id(info.node_id),
        role: status::role(info.role).to_owned(),
        lag: info.lag,
        answers: info.contact.map(Contact::is_fresh),
        answered_ms_ago: info.contact.and_then(status::answered_ms_ago),
        leaving: app.node.is_leaving(info.node_id),
        raft_address: info.member.raft_address,
        api_address: info.member.api_address,
    });
    MembersResponse {
        cluster: cluster.cluster_id.map(|id| id.to_string()).unwrap_or_default(),
        node: status::node_id(cluster.node_id),
        quorum: cluster.quorum,
        voters,
        majority: if voters == 0 { 0 } else { voters / 2 + 1 },
        answering,
        members: members.collect(),
        reasons: cluster.reasons,
    }
}

/// A few steps of a change.
pub async fn change(app: &Arc<App>, action: MembersAction, incoming: Request) -> Result<Response, ApiError> {
    check_caller(app, &incoming)?;
    let forwarded = ForLeader::is_forwarded(incoming.headers());
    let (body, share) = intake::read(app, incoming).await?;
    let held = Arc::new(share);
    if action == MembersAction::Activate {
        Fields::parse(&body, &[])?;
        // Repeated on the next leader it finds the level active.
        let request = ForLeader { path: action.path(), body, forwarded, repeatable: true, held };
        return to_leader(app, request, async || progress(app.node.activate().await)).await;
    }
    let change = read(action, &body)?;
    // Repeated on the next leader, "to somebody else" would go on from there.
    let repeatable = !matches!(change, Change::Transfer { to: None });
    let request = ForLeader { path: action.path(), body, forwarded, repeatable, held };
    to_leader(app, request, || decide(app, change.clone())).await
}

/// Refuses who is no operator.
pub(in crate::server) fn check_caller(app: &App, incoming: &Request) -> Result<(), ApiError> {
    let connection = incoming.extensions().get::<Connection>().map(|connection| connection.peer.ip());
    let from = connection.ok_or(ApiError::Internal { reason: "a request without a connection" })?;
    check_operator(app.remote_operators, from, incoming.headers())
}

/// Browsers add the first one, proxies the others.
const SIGNS_OF_OTHERS: [(HeaderName, &str); 4] = [
    (ORIGIN, "Origin"),
    (FORWARDED, "Forwarded"),
    (HeaderName::from_static("x-forwarded-for"), "X-Forwarded-For"),
    (VIA, "Via"),
];

fn check_operator(remote_too: bool, from: IpAddr, headers: &HeaderMap) -> Result<(), ApiError> {
    if !remote_too {
        if !from.to_canonical().is_loopback() {
            return Err(ApiError::NotOperator);
        }
        if let Some((_, name)) = SIGNS_OF_OTHERS.iter().find(|(header, _)| headers.contains_key(header)) {
            return Err(ApiError::PassedOn { name });
        }
    }
    if is_json(headers) { Ok(()) } else { Err(ApiError::NotJson) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The list of new servers, no more of it than one more than there may be.
#[derive(Debug, Default)]
struct Addresses(Vec<String>);

/// An address is shorter, characters.
const ADDRESS_KEPT_MAX: usize = 400;

impl Texts for Addresses {
    fn take(&mut self, _: usize, text: &str) {
        if self.0.len() <= MEMBERS_MAX {
            self.0.push(text.chars().take(ADDRESS_KEPT_MAX).collect());
        }
    }
}

fn read(action: MembersAction, body: &[u8]) -> Result<Change, FormatError> {
    let mut fields = Fields::<Addresses>::parse_with(body, &["address", "member"], "addresses")?;
    let address = |field: String, address: String| {
        let bad = || FormatError::value(field, format!("is not host:port: {address:?}"));
        if is_address(&address) { Ok(address) } else { Err(bad()) }
    };
    let who = |text: String| {
        let bad = |error| FormatError::value("member", format!("{error}: {text:?}"));
        text.parse::<Who>().map_err(bad)
    };
    Ok(match action {
        MembersAction::Add => {
            let Addresses(texts) = fields.required_texts()?;
            if texts.is_empty() {
                return Err(FormatError::Missing { field: "addresses" });
            }
            if texts.len() > MEMBERS_MAX {
                return Err(FormatError::value("addresses", format!("has more than {MEMBERS_MAX} entries")));
            }
            let named = texts.into_iter().enumerate();
            let addresses = named.map(|(position, text)| address(format!("addresses[{position}]"), text));
            Change::Add { addresses: addresses.collect::<Result<_, _>>()? }
        }
        MembersAction::Replace => {
            let address = address("address".to_owned(), fields.required_text("address")?)?;
            Change::Replace { old: who(fields.required_text("member")?)?, address }
        }
        // An activation is no change of the membership, and does not come here.
        MembersAction::Remove | MembersAction::Activate => {
            Change::Remove { who: who(fields.required_text("member")?)? }
        }
        MembersAction::TransferLeader => {
            Change::Transfer { to: fields.text("member")?.map(who).transpose()? }
        }
    })
}

/// On the leader.
async fn decide(app: &App, change: Change) -> Result<Response, ApiError> {
    progress(app.node.change_members(change).await)
}

fn progress(result: Result<Progress, MembersError>) -> Result<Response, ApiError> {
    let progress = result.map_err(|error| match error {
        MembersError::Refused(refusal) => ApiError::Refused { reason: refusal.to_string() },
        MembersError::Propose(error) => error.into(),
        MembersError::Raft { .. } => ApiError::NotServing { reason: error.to_string() },
    })?;
    let Progress { phase, node_id, position, goal, message } = progress;
    let body = MembersProgress {
        done: phase == Phase::Done,
        phase: phase_name(phase).to_owned(),
        node: node_id.map(status::node_id),
        position,
        goal,
        message,
    };
    Ok(Json(body).into_response())
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Done => "done",
        Phase::Snapshot => "snapshot",
        Phase::Log => "log",
        Phase::Leadership => "leadership",
        Phase::Step => "step",
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn operators_are_on_this_host_unless_everybody_is_trusted() {
        let json = headers(&[("content-type", "application/json")]);
        for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(check_operator(false, near.parse().unwrap(), &json).is_ok(), "{near}");
        }
        let far: IpAddr = "10.0.0.9".parse().unwrap();
        assert!(matches!(check_operator(false, far, &json), Err(ApiError::NotOperator)));
        assert!(check_operator(true, far, &json).is_ok());
    }

    #[test]
    fn a_proxy_or_a_page_on_this_host_is_no_operator() {
        let here = IpAddr::from([127, 0, 0, 1]);
        for (sign, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("forwarded", "for=10.0.0.9"),
            ("x-forwarded-for", "10.0.0.9"),
            ("via", "1.1 proxy"),
        ] {
            let signed = headers(&[("content-type", "application/json"), (sign, value)]);
            let refused = check_operator(false, here, &signed).unwrap_err();
            let ApiError::PassedOn { name } = refused else { panic!("{sign}: {refused}") };
            assert!(name.eq_ignore_ascii_case(sign), "{sign}: {name}");
            assert!(check_operator(true, here, &signed).is_ok(), "whoever reaches the ports is trusted");
        }
    }

    #[test]
    fn a_change_is_sent_as_json() {
        let here = IpAddr::from([127, 0, 0, 1]);
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(check_operator(false, here, &headers(&[("content-type", kind)])).is_ok(), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            for insecure in [false, true] {
                let refused = check_operator(insecure, here, &headers(&[("content-type", kind)]));
                assert!(matches!(refused, Err(ApiError::NotJson)), "{kind}");
            }
        }
        assert!(matches!(check_operator(false, here, &headers(&[])), Err(ApiError::NotJson)));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(header).collect()
    }

    #[test]
    fn a_change_is_read_with_the_names_of_what_is_wrong() {
        let add = read(MembersAction::Add, br#"{"addresses":["10.0.0.4:7790","b:1"]}"#).unwrap();
        assert_eq!(add, Change::Add { addresses: vec!["10.0.0.4:7790".to_owned(), "b:1".to_owned()] });
        let replace = read(MembersAction::Replace, br#"{"address":"d:1","member":"ff"}"#).unwrap();
        assert_eq!(replace, Change::Replace { old: Who::Id(255), address: "d:1".to_owned() });
        let transfer = |body: &[u8]| read(MembersAction::TransferLeader, body);
        assert_eq!(transfer(b"{}"), Ok(Change::Transfer { to: None }));
        assert!(matches!(transfer(br#"{"member":"a:1"}"#), Ok(Change::Transfer { to: Some(_) })));
        for (action, body, word) in [
            (MembersAction::Add, "{}", "field addresses is required"),
            (MembersAction::Add, r#"{"addresses":[]}"#, "field addresses is required"),
            (
                MembersAction::Add,
                r#"{"addresses":["a:1","10.0.0.4"]}"#,
                "field addresses[1] is not host:port",
            ),
            (
                MembersAction::Replace,
                r#"{"address":"10.0.0.4","member":"1"}"#,
                "field address is not host:port",
            ),
            (MembersAction::Replace, r#"{"address":"d:1"}"#, "field member is required"),
            (MembersAction::Remove, r#"{"member":"somebody"}"#, "field member is neither a node id"),
            (MembersAction::TransferLeader, r#"{"member":7}"#, "field member must be a string"),
        ] {
            let error = read(action, body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{action:?} {body}: {error}");
        }
    }
}
