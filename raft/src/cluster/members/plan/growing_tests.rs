//! Several servers that come at once, and servers that are alone in their lists.

use super::*;

/// Server 1 alone, and further servers that are members by now.
fn one(others: &[(NodeId, u64)]) -> View {
    let alone = View {
        list_hash: ListHash::of(&list(&[1])).to_string(),
        voters: BTreeSet::from([1]),
        nodes: [(1, as_member(1))].into(),
        answering: [(1, 1)].into(),
        matched: BTreeMap::new(),
        ..three()
    };
    others.iter().fold(alone, |view, (id, matched)| view.learner(*id, *matched))
}

fn add(view: &View, ids: &[NodeId], newcomers: &[Seen]) -> Result<Action, Refusal> {
    plan(view, &Change::Add { addresses: list(ids) }, newcomers)
}

fn both() -> [Seen; 2] {
    [Ok(waiting(2)), Ok(waiting(3))]
}

#[test]
fn two_servers_that_are_added_together_begin_to_vote_in_one_change() {
    let step = |view: &View| add(view, &[2, 3], &both()).unwrap();
    assert_eq!(step(&one(&[])), Action::AddLearner { node_id: 2, member: as_member(2) });
    assert_eq!(step(&one(&[(2, 10)])), Action::AddLearner { node_id: 3, member: as_member(3) });
    let far = |id, matched| View { last: 10_000, ..one(&[(id, matched), (5 - id, 10_000)]) };
    for id in [2, 3] {
        assert_eq!(step(&far(id, 7)), Action::Wait { node_id: id }, "neither votes before both may");
    }
    let ready = one(&[(2, 10), (3, 9)]);
    assert_eq!(step(&ready), Action::Promote { node_ids: BTreeSet::from([2, 3]) });
    let done = View { voters: BTreeSet::from([1, 2, 3]), ..ready };
    let Action::Done { node_id: None, message } = step(&done) else { panic!() };
    let words = "server 0000000000000002 at s2:7790, server 0000000000000003 at s3:7790 are voters";
    assert_eq!(message, words);
}

#[test]
fn all_newcomers_are_looked_at_before_the_first_is_taken_in() {
    let silent = [Ok(waiting(2)), Err("no route".to_owned())];
    refused(add(&one(&[]), &[2, 3], &silent), &["could not ask s3:7790", "no route"]);
    let other = Whoami { cluster_id: Some("beef".to_owned()), ..waiting(3) };
    refused(add(&one(&[]), &[2, 3], &[Ok(waiting(2)), Ok(other)]), &["s3:7790 has data of cluster beef"]);
    let twice = [Ok(waiting(2)), Ok(Whoami { raft_address: Some(at(3)), ..waiting(2) })];
    refused(add(&one(&[]), &[2, 3], &twice), &["s2:7790 and s3:7790 are one server, 0000000000000002"]);
    let others: Vec<(NodeId, u64)> = (10..10 + MEMBERS_MAX as u64 - 2).map(|id| (id, 10)).collect();
    refused(add(&one(&others), &[2, 3], &both()), &["9 members"]);
    assert!(matches!(add(&one(&others), &[2], &both()[..1]), Ok(Action::AddLearner { .. })));
}

#[test]
fn a_second_server_alone_is_taken_in_with_a_warning() {
    let ready = one(&[(2, 10)]);
    assert_eq!(add(&ready, &[2], &both()[..1]), Ok(Action::Promote { node_ids: BTreeSet::from([2]) }));
    let done = View { voters: BTreeSet::from([1, 2]), ..ready };
    let Ok(Action::Done { message, .. }) = add(&done, &[2], &both()[..1]) else { panic!() };
    assert!(message.ends_with("is a voter; of two voters none may fail: add a third"), "{message}");
}

/// Its own list names nobody else, so that it waits for no other cluster: the first server of a cluster
/// that has grown, on a new disk.
#[test]
fn a_server_that_is_alone_in_its_list_takes_the_place_of_the_member_that_it_was() {
    let down = three().silent(3);
    let alone = list(&[3]);
    let wiped = Whoami { list_hash: ListHash::of(&alone).to_string(), list: alone, ..waiting(4) };
    let member = Member { api_address: "s4:7789".to_owned(), ..as_member(3) };
    let added = replace_of(&down, "s3:7790", &at(3), wiped);
    assert_eq!(added, Ok(Action::AddLearner { node_id: 4, member }));
}

#[test]
fn a_server_that_waits_for_others_comes_only_if_this_cluster_misses_it() {
    let others = list(&[4, 5, 6]);
    let founder = Whoami { list_hash: ListHash::of(&others).to_string(), list: others, ..waiting(4) };
    let missed_by = |cluster: ClusterId| Whoami { missed_by: Some(cluster.to_string()), ..founder.clone() };
    assert!(matches!(add_of(&three(), missed_by(CLUSTER)), Ok(Action::AddLearner { .. })));
    refused(add_of(&three(), missed_by(ClusterId(0xbeef))), &["waits to found a cluster of"]);
}
