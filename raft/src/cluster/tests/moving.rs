//! Servers that get other addresses, and names that nobody can look up for a while, on real sockets.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use futures_util::future::BoxFuture;

use super::members::expect_voters;
use super::*;
use crate::network::names::{ADDRESSES_FILE, Resolve};

/// The promise for servers that all have new addresses.
const MOVED: Duration = Duration::from_secs(10);
/// What slow DNS may add to the two seconds of an election.
const ELECTED_BY_SLOW_DNS: Duration = Duration::from_secs(3);

/// Names and their addresses, as a test says.
#[derive(Debug, Default)]
pub(super) struct Dns {
    names: Mutex<BTreeMap<String, IpAddr>>,
    delay: Mutex<Duration>,
    away: Mutex<bool>,
}

impl Resolve for Dns {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.names.lock().unwrap().get(host).copied();
        let (delay, away) = (*self.delay.lock().unwrap(), *self.away.lock().unwrap());
        Box::pin(async move {
            tokio::time::sleep(if away { SOON } else { delay }).await;
            found.filter(|_| !away).map(|ip| vec![ip]).ok_or_else(|| io::Error::other("no such name"))
        })
    }
}

/// Down, it gets another address: another one of loopback.
fn move_to(server: &mut Server, ip: Ipv4Addr) {
    let listener = within(SOON, "a free port", || TcpListener::bind((ip, 0)).ok());
    server.address = listener.local_addr().unwrap();
}

/// All get `ip`, and a list of their new addresses.
fn move_all(servers: &mut [Server], ip: Ipv4Addr) {
    servers.iter_mut().for_each(|server| move_to(server, ip));
    let list: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    for (at, server) in servers.iter_mut().enumerate() {
        server.config.members.clone_from(&list);
        server.config.raft_address = Some(list[at].clone());
        server.config.api_address = format!("moved-{at}:7789");
    }
}

#[track_caller]
fn expect_addresses(servers: &[Server]) {
    let expected: Vec<(String, String)> =
        servers.iter().map(|s| (s.address.to_string(), s.config.api_address.clone())).collect();
    for server in servers {
        within(MOVED, "the membership with the new addresses", || {
            let members = server.node().status().members.into_iter();
            let said: Vec<_> = members.map(|m| (m.member.raft_address, m.member.api_address)).collect();
            (said.len() == expected.len() && expected.iter().all(|at| said.contains(at))).then_some(())
        });
        within(SOON, "no reason left", || server.node().status().reasons.is_empty().then_some(()));
    }
}

/// At first the data said where the others are, and nobody was there any more: no leader for good, with all
/// disks healthy. Now members that are silent are looked for at the entries of the list.
#[test]
fn servers_that_all_have_new_bare_addresses_lead_within_ten_seconds() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    for (round, ip) in [(1, Ipv4Addr::new(127, 0, 0, 2)), (2, Ipv4Addr::new(127, 0, 0, 3))] {
        servers.iter_mut().for_each(Server::kill);
        move_all(&mut servers, ip);
        servers.iter_mut().for_each(|server| server.start(None));
        let start = std::time::Instant::now();
        within(MOVED, "a leader at the new addresses", || {
            servers.iter().any(|s| s.node().is_leader() && s.node().has_quorum()).then_some(())
        });
        println!("led after {:?}", start.elapsed());
        write(&servers, round);
        expect_on_all(&servers, 0..=round);
        expect_addresses(&servers);
    }
    let all: Vec<&Server> = servers.iter().collect();
    expect_voters(&all, &all);
}

/// Nobody tells the others: the one that has moved says where it is, and whoami proves it.
#[test]
fn a_server_that_moves_alone_is_found_by_the_others_and_corrected() {
    let mut servers = servers(3);
    write(&servers, 0);
    for moving in 0..3 {
        servers[moving].kill();
        move_to(&mut servers[moving], Ipv4Addr::new(127, 0, 0, 2));
        servers[moving].config.raft_address = Some(servers[moving].address.to_string());
        servers[moving].start(None);
        expect_on_all(&servers, 0..1);
        let moved = servers[moving].address.to_string();
        for server in &servers {
            within(MOVED, "the membership with the new address", || {
                let members = server.node().status().members;
                members.iter().any(|m| m.member.raft_address == moved).then_some(())
            });
        }
    }
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
}

/// The state is flushed minutes later than the log; a power cut in between must not make the start need DNS.
#[test]
fn a_node_knows_from_its_log_that_it_is_a_member() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    servers[0].kill();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let opened = within(SOON, "the files of a killed node", || {
        let disk = Arc::new(FolderDisk::open(servers[0].folder.path()).unwrap());
        runtime.block_on(async { Node::open(system(disk), Some(0)).await }).ok()
    });
    let own = opened.member().expect("it was a member");
    assert_eq!(own.raft_address, servers[0].address.to_string());
    assert_eq!(opened.others().len(), 2);
}

/// What answers at a hint must be the member that is missed, by its id.
#[test]
fn an_address_of_another_server_is_not_taken_for_a_silent_member() {
    let mut servers = servers(3);
    write(&servers, 0);
    let stranger = servers_with(1, |all, _| all.to_vec()).pop().unwrap();
    within(SOON, "a cluster of its own", || stranger.node().leader());
    servers[2].kill();
    let before = servers[0].node().status().members;
    servers[0].kill();
    servers[0].config.members = vec![servers[0].address.to_string(), stranger.address.to_string()];
    servers[0].start(None);
    let two = &servers[..2];
    within(SOON, "a leader of two", || {
        two.iter().any(|s| s.node().is_leader() && s.node().has_quorum()).then_some(())
    });
    let never = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < never {
        assert_eq!(servers[1].node().status().members.len(), before.len());
        let addresses = |members: &[MemberInfo]| -> Vec<String> {
            members.iter().map(|m| m.member.raft_address.clone()).collect()
        };
        assert_eq!(addresses(&servers[1].node().status().members), addresses(&before));
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Servers that are called by names which only `dns` knows.
fn named(dns: &Arc<Dns>) -> Vec<Server> {
    let mut servers = Vec::new();
    for (mut server, listener) in servers_stopped(3, |all, _| all.to_vec()) {
        let port = server.address.port();
        let name = format!("n-{port}.piccolo");
        dns.names.lock().unwrap().insert(name.clone(), server.address.ip());
        server.resolver = Some(Arc::clone(dns) as Arc<dyn Resolve>);
        server.config.raft_address = Some(format!("{name}:{port}"));
        servers.push((server, listener));
    }
    let list: Vec<String> = servers.iter().map(|(s, _)| s.config.raft_address.clone().unwrap()).collect();
    let start = |(mut server, listener): (Server, Option<TcpListener>)| {
        server.config.members.clone_from(&list);
        server.start(listener);
        server
    };
    servers.into_iter().map(start).collect()
}

/// How long until another one leads.
#[track_caller]
fn fail_over(servers: &mut [Server], deadline: Duration) -> usize {
    let dead = leader(servers);
    servers[dead].kill();
    let start = std::time::Instant::now();
    within(deadline, "another leader", || {
        let running = servers.iter().filter(|s| s.running.is_some());
        running.into_iter().any(|s| s.node().is_leader() && s.node().has_quorum()).then_some(())
    });
    println!("elected after {:?}", start.elapsed());
    dead
}

/// Each vote used to look names up, within its half a second; each start did, too.
#[test]
fn elections_and_starts_need_no_dns() {
    let dns = Arc::new(Dns::default());
    let mut servers = named(&dns);
    write(&servers, 0);
    for server in &servers {
        let file = server.folder.path().join(ADDRESSES_FILE);
        within(SOON, "addresses on disk", || file.exists().then_some(()));
    }
    *dns.away.lock().unwrap() = true;
    let dead = fail_over(&mut servers, ELECTED_BY_SLOW_DNS);
    servers[dead].start(None);
    expect_on_all(&servers, 0..1);
    servers.iter_mut().for_each(Server::kill);
    servers.iter_mut().for_each(|server| server.start(None));
    within(MOVED, "a leader without DNS", || {
        servers.iter().any(|s| s.node().is_leader() && s.node().has_quorum()).then_some(())
    });
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
}

/// A lookup that takes longer than a question: no cluster was ever born.
#[test]
fn a_cluster_is_born_by_slow_dns_and_names_may_move() {
    let dns = Arc::new(Dns::default());
    *dns.delay.lock().unwrap() = Duration::from_millis(1200);
    let mut servers = named(&dns);
    write(&servers, 0);
    let dead = fail_over(&mut servers, ELECTED_BY_SLOW_DNS);
    servers[dead].start(None);
    expect_on_all(&servers, 0..1);
    // All names get other addresses, while every server remembers the old ones.
    servers.iter_mut().for_each(Server::kill);
    for server in &mut servers {
        server.address.set_ip(Ipv4Addr::new(127, 0, 0, 2).into());
        let name = server.config.raft_address.as_ref().unwrap().split(':').next().unwrap().to_owned();
        dns.names.lock().unwrap().insert(name, server.address.ip());
        server.start(None);
    }
    within(MOVED, "a leader at the new addresses", || {
        servers.iter().any(|s| s.node().is_leader() && s.node().has_quorum()).then_some(())
    });
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
}

/// Followers do not speak to each other until one of them stands for election.
#[test]
fn an_election_takes_a_connection_that_is_there() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let followers: Vec<usize> = (0..3).filter(|at| *at != leading).collect();
    let made =
        |servers: &[Server], from: usize, to: usize| servers[from].connections.made(servers[to].address);
    for (from, to) in [(followers[0], followers[1]), (followers[1], followers[0])] {
        within(SOON, "a warm connection", || (made(&servers, from, to) > 0).then_some(()));
    }
    let count = |servers: &[Server]| {
        made(servers, followers[0], followers[1]) + made(servers, followers[1], followers[0])
    };
    // Longer than an idle connection is kept.
    std::thread::sleep(Duration::from_secs(6));
    let before = count(&servers);
    fail_over(&mut servers, SOON);
    // A vote and a look that are under way at once take two.
    assert!(count(&servers) <= before + 1, "{} new connections", count(&servers) - before);
}

#[test]
fn a_changed_api_address_is_corrected_and_no_new_member() {
    let mut servers = servers(1);
    write(&servers, 0);
    servers[0].kill();
    servers[0].config.api_address = "elsewhere:1".to_owned();
    servers[0].start(None);
    write(&servers, 1);
    within(SOON, "the new address", || {
        let status = servers[0].node().status();
        let apis: Vec<_> = status.members.iter().map(|m| m.member.api_address.as_str()).collect();
        (apis == ["elsewhere:1"] && status.reasons.is_empty()).then_some(())
    });
}

#[test]
fn a_changed_list_and_raft_address_are_reasons_and_the_data_counts() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    servers[0].kill();
    let own = servers[0].address.to_string();
    servers[0].config.members.retain(|entry| *entry != own);
    servers[0].config.members.push("elsewhere:1".to_owned());
    servers[0].config.raft_address = Some("elsewhere:1".to_owned());
    servers[0].start(None);
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
    let reasons = servers[0].node().status().reasons;
    let list = reasons.iter().find(|reason| reason.contains("the list of servers is")).expect("a reason");
    assert!(list.contains("elsewhere:1") && list.contains(&own), "{reasons:?}");
    let address = format!("raft is at elsewhere:1, but the membership says {own}");
    assert!(reasons.iter().any(|reason| reason.contains(&address)), "{reasons:?}");
    within(SOON, "no reason on the others", || servers[1].node().status().reasons.is_empty().then_some(()));
}

#[test]
fn soak_a_minute_of_real_time_without_dns_costs_no_election_and_no_start() {
    let dns = Arc::new(Dns::default());
    let mut servers = named(&dns);
    write(&servers, 0);
    for server in &servers {
        let file = server.folder.path().join(ADDRESSES_FILE);
        within(SOON, "addresses on disk", || file.exists().then_some(()));
    }
    *dns.away.lock().unwrap() = true;
    let end = std::time::Instant::now() + Duration::from_secs(60);
    for number in 1.. {
        let dead = fail_over(&mut servers, ELECTED_BY_SLOW_DNS);
        std::thread::sleep(Duration::from_secs(3));
        servers[dead].start(None);
        write(&servers, number);
        expect_on_all(&servers, 0..=number);
        if std::time::Instant::now() >= end {
            break;
        }
    }
}
