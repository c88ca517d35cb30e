//! Every refusal, and every next step, by what the leader sees.

#[path = "plan/growing_tests.rs"]
mod growing;

use super::*;
use crate::format::{Range, Reads};
use crate::network::ListHash;

const CLUSTER: ClusterId = ClusterId(0xfeed);

fn at(id: NodeId) -> String {
    format!("s{id}:7790")
}

fn as_member(id: NodeId) -> Member {
    Member { raft_address: at(id), api_address: format!("s{id}:7789") }
}

fn list(ids: &[NodeId]) -> Vec<String> {
    ids.iter().map(|id| at(*id)).collect()
}

/// Servers 1 to 3, which all answer and have all; 1 leads.
fn three() -> View {
    View {
        me: 1,
        cluster: CLUSTER,
        list_hash: ListHash::of(&list(&[1, 2, 3])).to_string(),
        voters: BTreeSet::from([1, 2, 3]),
        joint: false,
        nodes: [1, 2, 3].map(|id| (id, as_member(id))).into(),
        tombstones: BTreeSet::new(),
        answering: [1, 2, 3].map(|id| (id, id)).into(),
        level: Level::FIRST,
        last: 10,
        last_before: None,
        matched: [(2, 10), (3, 9)].into(),
    }
}

impl View {
    fn learner(mut self, id: NodeId, matched: u64) -> Self {
        self.nodes.insert(id, as_member(id));
        self.matched.insert(id, matched);
        self.answering.insert(id, id);
        self
    }

    fn silent(mut self, id: NodeId) -> Self {
        self.answering.remove(&id);
        self
    }
}

/// A server that waits to be admitted.
fn waiting(id: NodeId) -> Whoami {
    Whoami {
        node_id: id,
        boot_nonce: id,
        cluster_id: None,
        list_hash: ListHash::of(&[]).to_string(),
        list: Vec::new(),
        raft_address: Some(at(id)),
        api_address: format!("s{id}:7789"),
        reads: Reads::levels(Level::FIRST, Level::FIRST),
        level: None,
        last_log_index: None,
        last_log_term: None,
        disk: None,
        missed_by: None,
    }
}

fn add_of(view: &View, whoami: Whoami) -> Result<Action, Refusal> {
    plan(view, &Change::Add { addresses: vec![at(4)] }, &[Ok(whoami)])
}

fn remove_of(view: &View, who: &str) -> Result<Action, Refusal> {
    plan(view, &Change::Remove { who: who.parse().unwrap() }, &[])
}

fn replace_of(view: &View, old: &str, address: &str, whoami: Whoami) -> Result<Action, Refusal> {
    let change = Change::Replace { old: old.parse().unwrap(), address: address.to_owned() };
    plan(view, &change, &[Ok(whoami)])
}

#[track_caller]
fn refused(result: Result<Action, Refusal>, words: &[&str]) {
    let error = result.expect_err("it is refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is missing in: {error}");
    }
}

#[test]
fn a_new_server_learns_then_waits_then_votes() {
    let node_id = 4;
    assert_eq!(add_of(&three(), waiting(4)), Ok(Action::AddLearner { node_id, member: as_member(4) }));
    let behind = View { last: 10_000, ..three() }.learner(4, 10_000 - LAG_MAX - 1);
    assert_eq!(add_of(&behind, waiting(4)), Ok(Action::Wait { node_id }));
    let near = View { last: 10_000, ..three() }.learner(4, 10_000 - LAG_MAX);
    assert_eq!(add_of(&near, waiting(4)), Ok(Action::Promote { node_ids: BTreeSet::from([node_id]) }));
    let mut voter = near;
    voter.voters.insert(4);
    assert!(matches!(add_of(&voter, waiting(4)), Ok(Action::Done { node_id: Some(4), .. })));
}

#[test]
fn who_keeps_pace_with_a_fast_log_may_vote() {
    let node_id = 4;
    let fast = View { last: 30_000, last_before: Some(10_000), ..three() };
    let pace = fast.clone().learner(4, 10_000);
    assert_eq!(add_of(&pace, waiting(4)), Ok(Action::Promote { node_ids: BTreeSet::from([node_id]) }));
    let behind = fast.learner(4, 9_999);
    assert_eq!(add_of(&behind, waiting(4)), Ok(Action::Wait { node_id }));
    let unknown = View { last_before: None, ..pace };
    assert_eq!(add_of(&unknown, waiting(4)), Ok(Action::Wait { node_id }));
}

#[test]
fn a_long_log_is_not_sent_to_an_empty_server() {
    let long = View { last: SEED_ENTRIES_MIN, ..three() };
    assert_eq!(add_of(&long, waiting(4)), Ok(Action::Seed { node_id: 4, address: at(4) }));
    let seeded = Whoami { last_log_index: Some(900), cluster_id: Some(CLUSTER.to_string()), ..waiting(4) };
    assert_eq!(add_of(&long, seeded), Ok(Action::AddLearner { node_id: 4, member: as_member(4) }));
    let short = View { last: SEED_ENTRIES_MIN - 1, ..three() };
    assert!(matches!(add_of(&short, waiting(4)), Ok(Action::AddLearner { .. })));
}

#[test]
fn a_change_that_somebody_began_is_ended_first() {
    let joint = View { joint: true, ..three() };
    assert_eq!(add_of(&joint, waiting(4)), Ok(Action::Flatten));
    assert_eq!(remove_of(&joint, "2"), Ok(Action::Flatten));
}

#[test]
fn who_may_not_become_a_member_is_refused_with_the_reason() {
    let other = Whoami { cluster_id: Some("beef".to_owned()), ..waiting(4) };
    refused(add_of(&three(), other), &["s4:7790 has data of cluster beef", "empty folder"]);

    let founding = list(&[4, 5, 6]);
    let founder = Whoami { list_hash: ListHash::of(&founding).to_string(), list: founding, ..waiting(4) };
    refused(add_of(&three(), founder.clone()), &["waits to found a cluster of s4:7790,s5:7790,s6:7790"]);
    // A wiped founder whose own list is only itself founds a cluster again with every empty folder.
    let alone = Whoami { list: vec![at(3)], cluster_id: Some("beef".to_owned()), ..waiting(4) };
    refused(
        replace_of(&three(), "s3:7790", &at(3), alone),
        &["has data of cluster beef", "empty folder and with --join s1:7790 in place of --cluster"],
    );
    let wiped = list(&[1, 2, 4]);
    let wiped = Whoami { list_hash: ListHash::of(&wiped).to_string(), list: wiped, ..waiting(4) };
    assert!(matches!(add_of(&three(), wiped), Ok(Action::AddLearner { .. })), "its list names our servers");

    let mut newer = waiting(4);
    newer.reads.level.highest = 2;
    assert!(
        matches!(add_of(&three(), newer.clone()), Ok(Action::AddLearner { .. })),
        "it reads our level, too"
    );
    newer.reads.level.lowest = 2;
    refused(add_of(&three(), newer), &["reads levels 2 to 2", "runs at level 1"]);
    let older = View { level: Level(2), ..three() };
    refused(add_of(&older, waiting(4)), &["reads levels 1 to 1", "runs at level 2"]);
    let mut of_another_line = waiting(4);
    of_another_line.reads.entry = Range { lowest: 7, highest: 7 };
    refused(add_of(&three(), of_another_line), &["reads levels 1 to 1", "runs at level 1"]);

    let mut removed = three();
    removed.tombstones.insert(4);
    refused(add_of(&removed, waiting(4)), &["0000000000000004, which was removed"]);

    let silent = plan(&three(), &Change::Add { addresses: vec![at(4)] }, &[Err("no route".to_owned())]);
    refused(silent, &["could not ask s4:7790", "no route; start the new server there with --join s1:7790"]);

    let mut full = three();
    for id in 10..10 + MEMBERS_MAX as u64 - 3 {
        full = full.learner(id, 10);
    }
    refused(add_of(&full, waiting(4)), &["9 members"]);
}

#[test]
fn a_member_that_is_named_by_its_api_is_told_its_raft_address() {
    let words =
        ["s2:7789 is the discovery API of member 0000000000000002: name it by its raft address s2:7790"];
    refused(remove_of(&three(), "s2:7789"), &words);
    refused(replace_of(&three(), "s2:7789", &at(4), waiting(4)), &words);
    let to = Some("s2:7789".parse().unwrap());
    refused(plan(&three(), &Change::Transfer { to }, &[]), &words);
    let change = Change::Add { addresses: vec!["s2:7789".to_owned()] };
    refused(plan(&three(), &change, &[Err("404 Not Found".to_owned())]), &words);
}

#[test]
fn a_server_on_loopback_joins_no_cluster_of_several_hosts() {
    let add = |view: &View, address: &str, api: &str| {
        let whoami = Whoami { api_address: api.to_owned(), ..waiting(4) };
        plan(view, &Change::Add { addresses: vec![address.to_owned()] }, &[Ok(whoami)])
    };
    let words = ["is on loopback, but the member at s1:7790 is not"];
    for address in ["127.0.0.1:7790", "[::1]:7790", "[::ffff:127.0.0.1]:7790", "LocalHost:7790"] {
        refused(add(&three(), address, "s4:7789"), &words);
        refused(add(&three(), "s4:7790", address), &words);
    }
    refused(replace_of(&three().silent(3), "3", "127.0.0.1:7790", waiting(3)), &words);
    assert!(matches!(add(&three(), "s4:7790", "s4:7789"), Ok(Action::AddLearner { .. })));
    let mut one_host = three();
    for (id, member) in &mut one_host.nodes {
        member.raft_address = format!("127.0.0.1:{id}");
    }
    assert!(matches!(add(&one_host, "127.0.0.1:4", "127.0.0.1:5"), Ok(Action::AddLearner { .. })));
}

#[test]
fn an_address_belongs_to_one_member_and_a_member_has_one_address() {
    let mut view = three();
    view.nodes.get_mut(&2).unwrap().raft_address = at(4);
    refused(
        add_of(&view, waiting(4)),
        &["the address of member 0000000000000002", "0000000000000004 answers"],
    );
    refused(add_of(&three(), waiting(2)), &["is member 0000000000000002, known at s2:7790"]);
}

#[test]
fn a_learner_that_is_away_for_a_moment_is_waited_for() {
    let away = |view: &View| plan(view, &Change::Add { addresses: vec![at(4)] }, &[Err("reset".to_owned())]);
    assert_eq!(away(&three().learner(4, 1)), Ok(Action::Wait { node_id: 4 }));
    let mut voter = three().learner(4, 1);
    voter.voters.insert(4);
    refused(away(&voter), &["could not ask"]);
}

#[test]
fn what_would_lose_the_quorum_is_refused_with_the_numbers() {
    let one_down = three().silent(3);
    let words = ["of 2 voters then, 2 must answer, and 1 do now", "0000000000000003 at s3:7790"];
    refused(remove_of(&one_down, "s2:7790"), &words);
    refused(remove_of(&one_down, "1"), &words[1..]);
    assert_eq!(remove_of(&one_down, "3"), Ok(Action::Remove { node_id: 3 }), "the dead one may go");
    assert_eq!(remove_of(&three(), "2"), Ok(Action::Remove { node_id: 2 }));

    let mut two_of_four = three().learner(4, 10).silent(3).silent(4);
    two_of_four.nodes.insert(5, as_member(5));
    two_of_four.matched.insert(5, 10);
    two_of_four.voters = BTreeSet::from([1, 2, 3, 4]);
    let change = Change::Add { addresses: vec![at(5)] };
    refused(plan(&two_of_four, &change, &[Ok(waiting(5))]), &["of 5 voters then, 3 must answer, and 2 do"]);

    let one = View { voters: BTreeSet::from([1]), ..three() };
    refused(remove_of(&one, "1"), &["the only voter"]);
}

#[test]
fn a_leader_hands_over_before_it_goes() {
    assert_eq!(remove_of(&three(), "1"), Ok(Action::HandOver { to: 2 }), "the one that is furthest");
    assert_eq!(
        remove_of(&three().silent(2), "1").unwrap_err().to_string().split(':').next(),
        Some("removing this server would lose the quorum")
    );
    let caught_up = three().learner(4, 10);
    assert_eq!(replace_of(&caught_up, "1", &at(4), waiting(4)), Ok(Action::HandOver { to: 2 }));
    let mut only = caught_up;
    only.voters = BTreeSet::from([1]);
    assert_eq!(
        replace_of(&only, "1", &at(4), waiting(4)),
        Ok(Action::Promote { node_ids: BTreeSet::from([4]) })
    );
    only.voters.insert(4);
    assert_eq!(replace_of(&only, "1", &at(4), waiting(4)), Ok(Action::HandOver { to: 4 }));
}

#[test]
fn a_learner_is_removed_whoever_answers() {
    let view = three().learner(4, 0).silent(2).silent(4);
    assert_eq!(remove_of(&view, "s4:7790"), Ok(Action::Remove { node_id: 4 }));
}

#[test]
fn who_is_not_there_is_not_removed_twice() {
    refused(remove_of(&three(), "s9:7790"), &["s9:7790 is not a member"]);
    refused(remove_of(&three(), "9"), &["0000000000000009 is not a member"]);
    let mut view = three();
    view.tombstones.insert(9);
    assert!(matches!(remove_of(&view, "9"), Ok(Action::Done { .. })));
    view.tombstones.insert(2);
    assert_eq!(remove_of(&view, "2"), Ok(Action::Remove { node_id: 2 }), "a removal that was cut goes on");
}

#[test]
fn a_replacement_takes_one_change_once_the_new_server_is_there() {
    let down = three().silent(3);
    assert!(matches!(replace_of(&down, "s3:7790", &at(4), waiting(4)), Ok(Action::AddLearner { .. })));
    let view = three().silent(3).learner(4, 10);
    assert_eq!(replace_of(&view, "s3:7790", &at(4), waiting(4)), Ok(Action::Swap { old: 3, new: 4 }));
    let mut cut = view.clone();
    cut.tombstones.insert(3);
    assert_eq!(replace_of(&cut, "3", &at(4), waiting(4)), Ok(Action::Swap { old: 3, new: 4 }));
    let mut done = cut;
    done.nodes.remove(&3);
    done.voters = BTreeSet::from([1, 2, 4]);
    for old in ["3", "s3:7790"] {
        assert!(matches!(replace_of(&done, old, &at(4), waiting(4)), Ok(Action::Done { .. })), "{old}");
    }
    refused(replace_of(&three(), "s9:7790", &at(4), waiting(4)), &["s9:7790 is not a member"]);
    let alone = three().silent(3).silent(2).learner(4, 10).silent(4);
    refused(replace_of(&alone, "3", &at(4), waiting(4)), &["of 3 voters then, 2 must answer, and 1 do now"]);
}

#[test]
fn a_wiped_server_is_replaced_at_its_own_address() {
    let down = three().silent(3);
    let wiped = Whoami { raft_address: Some(at(3)), ..waiting(4) };
    let added = replace_of(&down, "s3:7790", &at(3), wiped.clone());
    let member = Member { api_address: "s4:7789".to_owned(), ..as_member(3) };
    assert_eq!(added, Ok(Action::AddLearner { node_id: 4, member: member.clone() }));
    let mut learning = down;
    learning.nodes.insert(4, member);
    assert_eq!(replace_of(&learning, "s3:7790", &at(3), wiped.clone()), Ok(Action::Wait { node_id: 4 }));
    refused(remove_of(&learning, "s3:7790"), &["several members", "0000000000000003, 0000000000000004"]);
    learning.matched.insert(4, 10);
    learning.answering.insert(4, 4);
    assert_eq!(replace_of(&learning, "s3:7790", &at(3), wiped), Ok(Action::Swap { old: 3, new: 4 }));
}

#[test]
fn a_member_that_has_moved_is_known_at_its_new_address() {
    let moved = waiting(3);
    let member = Member { raft_address: "n3:1".to_owned(), ..as_member(3) };
    for old in ["3", "s3:7790"] {
        let planned = replace_of(&three(), old, "n3:1", moved.clone());
        assert_eq!(planned, Ok(Action::Readdress { node_id: 3, member: member.clone() }), "{old}");
    }
    refused(replace_of(&three(), "3", "s2:7790", moved.clone()), &["the address of member 0000000000000002"]);
    let mut view = three();
    view.nodes.insert(3, member);
    assert!(matches!(replace_of(&view, "3", "n3:1", moved), Ok(Action::Done { .. })));
}

#[test]
fn a_copy_of_a_member_that_still_runs_does_not_take_its_place() {
    let copy = Whoami { boot_nonce: 33, ..waiting(3) };
    let words = ["n3:1 and s3:7790 both answer as member 0000000000000003", "empty folder"];
    for old in ["3", "s3:7790"] {
        refused(replace_of(&three(), old, "n3:1", copy.clone()), &words);
    }
    refused(plan(&three(), &Change::Add { addresses: vec!["n3:1".to_owned()] }, &[Ok(copy.clone())]), &words);
    let stopped = three().silent(3);
    assert!(matches!(replace_of(&stopped, "3", "n3:1", copy.clone()), Ok(Action::Readdress { .. })));
    let known = Change::Add { addresses: vec![at(3)] };
    assert!(matches!(plan(&three(), &known, &[Ok(copy)]), Ok(Action::Done { .. })), "it was restarted");
}

#[test]
fn only_a_voter_that_answers_and_is_near_can_lead() {
    let to = |view: &View, who: &str| plan(view, &Change::Transfer { to: Some(who.parse().unwrap()) }, &[]);
    assert_eq!(to(&three(), "s3:7790"), Ok(Action::HandOver { to: 3 }));
    assert!(matches!(to(&three(), "1"), Ok(Action::Done { .. })));
    refused(to(&three().silent(3), "3"), &["at s3:7790 does not answer"]);
    refused(to(&three().learner(4, 10), "4"), &["does not vote"]);
    refused(to(&View { last: 9 + LAG_MAX + 1, ..three() }, "3"), &["lacks 1025 log entries"]);
    let any = |view: &View| plan(view, &Change::Transfer { to: None }, &[]);
    assert_eq!(any(&three()), Ok(Action::HandOver { to: 2 }));
    refused(any(&three().silent(2).silent(3)), &["no other voter answers"]);
}

#[test]
fn members_are_named_by_id_or_address() {
    assert_eq!("00000000000000ff".parse(), Ok(Who::Id(255)));
    assert_eq!("ff".parse(), Ok(Who::Id(255)));
    assert_eq!("[fd00::1]:7790".parse(), Ok(Who::Address("[fd00::1]:7790".to_owned())));
    for bad in ["", "0", "xyz", "a:", ":1", "a:0", "a b:1", "http://a:1", "12345678901234567"] {
        assert!(bad.parse::<Who>().is_err(), "{bad}");
    }
}
