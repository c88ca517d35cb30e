//! Bytes are wrong where they come from. Nothing of them is committed, one more copy leaves the registry, and every pull
//! ends soon: it fails only where containerd had got wrong bytes before anybody could know it.

use std::time::Duration;

use super::fleet::Fleet;
use super::registry::{Conduct, Registry};
use super::{CHUNK_BYTES, Client, Image, MIB, ONE_COPY, Problems, WITHIN, check};
use crate::containerd::Version;

const SMALL: u64 = 5 * MIB;
const LARGE: u64 = 24 * MIB;
/// Time that one more copy takes beside its time on the link.
const AGAIN_WITHIN: Duration = Duration::from_secs(8);
/// Rate of the registry, bytes a second, where something happens in the middle of a blob.
const RATE: u64 = 4 * MIB;
/// Nodes that receive from one at the same time: one, and a further one while its link is idle.
const CHILDREN_OF_LIAR: usize = 2;
/// Time for the middle to come.
const SOON: Duration = Duration::from_secs(20);

/// How many of the first pulls fail.
fn may_fail(size: u64, nodes: usize) -> usize {
    // A small blob is verified before containerd gets any of it, but for that of the node that fetches it.
    if size == SMALL { 1 } else { nodes }
}

/// The registry sends a wrong byte once.
async fn registry_is_wrong(fleet: &Fleet, client: Client, size: u64, at: u64) -> Result<(), String> {
    let image = &Image::new(&[size]);
    let within = if client.parallel { CHUNK_BYTES } else { u64::MAX };
    let registry = Registry::start(image, Conduct::WrongOnce { at, within }).await;
    let undisturbed = registry.undisturbed();
    let daemons = fleet.daemons(client, &registry);
    let first = daemons.pull(|_| vec![image.clone()], undisturbed + WITHIN).await;
    let (failed, copies) = (first.failed(), registry.copies());
    let cell = format!("{client} | byte {at} of {size} is wrong");
    println!("{cell}: {} pulls failed, {copies:.2} copies, last after {:.1?}", failed.len(), first.last());
    let has_failed = (1..=may_fail(size, first.nodes.len())).contains(&failed.len());
    if !has_failed || first.last() > undisturbed * 2 + AGAIN_WITHIN {
        let (failed, requests) = (failed.join("\n"), registry.requests());
        return Err(format!(
            "{cell}\n{failed}\nthe registry was asked for {requests}\n{}",
            fleet.logs(image)
        ));
    }
    daemons.abort(image);
    let second = daemons.pull(|_| vec![image.clone()], undisturbed + WITHIN).await;
    // One for the wrong bytes; the node that fetched them pulls again, from the others.
    check(fleet, (&cell, image), &registry, &second, 1.0 + ONE_COPY)
}

/// The node whose disk makes a byte wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liar {
    /// It fetches from the registry.
    Fetcher,
    /// It receives from another node, and others receive from it.
    Middle,
}

/// A disk makes a byte wrong that its containerd takes for right, and the agent passes it on.
async fn node_is_wrong(client: Client, size: u64, liar: Liar) -> Result<(), String> {
    let (fleet, image) = (Fleet::start().await, Image::new(&[size]));
    let registry = Registry::start(&image, Conduct::ServesAt(RATE)).await;
    let daemons = fleet.daemons(client, &registry);
    let digest = &image.layers[0].digest;
    let damage = async {
        registry.has_sent(0.3, SOON).await;
        let node = match liar {
            Liar::Fetcher => fleet.fetcher(digest, SOON).await?,
            Liar::Middle => fleet.in_the_middle(digest, SOON).await?,
        };
        daemons.damage(node, size - MIB);
        Some(registry.copies())
    };
    let limit = registry.undisturbed() + WITHIN;
    let (first, damaged) = tokio::join!(daemons.pull(|_| vec![image.clone()], limit), damage);
    let damaged = damaged.ok_or_else(|| format!("{client} | {liar:?}: there was none"))?;
    let failed = first.failed();
    let cell = format!("{client} | the disk of the {liar:?} makes a byte of {size} wrong at {damaged:.2}");
    println!("{cell}: {} pulls failed, last after {:.1?}", failed.len(), first.last());
    let may_fail = if size == SMALL { 0 } else { CHILDREN_OF_LIAR };
    if failed.len() > may_fail || failed.iter().any(|failure| failure.contains("not within")) {
        let (failed, requests) = (failed.join("\n"), registry.requests());
        return Err(format!(
            "{cell}\n{failed}\nthe registry was asked for {requests}\n{}",
            fleet.logs(&image)
        ));
    }
    daemons.abort(&image);
    let second = daemons.pull(|_| vec![image.clone()], limit).await;
    check(&fleet, (&cell, &image), &registry, &second, 1.0 + ONE_COPY)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_a_small_blob_fail_one_pull_and_cost_one_more_copy() {
    let fleet = Fleet::start().await;
    registry_is_wrong(&fleet, Client::of(Version::V2_1), SMALL, SMALL / 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_wrong_bytes_are_committed_nowhere_and_cost_one_more_copy() {
    let fleet = Fleet::start().await;
    let mut problems = Problems::default();
    for client in Client::ALL {
        for size in [SMALL, LARGE] {
            for at in [0, size / 2, size - 1] {
                problems.note(registry_is_wrong(&fleet, client, size, at).await);
            }
        }
    }
    problems.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_node_that_makes_bytes_wrong_costs_one_more_copy() {
    let mut problems = Problems::default();
    for client in [Client::of(Version::V1_6), Client::of(Version::V2_1), Client::of(Version::V2_3)] {
        for (size, liar) in [(SMALL, Liar::Fetcher), (LARGE, Liar::Fetcher), (LARGE, Liar::Middle)] {
            problems.note(node_is_wrong(client, size, liar).await);
        }
    }
    problems.none();
}
