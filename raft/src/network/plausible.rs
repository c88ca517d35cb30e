//! What a member can have sent. openraft takes its peers' word: a message that no member sends would
//! trip its assertions, and end this node, or let it forget what it has applied. Whoever reaches the raft
//! port can build one, and so can a member whose data folder was replaced by an older one.

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use crate::index::Index;
use crate::limits::NUMBER_MAX;
use crate::log::LogStore;
use crate::types::{LogId, NodeId, SnapshotMeta, StoredMembership, TypeConfig, Vote};

/// Why a message cannot be a member's; answered with 400.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Implausible {
    #[error("server {sender:016x} speaks with the vote of {voter:016x}")]
    Voter { sender: NodeId, voter: NodeId },
    #[error("the sender does not say that it leads")]
    NotLeading,
    #[error("term or log index {number} is further than a cluster gets")]
    Far { number: u64 },
    #[error("the entry at log index {index} does not follow the one before it")]
    Order { index: u64 },
    #[error("the membership at log index {index} has no voters, or one without an address")]
    Membership { index: u64 },
    #[error(
        "log index {index} is applied here, and the sender has another entry there: its data was lost or replaced"
    )]
    Contradiction { index: u64 },
}

/// A message that can be looked at without knowing anything else.
pub(crate) trait Plausible {
    /// Whether `sender` can have sent it.
    fn check(&self, sender: NodeId) -> Result<(), Implausible>;
}

impl Plausible for VoteRequest<TypeConfig> {
    fn check(&self, sender: NodeId) -> Result<(), Implausible> {
        check_vote(&self.vote, sender)?;
        check_log_id(self.last_log_id.as_ref())
    }
}

impl Plausible for TransferLeaderRequest<TypeConfig> {
    fn check(&self, sender: NodeId) -> Result<(), Implausible> {
        check_leader(self.from_leader(), sender)?;
        check_log_id(self.last_log_id())
    }
}

impl Plausible for AppendEntriesRequest<TypeConfig> {
    fn check(&self, sender: NodeId) -> Result<(), Implausible> {
        check_leader(&self.vote, sender)?;
        check_log_id(self.leader_commit.as_ref())?;
        check_log_id(self.prev_log_id.as_ref())?;
        let mut before = self.prev_log_id;
        for entry in &self.entries {
            let id = entry.log_id;
            check_log_id(Some(&id))?;
            let next = before.map_or(0, |before| before.index + 1);
            let grows = before.is_none_or(|before| before.leader_id <= id.leader_id);
            if id.index != next || !grows || id.leader_id > self.vote.leader_id {
                return Err(Implausible::Order { index: id.index });
            }
            if let EntryPayload::Membership(membership) = &entry.payload {
                check_membership(id.index, &StoredMembership::new(Some(id), membership.clone()))?;
            }
            before = Some(id);
        }
        Ok(())
    }
}

/// A snapshot that is installed with `vote`.
pub(crate) fn check_snapshot(vote: &Vote, meta: &SnapshotMeta, sender: NodeId) -> Result<(), Implausible> {
    check_leader(vote, sender)?;
    check_log_id(meta.last_log_id.as_ref())?;
    let of_membership = meta.last_membership.log_id();
    check_log_id(of_membership.as_ref())?;
    let index = of_membership.map_or(0, |id| id.index);
    if *of_membership > meta.last_log_id || meta.last_log_id.is_some_and(|id| id.leader_id > vote.leader_id) {
        return Err(Implausible::Order { index });
    }
    check_membership(index, &meta.last_membership)
}

/// Whether the snapshot goes on from what is committed here. One that ends before is either older, and
/// ignored by openraft, or of another history, and an assertion there.
pub(crate) fn check_snapshot_history(
    meta: &SnapshotMeta,
    index: &Index,
    log: &LogStore,
) -> Result<(), Implausible> {
    let committed = index.applied_log_id().max(log.committed());
    let (Some(committed), Some(last)) = (committed, meta.last_log_id) else { return Ok(()) };
    if last > committed && last.index <= committed.index {
        return Err(Implausible::Contradiction { index: last.index });
    }
    Ok(())
}

fn check_leader(vote: &Vote, sender: NodeId) -> Result<(), Implausible> {
    check_vote(vote, sender)?;
    if vote.committed { Ok(()) } else { Err(Implausible::NotLeading) }
}

fn check_vote(vote: &Vote, sender: NodeId) -> Result<(), Implausible> {
    let voter = vote.leader_id.node_id;
    if voter != sender {
        return Err(Implausible::Voter { sender, voter });
    }
    near(vote.leader_id.term)
}

fn check_log_id(id: Option<&LogId>) -> Result<(), Implausible> {
    id.map_or(Ok(()), |id| near(id.index).and_then(|()| near(id.leader_id.term)))
}

fn near(number: u64) -> Result<(), Implausible> {
    if number < NUMBER_MAX { Ok(()) } else { Err(Implausible::Far { number }) }
}

fn check_membership(index: u64, stored: &StoredMembership) -> Result<(), Implausible> {
    let membership = stored.membership();
    let configs = membership.get_joint_config();
    let mut voters = membership.voter_ids();
    let whole = !configs.is_empty()
        && configs.iter().all(|config| !config.is_empty())
        && voters.all(|voter| membership.get_node(&voter).is_some());
    if whole { Ok(()) } else { Err(Implausible::Membership { index }) }
}

/// Whether the append is of the same history as what is applied here. Mostly it begins behind it, and
/// nothing is read: only who repeats old entries is compared with the log, and with no more of it than
/// is sent. Of a leader that was deposed openraft tells it so, whatever it sends: it may well have other
/// entries.
pub(crate) async fn check_history(
    request: &AppendEntriesRequest<TypeConfig>,
    index: &Index,
    log: &LogStore,
) -> Result<(), Implausible> {
    let deposed = log.vote().is_some_and(|vote| request.vote < vote);
    let Some(applied) = index.applied_log_id().filter(|_| !deposed) else { return Ok(()) };
    let sent = request.prev_log_id.into_iter().chain(request.entries.iter().map(|entry| entry.log_id));
    let mut sent: Vec<LogId> = sent.take_while(|id| id.index <= applied.index).collect();
    if let Some(last) = sent.pop_if(|id| id.index == applied.index)
        && last != applied
    {
        return Err(Implausible::Contradiction { index: last.index });
    }
    if sent.is_empty() {
        return Ok(());
    }
    // An error of the log is openraft's to meet.
    match log.first_difference(sent).await {
        Ok(Some(index)) => Err(Implausible::Contradiction { index }),
        _ => Ok(()),
    }
}
