//! From one server to three, and the first one on a new disk.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant as StdInstant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::members::{add, done, expect_voters, joining, joining_seeing, refs, refusal};
use super::*;
use crate::cluster::{ApiPort, Change, Refusal, Who};
use crate::network::reach::Claimed;

/// Longer than the others need to elect a leader that speaks to the one that was.
const FOUND_AFTER_HERE: Duration = Duration::from_secs(8);

/// Whose API answers at which address, as one host sees it.
#[derive(Debug, Default)]
struct Apis(Mutex<BTreeMap<String, NodeId>>);

impl Apis {
    fn lead(&self, server: &Server, to: NodeId) {
        self.0.lock().unwrap().insert(server.config.api_address.clone(), to);
    }
}

impl ApiPort for Apis {
    fn node_at<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<NodeId, String>> {
        let found = self.0.lock().unwrap().get(address).copied();
        async move { found.ok_or_else(|| "connection refused".to_owned()) }.boxed()
    }
}

fn alone() -> (Server, Option<TcpListener>) {
    servers_stopped(1, |all, _| all.to_vec()).remove(0)
}

fn expect_unreached(refused: Refusal, words: &[&str]) {
    assert!(matches!(refused, Refusal::Unreached { .. }), "{refused:?}");
    let text = refused.to_string();
    words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is missing in: {text}"));
}

/// A first server that called itself 127.0.0.1 was joined by others, whose writes then never reached it.
#[test]
fn nobody_is_admitted_whom_the_address_of_a_member_leads_elsewhere() {
    let (mut first, listener) = alone();
    let (seen_by_first, seen_by_new) = (Arc::new(Apis::default()), Arc::new(Apis::default()));
    first.config.api_port = Some(seen_by_first.clone());
    first.start(listener);
    let mut servers = vec![first];
    write(&servers, 0);
    let new = joining_seeing(&servers[0], Some(seen_by_new.clone()));
    let change = add(&new);
    seen_by_first.lead(&new, new.id());
    // As 127.0.0.1 does.
    seen_by_new.lead(&servers[0], new.id());
    let elsewhere = format!("server {:016x} answers there", new.id());
    let unreached = [
        format!("the server at {} does not reach the discovery API of member", new.address),
        format!("at api-0:7789: {elsewhere}; "),
    ];
    expect_unreached(refusal(&servers, change.clone()), &unreached.each_ref().map(String::as_str));
    assert_eq!((servers[0].node().status().members.len(), new.node().cluster_id()), (1, None));

    // The other way round.
    seen_by_new.lead(&servers[0], servers[0].id());
    seen_by_first.0.lock().unwrap().clear();
    let by_first =
        format!("the server at {} does not reach the discovery API of the new", servers[0].address);
    expect_unreached(refusal(&servers, change.clone()), &[&by_first, "connection refused; start it with"]);

    seen_by_first.lead(&new, new.id());
    servers.push(new);
    done(&refs(&servers), change);
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
}

#[test]
fn a_raft_address_that_leads_to_another_server_is_found() {
    let servers = servers(3);
    write(&servers, 0);
    let at = |server: &Server, node_id| Claimed {
        node_id,
        raft_address: server.address.to_string(),
        api_address: "nobody looks:1".to_owned(),
    };
    let targets = [
        at(&servers[1], servers[1].id()),
        at(&servers[2], servers[1].id()),
        Claimed { raft_address: "127.0.0.1:1".to_owned(), ..at(&servers[2], 7) },
    ];
    let scout = servers[0].node().inner.contacts.scout();
    let unreached = servers[0].run(scout.ask(&servers[0].address.to_string(), &targets)).unwrap();
    let told: Vec<_> = unreached.iter().map(|one| (one.node_id, one.reason.clone())).collect();
    let other = format!("server {:016x} answers there", servers[2].id());
    assert_eq!((told.len(), &told[0]), (2, &(servers[1].id(), other)));
    assert!(told[1].0 == 7 && told[1].1.contains("could not reach 127.0.0.1:1"), "{told:?}");
}

#[test]
fn one_server_becomes_three_in_one_change_and_moves_to_an_address_that_others_reach() {
    let (mut first, listener) = alone();
    let old = first.address.to_string();
    first.start(listener);
    let mut servers = vec![first];
    write(&servers, 0);
    servers[0].kill();
    let elsewhere = super::listener();
    servers[0].address = elsewhere.local_addr().unwrap();
    let address = servers[0].address.to_string();
    servers[0].config.members = vec![address.clone()];
    servers[0].config.raft_address = Some(address.clone());
    servers[0].config.api_address = "reached:7789".to_owned();
    servers[0].start(Some(elsewhere));
    leader(&servers);
    done(&refs(&servers), Change::Replace { old: Who::Address(old), address: address.clone() });
    let member = servers[0].node().status().members[0].member.clone();
    assert_eq!((member.raft_address, member.api_address.as_str()), (address, "reached:7789"));

    let (second, third) = (joining(&servers[0]), joining(&servers[0]));
    let addresses = vec![second.address.to_string(), third.address.to_string()];
    servers.extend([second, third]);
    let voters = Arc::new(Mutex::new(Vec::new()));
    let (seen, node, stop) = (voters.clone(), servers[0].node().clone(), CancellationToken::new());
    let stopped = stop.clone();
    let (runtime, _) = servers[0].running.as_ref().unwrap();
    runtime.spawn(stopped.run_until_cancelled_owned(async move {
        let mut metrics = node.inner.leadership.raft.metrics();
        loop {
            {
                let metrics = metrics.borrow_and_update();
                let configs = metrics.membership_config.membership().get_joint_config();
                let counts: Vec<usize> = configs.iter().map(|voters| voters.len()).collect();
                let mut seen = seen.lock().unwrap();
                if seen.last() != Some(&counts) {
                    seen.push(counts);
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }));
    done(&refs(&servers), Change::Add { addresses });
    stop.cancel();
    let seen = voters.lock().unwrap().clone();
    assert!(seen.iter().flatten().all(|count| [1, 3].contains(count)), "never two: {seen:?}");
    expect_voters(&refs(&servers), &refs(&servers));
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
}

/// It founded a second cluster within 0.1 s, to which agents then synced.
#[test]
fn the_first_server_of_a_grown_cluster_waits_on_a_new_disk_to_be_replaced() {
    let (mut first, listener) = alone();
    first.config.found_after = FOUND_AFTER_HERE;
    let started = StdInstant::now();
    first.start(listener);
    let mut servers = vec![first];
    within(SOON, "its reason", || {
        let reasons = servers[0].node().status().reasons;
        reasons.iter().any(|reason| reason.contains("founds a cluster of its own once no")).then_some(())
    });
    leader(&servers);
    assert!(started.elapsed() >= FOUND_AFTER_HERE, "it listens first");
    write(&servers, 0);
    let (second, third) = (joining(&servers[0]), joining(&servers[0]));
    let addresses = vec![second.address.to_string(), third.address.to_string()];
    servers.extend([second, third]);
    done(&refs(&servers), Change::Add { addresses });
    let cluster = servers[0].node().cluster_id().unwrap().to_string();
    let old = servers[0].id();

    servers[0].kill();
    servers[0].wipe();
    servers[0].start(None);
    let reason = within(SOON, "the reason why it waits", || {
        let reasons = servers[0].node().status().reasons;
        reasons.into_iter().find(|reason| reason.contains("and this server has no data of it"))
    });
    let command = format!("piccolo members replace {old:016x} {}", servers[0].address);
    assert!(reason.contains(&command) && reason.contains(&cluster), "{reason}");
    let never = StdInstant::now() + FOUND_AFTER_HERE + Duration::from_secs(1);
    while StdInstant::now() < never {
        assert_eq!(servers[0].node().cluster_id(), None, "it founded another one");
        std::thread::sleep(POLL_INTERVAL);
    }
    let address = servers[0].address.to_string();
    done(&refs(&servers), Change::Replace { old: Who::Id(old), address });
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
    expect_voters(&refs(&servers), &refs(&servers));
}
