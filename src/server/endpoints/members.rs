//! `/api/v1/members`: who the servers are, and changes of the membership.
//!
//! A change goes to the leader like a write. The answer comes after a few steps at most and says how far the
//! change is; the client asks again until it is done, at whichever server. So no request waits for a snapshot
//! to arrive somewhere.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use piccolo_raft::address::is_address;
use piccolo_raft::cluster::{Change, Contact, MembersError, Node, Phase, Progress, Role, Who};
use piccolo_raft::limits::MEMBERS_MAX;

use super::status;
use crate::api::{MemberEntry, MembersAction, MembersProgress, MembersResponse, path};
use crate::limits::MEMBER_ADDRESS_CHARS_MAX;
use crate::server::app::{App, Loaded};
use crate::server::cluster::Cluster;
use crate::server::cluster::forward::{LeaderRequest, is_forwarded};
use crate::server::error::{ApiError, FormatError};
use crate::server::operators::Operators;
use crate::server::permits::Permits;
use crate::server::requests::json::{Fields, Texts};

/// The parts that the membership endpoints use.
#[derive(Clone)]
pub struct Members {
    node: Node,
    cluster: Cluster,
    permits: Permits,
    operators: Operators,
}

impl FromRef<App> for Members {
    fn from_ref(app: &App) -> Self {
        let (node, cluster) = (app.node.clone(), app.cluster.clone());
        Self { node, cluster, permits: app.permits.clone(), operators: app.operators }
    }
}

/// Answers with all members. The leader answers, because it knows how far they are; without a leader, this
/// server does.
pub async fn list(Loaded(members): Loaded<Members>, incoming: Request) -> Result<Response, ApiError> {
    let forwarded = is_forwarded(incoming.headers());
    let Members { node, cluster, .. } = members;
    let answer = || Json(answer(&node)).into_response();
    if cluster.leadership.is_ready() || !node.has_quorum() {
        return Ok(answer());
    }
    let held = Arc::new(());
    let request =
        LeaderRequest { path: path::MEMBERS, body: Bytes::new(), forwarded, repeatable: true, held };
    match cluster.forwarder.to_leader(request, async || Ok(answer())).await {
        Err(ApiError::NoLeader | ApiError::OutcomeUnknown) => Ok(answer()),
        answered => answered,
    }
}

fn answer(node: &Node) -> MembersResponse {
    let cluster = node.status();
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
        leaving: node.is_leaving(info.node_id),
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

/// Takes a few steps of a change.
pub async fn change(
    Loaded(members): Loaded<Members>,
    action: MembersAction,
    incoming: Request,
) -> Result<Response, ApiError> {
    let Members { node, cluster, permits, operators } = members;
    operators.check(&incoming)?;
    let forwarded = is_forwarded(incoming.headers());
    let (body, body_permit) = permits.bodies.read(incoming).await?;
    let held = Arc::new(body_permit);
    if action == MembersAction::Activate {
        Fields::parse(&body, &[])?;
        // A repetition at the next leader finds the level active.
        let request = LeaderRequest { path: action.path(), body, forwarded, repeatable: true, held };
        let activate = async || progress(node.activate().await);
        return cluster.forwarder.to_leader(request, activate).await;
    }
    let change = read(action, &body)?;
    // "To any other server", repeated at the next leader, would move the leadership once more.
    let repeatable = !matches!(change, Change::Transfer { to: None });
    let request = LeaderRequest { path: action.path(), body, forwarded, repeatable, held };
    let decide = async || progress(node.change_members(change.clone()).await);
    cluster.forwarder.to_leader(request, decide).await
}

/// The addresses of new servers. A list longer than a membership may be is cut after the first address too
/// many.
#[derive(Debug, Default)]
struct Addresses(Vec<String>);

impl Texts for Addresses {
    fn take(&mut self, _: usize, text: &str) {
        if self.0.len() <= MEMBERS_MAX {
            self.0.push(text.chars().take(MEMBER_ADDRESS_CHARS_MAX).collect());
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
        // An activation is not a change of the membership; `change` does not come here with it.
        MembersAction::Remove | MembersAction::Activate => {
            Change::Remove { who: who(fields.required_text("member")?)? }
        }
        MembersAction::TransferLeader => {
            Change::Transfer { to: fields.text("member")?.map(who).transpose()? }
        }
    })
}

fn progress(result: Result<Progress, MembersError>) -> Result<Response, ApiError> {
    let Progress { phase, node_id, position, goal, message } = result?;
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
    use super::*;

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
