//! What a member can have sent. openraft takes its peers' word: a message that no member sends would
//! trip its assertions, and end this node, or let it forget what it has applied. Whoever reaches the raft
//! port can build one, and so can a member whose data folder was replaced by an older one.

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::storage::RaftLogReader;

use crate::index::Index;
use crate::log::LogStore;
use crate::types::{Entry, LogId, NodeId, SnapshotMeta, StoredMembership, TypeConfig, Vote};

/// Terms and log indices from here on are nonsense: a billion years of elections do not get there. Short
/// of the end of the numbers, because openraft adds one.
pub(crate) const NUMBER_MAX: u64 = 1 << 56;

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

impl Plausible for () {
    fn check(&self, _sender: NodeId) -> Result<(), Implausible> {
        Ok(())
    }
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
/// nothing is read: only who repeats old entries is compared with the log.
pub(crate) async fn check_history(
    request: &AppendEntriesRequest<TypeConfig>,
    index: &Index,
    log: &LogStore,
) -> Result<(), Implausible> {
    let Some(applied) = index.applied_log_id() else { return Ok(()) };
    let sent = request.prev_log_id.into_iter().chain(request.entries.iter().map(|entry| entry.log_id));
    let sent: Vec<LogId> = sent.take_while(|id| id.index <= applied.index).collect();
    let Some(first) = sent.first() else { return Ok(()) };
    let is_applied = |id: &LogId| id.index != applied.index || *id == applied;
    if let Some(other) = sent.iter().find(|id| !is_applied(id)) {
        return Err(Implausible::Contradiction { index: other.index });
    }
    if *first == applied {
        return Ok(());
    }
    // Purged entries cannot be compared; an error of the log is openraft's to meet.
    let own = log.clone().try_get_log_entries(first.index..=applied.index).await.unwrap_or_default();
    let known = |id: &LogId| own.iter().map(|entry: &Entry| entry.log_id).find(|own| own.index == id.index);
    match sent.iter().find(|id| known(id).is_some_and(|own| own != **id)) {
        Some(other) => Err(Implausible::Contradiction { index: other.index }),
        None => Ok(()),
    }
}
