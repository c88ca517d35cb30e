//! What small writes cost the disks, in bytes that reach redb's files, and how long they take.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Answer, Kind, Order, Request};
use super::cluster::{CLIENTS, Cluster};
use super::net::{self, Payload};
use super::workload::{all_keys, holder_of};
use crate::index::STATE_FILE;
use crate::limits::LINGER;
use crate::log::LOG_FILE;

/// Number of holders, which write one after the other.
const HOLDERS: u8 = 200;

/// Cost of the writes that were acknowledged.
#[derive(Debug)]
struct Seen {
    bytes_each: u64,
    longest: Duration,
}

/// So many writes, one every `gap_ms`, each of the next holder; what each server wrote for one of them.
fn written_for(seed: u64, writes: u32, gap_ms: u64) -> Seen {
    let mut cluster = Cluster::of_listed(seed, 3, 0);
    assert!(cluster.run_until(10_000, |cluster| cluster.leader().is_some()));
    let leader = cluster.hosts[cluster.leader().expect("seen above")].address.clone();
    let answers: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let bytes = |cluster: &Cluster| -> u64 {
        let of = |file| cluster.hosts.iter().map(move |host| host.disk.written_bytes(file)).sum::<u64>();
        of(LOG_FILE) + of(STATE_FILE)
    };
    let before = bytes(&cluster);
    let seen = answers.clone();
    cluster.spawn(async move {
        for number in 0..writes {
            let key = all_keys().nth(number as usize % 7).expect("there are more");
            let holder = holder_of((number % u32::from(HOLDERS)) as u8);
            let order = Order { holder, pair: None, kind: Kind::Advertise, keys: vec![key] };
            let request = Request::Write { order, forwarded: false };
            let (leader, seen, start) = (leader.clone(), seen.clone(), Instant::now());
            tokio::runtime::Handle::current().spawn(async move {
                let answer = net::ask(CLIENTS, &leader, Payload::Client(request)).await;
                assert!(matches!(answer, net::Answer::Client(Answer::Done { .. })), "{answer:?}");
                seen.lock().unwrap().push(start.elapsed());
            });
            tokio::time::sleep(Duration::from_millis(gap_ms)).await;
        }
    });
    let done = |_: &mut Cluster| answers.lock().unwrap().len() == writes as usize;
    assert!(cluster.run_until(u64::from(writes) * gap_ms + 10_000, done));
    // With the flush of the state that they bring.
    cluster.run(2_000);
    let longest = answers.lock().unwrap().iter().max().copied().expect("there are some");
    Seen { bytes_each: (bytes(&cluster) - before) / 3 / u64::from(writes), longest }
}

/// Each had a commit of its own, of nine pages: 38 KiB.
#[test]
fn a_steady_stream_of_writes_shares_commits_and_pages() {
    let seen = written_for(1, 1_000, 5);
    println!("{seen:?}");
    assert!(seen.bytes_each < 6 * 1024, "{seen:?}");
}

#[test]
fn a_lone_write_waits_for_no_other() {
    let seen = written_for(1, 20, 500);
    println!("{seen:?}");
    // Disks and network take about as long by themselves.
    assert!(seen.longest < LINGER * 3 / 2, "{seen:?}");
}
