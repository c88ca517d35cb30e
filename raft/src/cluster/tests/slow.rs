//! A follower behind a slow link: it acknowledges, and more slowly than writes come.

use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::sync::atomic::AtomicU64;

use super::*;

/// A relay in front of one server. `pause_us` is what each piece of a request waits.
fn relay(target: SocketAddr, pause_us: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(target) else { continue };
            let (request, answer) = ((client.try_clone(), server.try_clone()), (server, client));
            if let (Ok(from), Ok(to)) = request {
                let pause_us = pause_us.clone();
                std::thread::spawn(move || pass(from, to, &pause_us));
            }
            std::thread::spawn(move || pass(answer.0, answer.1, &AtomicU64::new(0)));
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, pause_us: &AtomicU64) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        std::thread::sleep(Duration::from_micros(pause_us.load(Ordering::Relaxed)));
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    to.shutdown(std::net::Shutdown::Both).ok();
}

/// Found by a review: openraft postpones a purge as long as a follower is being sent what it is to delete, so
/// one that was slow for good kept the whole log on the leader's disk. Now it is cut off and gets a snapshot.
#[test]
fn a_follower_that_is_slower_than_the_writes_does_not_keep_the_log() {
    let pauses: Vec<Arc<AtomicU64>> = (0..3).map(|_| Arc::default()).collect();
    let mut stopped = servers_stopped(3, |_, _| Vec::new());
    let front = |((server, _), pause): (&(Server, _), &Arc<AtomicU64>)| relay(server.address, pause.clone());
    let members: Vec<String> = stopped.iter().zip(&pauses).map(front).map(|at| at.to_string()).collect();
    for (server, listener) in &mut stopped {
        server.config.members.clone_from(&members);
        server.start(listener.take());
    }
    let servers: Vec<Server> = stopped.into_iter().map(|(server, _)| server).collect();
    write(&servers, 0);
    let leading = leader(&servers);
    let slow = (leading + 1) % 3;
    // 16 KiB in 5 ms: 3 MB a second, so that each append is answered before its deadline.
    pauses[slow].store(5_000, Ordering::Relaxed);
    let node = servers[leading].node().clone();
    let large = || {
        let keys = (0..900).map(|key| format!("{}:{key}", "r".repeat(240)).parse().unwrap()).collect();
        Command::Advertise(Write { holder: holder(), pair: None, stores_pair: false, keys })
    };
    // So many that it cannot take them while the purge waits for it: some 13 in a second.
    let mut proposed = 0;
    while servers[slow].node().index().applied_index() + 100 >= node.index().applied_index() {
        servers[leading].propose(large()).unwrap();
        proposed += 1;
        // On a busy machine the writes may be as slow as the link.
        if proposed % 100 == 0 {
            pauses[slow].fetch_add(5_000, Ordering::Relaxed);
        }
        assert!(proposed < 1_000, "the link is not slower than the writes");
    }
    let upto = node.index().applied_index() - 5;
    servers[leading].run(node.inner.compaction.compact(upto));
    within(SOON, "the purge", || node.inner.stores.log.purged().filter(|id| id.index >= upto));
    within(SOON * 2, "openraft's word that it came by snapshot", || {
        let snapshot = servers[slow].node().inner.leadership.raft.metrics().borrow_watched().snapshot;
        snapshot.is_some_and(|id| id.index >= upto).then_some(())
    });
    pauses[slow].store(0, Ordering::Relaxed);
    write(&servers, 1);
    expect_on_all(&servers, 0..2);
}
