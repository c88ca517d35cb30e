//! Whether a newcomer and the members reach each other where the membership says, or will say, that they
//! are. The leader alone cannot tell: its own 127.0.0.1 is right for itself, and leads every newcomer to
//! itself. So the newcomer is asked to look for the members, and the members for it.

use futures_util::future::join_all;

use super::plan::View;
use super::{Change, Changes, MembersError, Refusal};
use crate::address::is_loopback;
use crate::cluster::bootstrap::Seen;
use crate::network::reach::{Claimed, Port, Unreached};
use crate::types::NodeId;

impl Changes {
    /// Refuses a server that is about to become a member, or to move, if one of those that answer does not
    /// reach it, or if it does not reach one of them.
    pub(super) async fn check_reach(
        &self,
        view: &View,
        change: &Change,
        newcomers: &[Seen],
        node_id: NodeId,
    ) -> Result<(), MembersError> {
        let scout = self.contacts.scout();
        let (new, old) = whereabouts(view, change, newcomers, node_id);
        let by_new = new.iter().map(async |newcomer| {
            let others: Vec<Claimed> =
                old.iter().chain(&new).filter(|other| other.node_id != newcomer.node_id).cloned().collect();
            match scout.ask(&newcomer.raft_address, &others).await {
                Ok(unreached) => Ok((newcomer.raft_address.clone(), unreached)),
                Err(error) => {
                    let (address, reason) = (newcomer.raft_address.clone(), error.to_string());
                    Err(Refusal::Unreachable { address, reason })
                }
            }
        });
        let by_old = old.iter().map(async |member| {
            let looked = match member.node_id == view.me {
                true => Ok(scout.look(&new).await),
                false => scout.ask(&member.raft_address, &new).await,
            };
            // A member that is away for this moment keeps nobody out.
            let unreached = looked.unwrap_or_else(|error| {
                tracing::debug!(%error, "a member was not asked whether it reaches a newcomer");
                Vec::new()
            });
            (member.raft_address.clone(), unreached)
        });
        let (by_new, by_old) = tokio::join!(join_all(by_new), join_all(by_old));
        let by_new: Vec<(String, Vec<Unreached>)> = by_new.into_iter().collect::<Result<_, _>>()?;
        let unreached = by_new.into_iter().chain(by_old);
        let unreached = unreached.flat_map(|(by, all)| all.into_iter().map(move |one| (by.clone(), one)));
        refuse_unreached(view, &unreached.collect::<Vec<_>>()).map_err(MembersError::from)
    }
}

/// The servers that come or move, and the members that answer.
fn whereabouts(
    view: &View,
    change: &Change,
    newcomers: &[Seen],
    node_id: NodeId,
) -> (Vec<Claimed>, Vec<Claimed>) {
    let comes = |id: NodeId| id == node_id || !view.nodes.contains_key(&id);
    let new: Vec<Claimed> = change
        .newcomers()
        .iter()
        .zip(newcomers)
        .filter_map(|(address, seen)| Some((address, seen.as_ref().ok()?)))
        .filter(|(_, whoami)| comes(whoami.node_id))
        .map(|(address, whoami)| Claimed {
            node_id: whoami.node_id,
            raft_address: address.clone(),
            api_address: whoami.api_address.clone(),
        })
        .collect();
    let stays = |id: &NodeId| view.answering.contains_key(id) && new.iter().all(|one| one.node_id != *id);
    let old = view.nodes.iter().filter(|(id, _)| stays(id)).map(|(id, member)| Claimed {
        node_id: *id,
        raft_address: member.raft_address.clone(),
        api_address: member.api_address.clone(),
    });
    let old = old.collect();
    (new, old)
}

/// Each with the raft address of the server that looked.
fn refuse_unreached(view: &View, unreached: &[(String, Unreached)]) -> Result<(), Refusal> {
    let of_a_member = unreached.iter().find(|(_, one)| view.nodes.contains_key(&one.node_id));
    let Some((_, first)) = of_a_member.or(unreached.first()) else { return Ok(()) };
    let told = unreached.iter().map(|(by, one)| {
        let is = if view.nodes.contains_key(&one.node_id) { "member" } else { "the new server" };
        let Unreached { node_id, port, address, reason } = one;
        let port = match port {
            Port::Raft => "raft",
            Port::Api => "the discovery API",
        };
        format!("the server at {by} does not reach {port} of {is} {node_id:016x} at {address}: {reason}")
    });
    Err(Refusal::Unreached { told: told.collect(), advice: advice(view, first) })
}

fn advice(view: &View, one: &Unreached) -> String {
    let Unreached { node_id, port, address, .. } = one;
    let Some(member) = view.nodes.get(node_id) else {
        return "start it with --advertise HOST, and --raft-listen and --listen if need be, so that all \
                members reach it under the names that it has then"
            .to_owned();
    };
    let raft_port = member.raft_address.rsplit_once(':').map_or("PORT", |(_, port)| port);
    let moved = match is_loopback(&member.raft_address) {
        true => format!("HOST:{raft_port}"),
        false => member.raft_address.clone(),
    };
    let restart = format!(
        "start member {node_id:016x} again with its data and --advertise HOST --raft-listen 0.0.0.0:{raft_port} \
         --insecure in place of the addresses that it had, HOST being its name or address for the other hosts; \
         then run piccolo members replace {node_id:016x} {moved}, and this command again"
    );
    match (is_loopback(address), port) {
        (true, _) => format!("{address} is an address of that member's own host only: {restart}"),
        (false, _) => format!("open the way from there to {address}, or change that address: {restart}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::Member;

    fn member(raft_address: &str, api_address: &str) -> Member {
        let (raft_address, api_address) = (raft_address.to_owned(), api_address.to_owned());
        Member { raft_address, api_address }
    }

    fn view() -> View {
        let nodes = [(1, member("127.0.0.1:7790", "127.0.0.1:7789")), (2, member("b:7000", "b:7001"))];
        View { me: 1, nodes: nodes.into(), answering: BTreeMap::from([(1, 1), (2, 2)]), ..View::default() }
    }

    fn unreached(node_id: NodeId, port: Port, address: &str, reason: &str) -> Unreached {
        Unreached { node_id, port, address: address.to_owned(), reason: reason.to_owned() }
    }

    fn refusal(seen: &[(&str, Unreached)]) -> String {
        let seen: Vec<_> = seen.iter().map(|(by, one)| ((*by).to_owned(), one.clone())).collect();
        refuse_unreached(&view(), &seen).expect_err("somebody is not reached").to_string()
    }

    #[test]
    fn a_member_at_127_0_0_1_is_told_how_to_move() {
        let other = unreached(1, Port::Raft, "127.0.0.1:7790", "server 0000000000000004 answers there");
        let text = refusal(&[("c:7790", other)]);
        for part in [
            "the server at c:7790 does not reach raft of member 0000000000000001 at 127.0.0.1:7790",
            "server 0000000000000004 answers there",
            "an address of that member's own host only",
            "--advertise HOST --raft-listen 0.0.0.0:7790 --insecure",
            "piccolo members replace 0000000000000001 HOST:7790, and this command again",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_member_whose_api_is_not_reached_keeps_its_raft_address() {
        let text = refusal(&[("c:7790", unreached(2, Port::Api, "b:7001", "refused"))]);
        for part in ["the discovery API of member 0000000000000002 at b:7001: refused", "open the way"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("piccolo members replace 0000000000000002 b:7000"), "{text}");
    }

    #[test]
    fn the_advice_is_about_the_first_port_of_a_member_that_is_not_reached() {
        let text = refusal(&[
            ("b:7000", unreached(4, Port::Raft, "d:7790", "no route")),
            ("c:7790", unreached(1, Port::Raft, "127.0.0.1:7790", "refused")),
            ("c:7790", unreached(1, Port::Api, "127.0.0.1:7789", "refused")),
        ]);
        assert!(text.contains("; 127.0.0.1:7790 is an address of that member's own host only"), "{text}");
    }

    #[test]
    fn a_newcomer_that_is_not_reached_is_named_with_who_looked() {
        let text = refusal(&[("b:7000", unreached(4, Port::Api, "d:7789", "no route"))]);
        let told = "the server at b:7000 does not reach the discovery API of the new server 0000000000000004 at d:7789";
        assert!(text.contains(told) && text.contains("--advertise HOST"), "{text}");
        assert_eq!(refuse_unreached(&view(), &[]), Ok(()));
    }
}
