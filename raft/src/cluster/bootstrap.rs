//! How a cluster is born: every node asks every entry of the list who it is; the first entry of the
//! sorted list founds the cluster once it sees all of them, all pristine, all with the same list.
//!
//! [`judge`] decides, without I/O. A founder that dies between storing the cluster id and
//! initialising raft has told nobody: it goes on with the stored id.
//!
//! The first server of a cluster that has grown is alone in its list, and nothing in an empty folder says
//! that it was a member. So a server that is alone listens for a while before it founds, and a server to
//! whose address any cluster sends what is meant for a member founds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::address::is_loopback;
use crate::format::{Level, UnknownLevel};
use crate::limits::{BOOTSTRAP_ROUND_INTERVAL_MAX, BOOTSTRAP_ROUND_INTERVAL_MIN};
use crate::network::Whoami;
use crate::network::client::RpcClient;
use crate::network::identity::{Identity, Missed};
use crate::random::Random;
use crate::threads::Threads;
use crate::types::{ClusterId, Member, NodeId};

use super::StartError;
use super::contacts::Contacts;
use super::reasons::Reasons;

/// What one entry of the list answered, or why it did not.
pub(in crate::cluster) type Seen = Result<Whoami, String>;

/// What a round of questions says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Founding {
    /// This node founds the cluster with these members.
    Found(BTreeMap<NodeId, Member>),
    /// This node waits, for these reasons.
    Wait(Vec<String>),
}

/// Decides by the answers of all entries, in the order of the sorted list.
pub(super) fn judge(me: &Whoami, seen: &[Seen]) -> Founding {
    let mut reasons = Vec::new();
    let mut members = BTreeMap::new();
    let mut own = 0;
    for (entry, answer) in me.list.iter().zip(seen) {
        match answer {
            Err(reason) => reasons.push(format!("{entry} does not answer: {reason}")),
            Ok(other) => {
                own += usize::from(other.boot_nonce == me.boot_nonce);
                reasons.extend(objection(me, entry, other));
                let member = Member { raft_address: entry.clone(), api_address: other.api_address.clone() };
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
    if reasons.is_empty() { Founding::Found(members) } else { Founding::Wait(reasons) }
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
    // A cluster begins at the first level, whatever its servers can read beyond.
    if !other.reads.can_run_at(Level::FIRST) {
        let (theirs, first) = (other.reads.level, Level::FIRST);
        return Some(format!(
            "{entry} reads levels {theirs} and a cluster begins at {first}: start the same piccolo"
        ));
    }
    None
}

/// What keeps this node from founding a cluster although nothing in its list does.
fn hold_back(birth: &Birth, listening: Instant) -> Vec<String> {
    let identity = &birth.contacts.identity;
    if let Some(missed) = identity.missed() {
        return vec![is_missed(identity, missed)];
    }
    // With a cluster id it has listened before.
    let is_new = identity.list.len() == 1 && identity.cluster_id().is_none();
    if is_new && listening.elapsed() < birth.found_after {
        let after = birth.found_after.as_secs_f64();
        return vec![format!(
            "founds a cluster of its own once no cluster has missed a member at this address for {after} s"
        )];
    }
    Vec::new()
}

fn is_missed(identity: &Identity, missed: Missed) -> String {
    let Missed { cluster_id, target } = missed;
    let own = identity.raft_address().unwrap_or_else(|| "this server's raft address".to_owned());
    format!(
        "cluster {cluster_id} has its member {target:016x} at this address, and this server has no data of it: \
         it founds no cluster and waits to take that place: run piccolo members replace {target:016x} {own} \
         --server http://HOST:PORT with the API address of another member. If that cluster is given up, stop \
         its servers and start this one again"
    )
}

/// The task that founds a cluster, or waits to be admitted to one.
pub(super) struct Birth {
    pub(super) contacts: Contacts,
    pub(super) threads: Arc<dyn Threads>,
    pub(super) random: Arc<dyn Random>,
    /// How long this node listens before it founds a cluster: see [`super::NodeConfig::found_after`].
    pub(super) found_after: Duration,
    pub(super) reasons: Arc<Reasons>,
    pub(super) stop: CancellationToken,
}

/// Asks until this node belongs to a running cluster. Returns early when the node stops.
pub(super) async fn run(birth: &Birth) -> Result<(), StartError> {
    let Birth { contacts, reasons: told, stop, .. } = birth;
    let identity = &contacts.identity;
    let mut interval = BOOTSTRAP_ROUND_INTERVAL_MIN;
    let listening = Instant::now();
    loop {
        if stop.is_cancelled() {
            return Ok(());
        }
        if contacts.raft.is_initialized().await.map_err(StartError::raft)? {
            break;
        }
        let adopted = identity.is_adopted().then(|| identity.cluster_id()).flatten();
        if let Some(cluster) = adopted {
            told.set(vec![format!("belongs to cluster {cluster} and waits to hear of its leader")]);
            if stop.run_until_cancelled(tokio::time::sleep(BOOTSTRAP_ROUND_INTERVAL_MIN)).await.is_none() {
                return Ok(());
            }
            continue;
        }
        if let Some(member) = &contacts.join {
            let Some(reasons) = stop.run_until_cancelled(wait_to_join(contacts, member)).await else {
                return Ok(());
            };
            told.set(reasons);
            if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
                return Ok(());
            }
            interval = (interval * 2).min(BOOTSTRAP_ROUND_INTERVAL_MAX);
            continue;
        }
        let verdict = match identity.list.as_slice() {
            [only] => {
                identity.set_raft_address(only);
                judge(&identity.whoami(), &[Ok(identity.whoami())])
            }
            list => {
                let answers = ask(&contacts.client, identity, list);
                let Some(seen) = stop.run_until_cancelled(answers).await else { return Ok(()) };
                judge(&identity.whoami(), &seen)
            }
        };
        let held_back = hold_back(birth, listening);
        match verdict {
            Founding::Found(members) if held_back.is_empty() => {
                found(birth, members).await?;
                continue;
            }
            Founding::Found(_) => told.set(held_back),
            Founding::Wait(mut reasons) => {
                // A list that is waited for says more than that nobody has been heard.
                reasons.extend(identity.missed().map(|missed| is_missed(identity, missed)));
                told.set(reasons);
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
            return Ok(());
        }
        interval = (interval * 2).min(BOOTSTRAP_ROUND_INTERVAL_MAX);
    }
    told.set(Vec::new());
    Ok(())
}

/// Looks for the cluster that this node is to join; why it has not joined yet.
async fn wait_to_join(contacts: &Contacts, member: &str) -> Vec<String> {
    let identity = &contacts.identity;
    let own = identity.raft_address().unwrap_or_else(|| "its raft address".to_owned());
    let mut reasons = Vec::new();
    match contacts.client.whoami(member).await {
        Err(error) => reasons.push(format!("{member} does not answer: {error}")),
        Ok(other) if other.boot_nonce == identity.boot_nonce => {
            reasons.push(format!("{member} is this server itself: give --join the address of a member"));
        }
        Ok(Whoami { cluster_id: None, .. }) => {
            reasons.push(format!("{member} belongs to no cluster yet"));
        }
        Ok(Whoami { level: Some(active), .. }) if !identity.whoami().reads.level.contains(active.0) => {
            let unknown = UnknownLevel { active, reads: identity.whoami().reads.level };
            reasons.push(format!("cannot join the cluster of {member}: {unknown}"));
            return reasons;
        }
        Ok(Whoami { cluster_id: Some(cluster), api_address, .. }) => {
            if let Ok(id) = u128::from_str_radix(&cluster, 16) {
                identity.wait_for(ClusterId(id));
            }
            let command = admitting_command(&own, member, &api_address);
            reasons.push(format!("waits to be admitted to cluster {cluster}: {command}"));
            return reasons;
        }
    }
    reasons.push(format!(
        "waits to be admitted: run piccolo members add {own} --server http://HOST:PORT with the API address of \
         a member (port 7789 by default)"
    ));
    reasons
}

/// How an operator admits this server. An API on loopback is that of the member's own host: on any
/// other one the command would ask another server, or none.
fn admitting_command(own: &str, member: &str, api_address: &str) -> String {
    let command = format!("piccolo members add {own} --server http://{api_address}");
    let is_elsewhere = is_loopback(api_address) && !is_loopback(member);
    if is_elsewhere { format!("on the host of {member} run {command}") } else { format!("run {command}") }
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

async fn found(birth: &Birth, members: BTreeMap<NodeId, Member>) -> Result<(), StartError> {
    let Birth { contacts, threads, random, stop, .. } = birth;
    if stop.is_cancelled() {
        return Ok(());
    }
    let cluster_id = contacts.identity.cluster_id().unwrap_or_else(|| ClusterId(random.bits()));
    let identity = contacts.identity.clone();
    threads.blocking(move || identity.adopt(cluster_id)).await.map_err(StartError::raft)??;
    if contacts.identity.cluster_id() != Some(cluster_id) {
        tracing::warn!("another server has founded the cluster meanwhile: this one joins it");
        return Ok(());
    }
    if stop.is_cancelled() {
        return Ok(());
    }
    tracing::info!(%cluster_id, members = members.len(), "founding the cluster");
    match contacts.raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Somebody's message arrived in between: the loop asks again.
        Err(error) if error.api_error().is_some() => {
            tracing::warn!(
                %error,
                "could not found the cluster: another server may have done so; trying again"
            );
            Ok(())
        }
        Err(error) => Err(StartError::raft(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Range, Reads};
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
            reads: Reads::levels(Level::FIRST, Level::FIRST),
            level: None,
            last_log_index: None,
            last_log_term: None,
            disk: None,
            missed_by: None,
        }
    }

    const LIST: [&str; 3] = ["a:1", "b:1", "c:1"];

    fn three() -> [Whoami; 3] {
        [whoami(3, &LIST), whoami(1, &LIST), whoami(2, &LIST)]
    }

    fn reasons(verdict: Founding) -> String {
        match verdict {
            Founding::Wait(reasons) => reasons.join("; "),
            Founding::Found(members) => panic!("founded {members:?}"),
        }
    }

    #[test]
    fn the_command_that_admits_a_server_names_an_api_that_answers_where_it_is_run() {
        assert_eq!(
            admitting_command("10.0.0.4:7790", "10.0.0.1:7790", "10.0.0.1:7789"),
            "run piccolo members add 10.0.0.4:7790 --server http://10.0.0.1:7789"
        );
        assert_eq!(
            admitting_command("10.0.0.4:7790", "10.0.0.1:7790", "127.0.0.1:7789"),
            "on the host of 10.0.0.1:7790 run piccolo members add 10.0.0.4:7790 --server http://127.0.0.1:7789"
        );
        assert_eq!(
            admitting_command("127.0.0.1:5", "127.0.0.1:7790", "127.0.0.1:7789"),
            "run piccolo members add 127.0.0.1:5 --server http://127.0.0.1:7789"
        );
    }

    #[test]
    fn the_first_entry_founds_when_all_are_pristine_and_agree() {
        let nodes = three();
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        let Founding::Found(members) = judge(&nodes[0], &seen) else { panic!() };
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
    fn servers_of_two_builds_found_a_cluster_where_all_read_its_first_level() {
        let mut nodes = three();
        nodes[2].reads.level.highest = 2;
        nodes[2].reads.wire.highest += 1;
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        assert!(matches!(judge(&nodes[0], &seen), Founding::Found(_)));
        nodes[2].reads.level = Range { lowest: 2, highest: 3 };
        let seen: Vec<Seen> = nodes.iter().cloned().map(Ok).collect();
        let reasons = reasons(judge(&nodes[0], &seen));
        assert!(reasons.contains("c:1 reads levels 2 to 3 and a cluster begins at level 1"), "{reasons}");
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
        assert!(matches!(judge(&nodes[0], &seen), Founding::Found(_)));
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
