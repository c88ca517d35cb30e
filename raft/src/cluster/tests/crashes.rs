//! Nodes that die at bad moments.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::network::identity::Identity;

#[test]
fn acknowledged_writes_survive_kills_of_any_server_and_all_agree() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers = servers(3);
    write(&servers, 0);
    let mut written = 1;
    for _ in 0..8 {
        let victim = random.random_range(0..3);
        servers[victim].kill();
        for _ in 0..random.random_range(1..8) {
            write(&servers, written);
            written += 1;
        }
        servers[victim].start(None);
    }
    expect_on_all(&servers, 0..written);
    servers.iter_mut().for_each(Server::kill);
    servers.iter_mut().for_each(|server| server.start(None));
    expect_on_all(&servers, 0..written);
}

#[test]
fn a_founder_that_died_before_it_initialised_founds_the_same_cluster() {
    let mut servers = servers_stopped(3, |all, _| all.to_vec());
    let mut list = servers[0].0.config.members.clone();
    list.sort();
    let founder = servers.iter().position(|(server, _)| server.address.to_string() == list[0]).unwrap();
    let disk = Arc::new(FolderDisk::open(servers[founder].0.folder.path()).unwrap());
    Identity::load(disk, list, None, String::new(), false).unwrap().adopt(ClusterId(77)).unwrap();
    for (server, listener) in &mut servers {
        server.start(listener.take());
    }
    let servers: Vec<Server> = servers.into_iter().map(|(server, _)| server).collect();
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    assert!(servers.iter().all(|server| server.node().status().cluster_id == Some(ClusterId(77))));
}
