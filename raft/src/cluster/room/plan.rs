//! What a leader does about disks that are low, its own and those of the others. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::disks::DiskState;
use crate::types::NodeId;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The leader goes on as it is.
    GoOn,
    /// One of these leads instead, the first that answers.
    HandOver(Vec<NodeId>),
    /// No writes: a majority would have to store them, and has no room, or does not answer.
    Refuse,
}

/// `configs` are the voters, twice during a change of the membership. `others` are all of them but the
/// leader, those first that should lead next.
pub(super) fn plan(
    me: NodeId,
    low: bool,
    configs: &[BTreeSet<NodeId>],
    others: &[NodeId],
    seen: &BTreeMap<NodeId, DiskState>,
) -> Plan {
    let seen = |id: &NodeId| match id {
        id if *id == me && low => DiskState::Low,
        id if *id == me => DiskState::Fine,
        id => seen.get(id).copied().unwrap_or(DiskState::Silent),
    };
    let voters = || configs.iter().flatten();
    // A silent one is no reason alone: whether there is a quorum is raft's to say.
    if !low && !voters().any(|id| seen(id) == DiskState::Low) {
        return Plan::GoOn;
    }
    let fine = |id: &&NodeId| seen(id) == DiskState::Fine;
    if configs.iter().any(|config| config.iter().filter(fine).count() <= config.len() / 2) {
        return Plan::Refuse;
    }
    if !low {
        return Plan::GoOn;
    }
    Plan::HandOver(others.iter().filter(fine).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use DiskState::{Fine, Low, Silent};

    fn of(low: bool, voters: &[NodeId], seen: &[(NodeId, DiskState)]) -> Plan {
        let others: Vec<NodeId> = voters.iter().copied().filter(|id| *id != 1).collect();
        plan(1, low, &[voters.iter().copied().collect()], &others, &seen.iter().copied().collect())
    }

    #[test]
    fn a_low_leader_gives_way_only_to_a_majority_with_room() {
        let three = [1, 2, 3];
        assert_eq!(of(false, &three, &[(2, Fine), (3, Fine)]), Plan::GoOn);
        assert_eq!(of(true, &three, &[(2, Fine), (3, Fine)]), Plan::HandOver(vec![2, 3]));
        assert_eq!(of(true, &three, &[(2, Low), (3, Fine)]), Plan::Refuse);
        assert_eq!(of(true, &three, &[(2, Silent), (3, Fine)]), Plan::Refuse);
        assert_eq!(of(true, &three, &[]), Plan::Refuse);
        assert_eq!(of(true, &[1], &[]), Plan::Refuse);
        let five = [1, 2, 3, 4, 5];
        let seen = [(2, Low), (3, Fine), (4, Fine), (5, Fine)];
        assert_eq!(of(true, &five, &seen), Plan::HandOver(vec![3, 4, 5]));
    }

    #[test]
    fn low_followers_stop_writes_only_when_no_majority_is_left() {
        let three = [1, 2, 3];
        assert_eq!(of(false, &three, &[(2, Low), (3, Fine)]), Plan::GoOn);
        assert_eq!(of(false, &three, &[(2, Low), (3, Low)]), Plan::Refuse);
        assert_eq!(of(false, &three, &[(2, Low), (3, Silent)]), Plan::Refuse);
        assert_eq!(of(false, &three, &[(2, Silent), (3, Silent)]), Plan::GoOn, "no disk is low");
    }

    #[test]
    fn between_two_memberships_both_need_a_majority_with_room() {
        let configs = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4, 5])];
        let seen = |four| BTreeMap::from([(2, Fine), (3, Fine), (4, four), (5, Low)]);
        assert_eq!(plan(1, false, &configs, &[2, 3, 4, 5], &seen(Fine)), Plan::GoOn);
        assert_eq!(plan(1, false, &configs, &[2, 3, 4, 5], &seen(Low)), Plan::Refuse);
    }

    #[test]
    fn a_leader_that_is_being_removed_hands_over_like_any_other() {
        let configs = [BTreeSet::from([2, 3])];
        let seen = BTreeMap::from([(2, Fine), (3, Low)]);
        assert_eq!(plan(1, true, &configs, &[2, 3], &seen), Plan::Refuse);
        let seen = BTreeMap::from([(2, Fine), (3, Fine)]);
        assert_eq!(plan(1, true, &configs, &[2, 3], &seen), Plan::HandOver(vec![2, 3]));
    }
}
