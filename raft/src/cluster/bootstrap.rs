//! How a cluster is born: every node asks every entry of the list who it is; the first entry of the
//! sorted list founds the cluster once it sees all of them, all pristine, all with the same list.
//!
//! [`judge`] decides, without I/O. A founder that dies between storing the cluster id and
//! initialising raft has told nobody: it goes on with the stored id.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use crate::blocking::blocking;
use crate::dice;
use crate::network::Whoami;
use crate::network::client::RpcClient;
use crate::network::identity::Identity;
use crate::types::{ClusterId, Member, NodeId};

#[cfg(test)]
use crate::sim::world::{self, Fault};

use super::{Inner, StartError};

/// Between two rounds of questions at first; doubles up to [`ROUND_INTERVAL_MAX`].
const ROUND_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Between two rounds of questions in the end.
const ROUND_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// What one entry of the list answered, or why it did not.
pub(in crate::cluster) type Seen = Result<Whoami, String>;

/// What a round of questions says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This node founds the cluster with these members.
    Found(BTreeMap<NodeId, Member>),
    /// Not yet; why.
    Wait(Vec<String>),
}

/// Decides by the answers of all entries, in the order of the sorted list.
pub(super) fn judge(me: &Whoami, seen: &[Seen]) -> Verdict {
    let mut reasons = Vec::new();
    let mut members = BTreeMap::new();
    let mut own = 0;
    for (entry, answer) in me.list.iter().zip(seen) {
        match answer {
            #[cfg(test)]
            Err(_) if world::is_broken(Fault::FoundsWithoutSeeingAll) => {}
            Err(reason) => reasons.push(format!("{entry} does not answer: {reason}")),
            Ok(other) => {
                own += usize::from(other.boot_nonce == me.boot_nonce);
                reasons.extend(objection(me, entry, other));
                let member = Member {
                    raft_address: entry.clone(),
                    api_address: other.api_address.clone(),
                    format_lowest: other.format_lowest,
                    format_highest: other.format_highest,
                };
                if members.insert(other.node_id, member).is_some() {
                    reasons.push(format!("{entry} leads to a node that another entry leads to as well"));
                }
            }
        }
    }
    if own == 0 {
        let list = me.list.join(",");
        reasons.push(format!("this node does not find itself at any entry of its list {list}"));
    }
    let first = me.list.first().zip(seen.first());
    let founder =
        first.is_some_and(|(_, answer)| matches!(answer, Ok(other) if other.boot_nonce == me.boot_nonce));
    if reasons.is_empty() && !founder {
        reasons.extend(me.list.first().map(|entry| format!("waits for {entry} to found the cluster")));
    }
    if reasons.is_empty() { Verdict::Found(members) } else { Verdict::Wait(reasons) }
}

/// Why no cluster can be founded with this answer.
fn objection(me: &Whoami, entry: &str, other: &Whoami) -> Option<String> {
    if other.boot_nonce == me.boot_nonce {
        return None;
    }
    if other.cluster_id.is_some() && other.cluster_id == me.cluster_id {
        return Some(format!("{entry} belongs to the same cluster; waits to hear of its leader"));
    }
    if let Some(cluster) = &other.cluster_id {
        return Some(format!(
            "{entry} belongs to cluster {cluster} already; this node is not a member of it and waits"
        ));
    }
    if other.list_hash != me.list_hash {
        let (mine, theirs) = (me.list.join(","), other.list.join(","));
        return Some(format!("the lists differ: this node has {mine}, {entry} has {theirs}"));
    }
    // Each of them may come to lead, and then writes its highest to all.
    if other.format_highest != me.format_highest {
        let (theirs, mine) = (other.format_highest, me.format_highest);
        return Some(format!("{entry} writes format {theirs}, this node {mine}: start the same piccolo"));
    }
    None
}

/// Asks until this node belongs to a running cluster. Returns early when the node stops.
pub(super) async fn run(inner: &Inner) -> Result<(), StartError> {
    let mut interval = ROUND_INTERVAL_MIN;
    loop {
        if inner.stop.is_cancelled() {
            return Ok(());
        }
        if inner.raft.is_initialized().await.map_err(StartError::raft)? {
            break;
        }
        let adopted = inner.identity.is_adopted().then(|| inner.identity.cluster_id()).flatten();
        if let Some(cluster) = adopted {
            inner.reasons.set(vec![format!("belongs to cluster {cluster} and waits to hear of its leader")]);
            if inner.stop.run_until_cancelled(tokio::time::sleep(ROUND_INTERVAL_MIN)).await.is_none() {
                return Ok(());
            }
            continue;
        }
        if let Some(member) = &inner.join {
            let Some(reasons) = inner.stop.run_until_cancelled(wait_to_join(inner, member)).await else {
                return Ok(());
            };
            inner.reasons.set(reasons);
            if inner.stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
                return Ok(());
            }
            interval = (interval * 2).min(ROUND_INTERVAL_MAX);
            continue;
        }
        let verdict = match inner.identity.list.as_slice() {
            [only] => {
                inner.identity.set_raft_address(only);
                judge(&inner.identity.whoami(), &[Ok(inner.identity.whoami())])
            }
            list => {
                let answers = ask(&inner.client, &inner.identity, list);
                let Some(seen) = inner.stop.run_until_cancelled(answers).await else { return Ok(()) };
                judge(&inner.identity.whoami(), &seen)
            }
        };
        match verdict {
            Verdict::Found(members) => {
                found(inner, members).await?;
                continue;
            }
            Verdict::Wait(reasons) => inner.reasons.set(reasons),
        }
        if inner.stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
            return Ok(());
        }
        interval = (interval * 2).min(ROUND_INTERVAL_MAX);
    }
    inner.reasons.set(Vec::new());
    Ok(())
}

/// Looks for the cluster that this node is to join; why it has not joined yet.
async fn wait_to_join(inner: &Inner, member: &str) -> Vec<String> {
    let identity = &inner.identity;
    let own = identity.raft_address().unwrap_or_else(|| "its raft address".to_owned());
    let mut reasons = Vec::new();
    match inner.client.whoami(member).await {
        Err(error) => reasons.push(format!("{member} does not answer: {error}")),
        Ok(other) if other.boot_nonce == identity.boot_nonce => {
            reasons.push(format!("{member} is this server itself: give --join the address of a member"));
        }
        Ok(Whoami { cluster_id: None, .. }) => {
            reasons.push(format!("{member} belongs to no cluster yet"));
        }
        Ok(Whoami { cluster_id: Some(cluster), api_address, .. }) => {
            if let Ok(id) = u128::from_str_radix(&cluster, 16) {
                identity.wait_for(ClusterId(id));
            }
            let command = format!("piccolo members add {own} --server http://{api_address}");
            reasons.push(format!("waits to be admitted to cluster {cluster}: {command}"));
            return reasons;
        }
    }
    reasons.push(format!("waits to be admitted: piccolo members add {own}"));
    reasons
}

async fn ask(client: &RpcClient, identity: &Identity, list: &[String]) -> Vec<Seen> {
    let answers = join_all(list.iter().map(|entry| async move { (entry, client.whoami(entry).await) })).await;
    let note = |(entry, answer): (&String, Result<Whoami, _>)| {
        if answer.as_ref().is_ok_and(|other: &Whoami| other.boot_nonce == identity.boot_nonce) {
            identity.set_raft_address(entry);
        }
        answer.map_err(|error: crate::network::client::CallError| error.to_string())
    };
    answers.into_iter().map(note).collect()
}

async fn found(inner: &Inner, members: BTreeMap<NodeId, Member>) -> Result<(), StartError> {
    if inner.stop.is_cancelled() {
        return Ok(());
    }
    let cluster_id = inner.identity.cluster_id().unwrap_or_else(|| ClusterId(dice::bits()));
    let identity = inner.identity.clone();
    blocking(move || identity.adopt(cluster_id)).await.map_err(StartError::raft)??;
    if inner.identity.cluster_id() != Some(cluster_id) {
        tracing::warn!("joined another cluster instead of founding one");
        return Ok(());
    }
    if inner.stop.is_cancelled() {
        return Ok(());
    }
    tracing::info!(%cluster_id, members = members.len(), "founds the cluster");
    match inner.raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Somebody's message arrived in between: the loop asks again.
        Err(error) if error.api_error().is_some() => {
            tracing::warn!(%error, "did not found the cluster");
            Ok(())
        }
        Err(error) => Err(StartError::raft(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;
    use crate::network::ListHash;

    fn whoami(node_id: NodeId, list: &[&str]) -> Whoami {
        let list: Vec<String> = list.iter().map(|entry| (*entry).to_owned()).collect();
        Whoami {
            node_id,
            boot_nonce: node_id * 100,
            cluster_id: None,
            list_hash: ListHash::of(&list).to_string(),
            list,
            raft_address: None,
            api_address: format!("api-{node_id}"),
            format_lowest: format::FORMAT_LOWEST,
            format_highest: format::FORMAT,
            last_log_index: None,
            last_log_term: None,
            disk: None,
        }
    }

    const LIST: [&str; 3] = ["a:1", "b:1", "c:1"];

    fn three() -> [Whoami; 3] {
        [whoami(3, &LIST), whoami(1, &LIST), whoami(2, &LIST)]
    }

    fn reasons(verdict: Verdict) -> String {
        match verdict {
            Verdict::Wait(reasons) => reasons.join("; "),
            Verdict::Found(members) => panic!("founded {members:?}"),
        }
    }

    #[test]
    fn the_first_entry_founds_when_all_are_pristine_and_agree() {
        let nodes = three();
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        let Verdict::Found(members) = judge(&nodes[0], &seen) else { panic!() };
        assert_eq!(members.keys().collect::<Vec<_>>(), [&1, &2, &3]);
        assert_eq!((members[&3].raft_address.as_str(), members[&3].api_address.as_str()), ("a:1", "api-3"));
        assert!(reasons(judge(&nodes[1], &seen)).contains("waits for a:1"));
    }

    #[test]
    fn one_silent_entry_keeps_the_cluster_from_forming() {
        let nodes = three();
        let seen = [Ok(nodes[0].clone()), Ok(nodes[1].clone()), Err("refused".to_owned())];
        assert!(reasons(judge(&nodes[0], &seen)).contains("c:1 does not answer: refused"));
    }

    #[test]
    fn another_list_is_refused_with_both_lists() {
        let mut nodes = three();
        nodes[2] = whoami(2, &["a:1", "b:1", "d:1"]);
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        let reasons = reasons(judge(&nodes[0], &seen));
        assert!(reasons.contains("a:1,b:1,c:1") && reasons.contains("a:1,b:1,d:1"), "{reasons}");
    }

    #[test]
    fn servers_that_write_different_formats_found_no_cluster() {
        let mut nodes = three();
        nodes[2].format_highest = format::FORMAT + 1;
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        assert!(
            reasons(judge(&nodes[0], &seen)).contains("c:1 writes format 2, this node 1: start the same")
        );
    }

    #[test]
    fn a_wiped_founder_does_not_found_a_second_cluster() {
        let mut nodes = three();
        nodes[1].cluster_id = Some("feed".to_owned());
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        assert!(reasons(judge(&nodes[0], &seen)).contains("b:1 belongs to cluster feed already"));
    }

    #[test]
    fn a_founder_that_died_before_it_initialised_goes_on() {
        let mut nodes = three();
        nodes[0].cluster_id = Some("feed".to_owned());
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        assert!(matches!(judge(&nodes[0], &seen), Verdict::Found(_)));
    }

    #[test]
    fn two_entries_for_one_node_and_none_for_itself_are_refused() {
        let nodes = three();
        let seen = [Ok(nodes[0].clone()), Ok(nodes[1].clone()), Ok(nodes[1].clone())];
        assert!(reasons(judge(&nodes[0], &seen)).contains("c:1 leads to a node that another entry"));
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        assert!(reasons(judge(&whoami(9, &LIST), &seen)).contains("does not find itself"));
    }
}
