//! The registry is slow to begin, breaks off, or refuses.

use std::time::Duration;

use super::fleet::{Fleet, Pulled};
use super::registry::{Conduct, Registry};
use super::{Client, Image, ONE_COPY, Problems, WITHIN, check};
use crate::containerd::Version;

/// Time from one attempt to the next of a daemon that has failed: none. 2.1.4 `core/remotes/docker/resolver.go:757`
/// repeats a 5xx of the registry once, and no version waits before that.
const OWN_RETRIES: Duration = Duration::ZERO;
/// The registry's silence before its first byte, longer than two claims are patient.
const SILENCE: Duration = Duration::from_secs(10);

async fn all_pull(fleet: &Fleet, client: Client, image: &Image, conduct: Conduct) -> (Registry, Pulled) {
    let registry = Registry::start(image, conduct).await;
    let silence = if let Conduct::SilentFor(time) = conduct { time } else { Duration::ZERO };
    let limit = registry.undisturbed() + silence + WITHIN + OWN_RETRIES;
    let pulled = fleet.daemons(client, &registry).pull(|_| vec![image.clone()], limit).await;
    (registry, pulled)
}

/// Every node has an error of its own soon.
async fn all_fail(fleet: &Fleet, client: Client, image: &Image, conduct: Conduct) -> Result<(), String> {
    let (registry, pulled) = all_pull(fleet, client, image, conduct).await;
    let (last, failed) = (pulled.last(), pulled.failed());
    let cell = format!("{client} | {conduct:?} | {} layers: last error after {last:.1?}", image.layers.len());
    println!("{cell}");
    let (nodes, waited) = (pulled.nodes.len(), failed.iter().any(|failure| failure.contains("not within")));
    if failed.len() == nodes && !waited {
        return Ok(());
    }
    let (failed, requests) = (failed.join("\n"), registry.requests());
    Err(format!("{cell}\n{failed}\nthe registry was asked for {requests}\n{}", fleet.logs(image)))
}

async fn all_succeed(fleet: &Fleet, client: Client, conduct: Conduct, copies: f64) -> Result<(), String> {
    let image = Image::of_one_blob();
    let (registry, pulled) = all_pull(fleet, client, &image, conduct).await;
    check(fleet, (&format!("{client} | {conduct:?}"), &image), &registry, &pulled, copies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_has_its_error_soon() {
    let fleet = Fleet::start().await;
    let image = Image::of_one_blob();
    all_fail(&fleet, Client::of(Version::V2_1), &image, Conduct::Refuses(403)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_every_node_has_its_error_soon() {
    let fleet = Fleet::start().await;
    let mut problems = Problems::default();
    for client in Client::ALL {
        for code in [401, 403, 404, 503] {
            let conduct = Conduct::Refuses(code);
            problems.note(all_fail(&fleet, client, &Image::of_one_blob(), conduct).await);
            problems.note(all_fail(&fleet, client, &Image::of_many_layers(), conduct).await);
        }
        problems.note(all_fail(&fleet, client, &Image::of_one_blob(), Conduct::GoneAtHalf).await);
    }
    problems.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_registry_that_breaks_off_sends_little_more_than_one_copy() {
    let fleet = Fleet::start().await;
    let mut problems = Problems::default();
    for client in Client::ALL {
        problems.note(all_succeed(&fleet, client, Conduct::BreaksOnce, ONE_COPY).await);
        problems.note(all_succeed(&fleet, client, Conduct::ServesAt(super::MIB), ONE_COPY).await);
    }
    problems.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_registry_that_is_slow_to_begin_sends_three_copies_at_most() {
    let fleet = Fleet::start().await;
    let mut problems = Problems::default();
    for client in Client::ALL {
        problems.note(all_succeed(&fleet, client, Conduct::SilentFor(SILENCE), 3.0 * ONE_COPY).await);
    }
    problems.none();
}
