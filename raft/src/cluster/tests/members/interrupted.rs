//! Changes of the members that are interrupted: the leader is killed, or the newcomer goes no further.

use super::*;

/// The leader dies after every number of steps; whoever leads then goes on.
#[test]
fn an_add_and_a_replacement_survive_the_leader_at_every_step() {
    for steps in 1..4 {
        let mut servers = servers(3);
        write(&servers, 0);
        let new = joining(&servers[0]);
        let change = add(&new);
        servers.push(new);
        let leading = leader(&servers);
        let (runtime, node) = servers[leading].running.as_ref().unwrap();
        // Cut in the middle: the caller's patience is shorter than the change.
        let cut = node.change_members(change.clone());
        runtime.block_on(async { tokio::time::timeout(Duration::from_millis(steps * 7), cut).await.ok() });
        servers[leading].kill();
        done(&refs(&servers), change);
        servers[leading].start(None);
        expect_voters(&refs(&servers), &refs(&servers));

        let newer = joining(&servers[3]);
        let old = servers[leader(&servers)].id();
        let change = Change::Replace { old: Who::Id(old), address: newer.address.to_string() };
        servers.push(newer);
        let leading = leader(&servers);
        let (runtime, node) = servers[leading].running.as_ref().unwrap();
        let cut = node.change_members(change.clone());
        runtime.block_on(async { tokio::time::timeout(Duration::from_millis(steps * 11), cut).await.ok() });
        servers[leading].kill();
        within(SOON, "another leader", || {
            servers.iter().find(|s| s.running.is_some() && s.node().is_leader() && s.node().has_quorum())
        });
        done(&refs(&servers), change);
        let gone = servers.remove(leading);
        write(&servers, 1);
        expect_on_all(&servers, 0..=1);
        expect_voters(&refs(&servers), &refs(&servers));
        drop(gone);
    }
}

/// Invited, killed before the first entry came, and started like a cluster of one.
#[test]
fn who_was_invited_founds_nothing_whatever_it_is_started_with() {
    let servers = servers(1);
    write(&servers, 0);
    let mut new = joining(&servers[0]);
    let identity = &servers[0].node().inner.contacts.identity;
    let header = Header { list_hash: ListHash::of(&[]), ..identity.header(new.id()).unwrap() };
    let client = lone_client();
    servers[0].run(client.standing(&new.address.to_string(), header, Level::FIRST, None)).unwrap();
    let cluster = servers[0].node().status().cluster_id;
    assert_eq!(new.node().status().cluster_id, cluster);
    new.kill();
    new.join = None;
    new.config.members = vec![new.address.to_string()];
    new.start(None);
    within(SOON, "its reason", || {
        let reasons = new.node().status().reasons;
        reasons.iter().any(|reason| reason.contains("waits to hear of its leader")).then_some(())
    });
    let never = StdInstant::now() + Duration::from_secs(2);
    while StdInstant::now() < never {
        assert!(new.node().leader().is_none() && new.node().status().members.is_empty());
        std::thread::sleep(POLL_INTERVAL);
    }
    // It still may become a member.
    let (change, mut all) = (add(&new), servers);
    all.push(new);
    done(&refs(&all), change);
    expect_on_all(&all, 0..1);
}

/// Whoever began the change has died between its two halves.
/// On the way to a membership without this leader, and its voters.
fn without_leader(node: &Node) -> (openraft::Membership<NodeId, Member>, BTreeSet<NodeId>) {
    let metrics = node.inner.leadership.raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let all: BTreeSet<NodeId> = membership.voter_ids().collect();
    let fewer: BTreeSet<NodeId> = all.iter().copied().filter(|id| *id != metrics.id).collect();
    let nodes: BTreeMap<NodeId, Member> = membership.nodes().map(|(id, m)| (*id, m.clone())).collect();
    (openraft::Membership::new(vec![all, fewer.clone()], nodes).unwrap(), fewer)
}

#[test]
fn a_leader_that_cannot_end_a_change_goes_on_looking() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let node = servers[leading].node().clone();
    let (joint, _) = without_leader(&node);
    let held = servers[leading].run(node.inner.changes.changing.acquire()).unwrap();
    let appended = node.inner.leadership.raft.append_membership(joint, openraft::EntryPayload::Blank, []);
    servers[leading].run(appended).unwrap();
    servers[(leading + 1) % 3].kill();
    servers[(leading + 2) % 3].kill();
    drop(held);
    let free = |permits| (node.inner.changes.changing.available_permits() == permits).then_some(());
    within(SOON, "an attempt to end it", || free(0));
    within(SOON, "the end of the attempt", || free(1));
}

#[test]
fn the_next_leader_ends_a_change_that_was_cut_in_the_middle() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let node = servers[leading].node().clone();
    let (joint, fewer) = without_leader(&node);
    // So that it is not ended here.
    let held = servers[leading].run(node.inner.changes.changing.acquire()).unwrap();
    let appended = node.inner.leadership.raft.append_membership(joint, openraft::EntryPayload::Blank, []);
    servers[leading].run(appended).unwrap();
    drop(held);
    drop(node);
    servers[leading].kill();
    let (one, two) = (&servers[(leading + 1) % 3], &servers[(leading + 2) % 3]);
    for server in [one, two] {
        within(SOON, "one membership", || {
            let metrics = server.node().inner.leadership.raft.metrics().borrow_watched().clone();
            let configs = metrics.membership_config.membership().get_joint_config().clone();
            (configs == [fewer.clone()]).then_some(())
        });
    }
    let left = [servers.remove((leading + 1) % 3)];
    drop(left);
}

/// Answers who it is and takes in a snapshot, but never reads on.
async fn stalling(listener: tokio::net::TcpListener, whoami: String) {
    let snapshot = async |request: axum::extract::Request| {
        let _body = request.into_body();
        std::future::pending::<()>().await;
    };
    let router = Router::new()
        .route("/raft/v1/whoami", axum::routing::post(async move || whoami))
        .route("/raft/v1/reach", axum::routing::post(async || "[]"))
        .route("/raft/v1/snapshot", axum::routing::post(snapshot));
    axum::serve(listener, router).await.unwrap();
}

#[test]
fn a_server_that_takes_nothing_in_costs_the_leader_nothing() {
    let servers = servers(1);
    write(&servers, 0);
    let node = servers[0].node().clone();
    let large = |host: u64| {
        let keys = (0..900).map(|at| format!("{host}-{at}-{}", "k".repeat(200)).parse().unwrap()).collect();
        let address = format!("10.0.{}.{}:7781", host / 250, host % 250).parse().unwrap();
        let holder = Holder { group: "default".to_owned(), address };
        Command::Advertise(Write { holder, pair: None, stores_pair: false, keys })
    };
    // 36 MiB of keys, and enough entries.
    let all = (0..200).map(|host| node.propose(large(host)));
    servers[0].run(futures_util::future::join_all(all));
    let all = (0..SEED_ENTRIES_MIN as usize).map(|number| node.propose(advertise(number..number + 1)));
    servers[0].run(futures_util::future::join_all(all));

    let fake = Identity::load(
        Arc::new(crate::disk::MemoryDisk::default()),
        &crate::random::SystemRandom,
        vec![],
        None,
        "f:1".into(),
        false,
        Default::default(),
    );
    let whoami = serde_json::to_string(&fake.unwrap().whoami()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    let (runtime, _) = servers[0].running.as_ref().unwrap();
    let serving = async { stalling(tokio::net::TcpListener::from_std(listener).unwrap(), whoami).await };
    runtime.spawn(serving);

    let change = Change::Add { addresses: vec![address] };
    let sent = within(SOON, "what fits on the way is sent", || {
        let before = servers[0].step(&change).ok()?;
        std::thread::sleep(Duration::from_millis(300));
        let after = servers[0].step(&change).ok()?;
        (before.position > 0 && before.position == after.position).then_some(after)
    });
    assert_eq!(sent.phase, Phase::Snapshot);
    // A socket's buffers, and nothing of ours.
    let at_least = node.index().counts().keys * 190;
    assert!(sent.position < at_least / 2, "{sent:?} of more than {at_least}");
    assert!(node.inner.changes.streams.lowest().is_some(), "the log is kept for it");
    write(&servers, 5000);
    assert_eq!(node.status().members.len(), 1, "the membership does not know of it");
}
