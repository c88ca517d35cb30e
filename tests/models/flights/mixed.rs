//! Nodes of two groups, and agents and servers that know no flights beside others that do.

use std::fmt::Display;

use super::fleet::Fleet;
use super::registry::{Conduct, Registry};
use super::{Client, Image, NODES, ONE_COPY, Problems, WITHIN, check};
use crate::containerd::Version;
use crate::product::{Build, PREVIOUS};

/// Lets all nodes pull `image` at once, for twice the time that one takes. An error says what was wrong.
async fn all_pull(
    fleet: &Fleet,
    client: Client,
    image: &Image,
    (what, copies): (impl Display, f64),
) -> Result<(), String> {
    let registry = Registry::start(image, Conduct::Serves).await;
    let limit = registry.undisturbed() * 2 + WITHIN;
    let pulled = fleet.daemons(client, &registry).pull(|_| vec![image.clone()], limit).await;
    check(fleet, (&format!("{client} | {what}"), image), &registry, &pulled, copies * ONE_COPY)
}

/// I6: what is arriving in one group is nothing for the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_two_groups_has_a_copy_of_its_own() {
    let (fleet, image) = (Fleet::of_two_groups().await, Image::of_one_blob());
    all_pull(&fleet, Client::of(Version::V1_6), &image, ("two groups", 2.0)).await.unwrap();
    let digest = &image.layers[0].digest;
    let mut received = 0;
    for (number, agent) in fleet.agents.iter().enumerate() {
        let log = agent.log_of(digest);
        let is_source = |other: &usize| log.contains(&format!("source={} ", fleet.agents[*other].peer));
        let sources: Vec<usize> = (0..NODES).filter(is_source).collect();
        assert!(sources.iter().all(|other| other % 2 == number % 2), "{number} from {sources:?}\n{log}");
        received += sources.len();
    }
    assert!(received >= NODES - 2, "{received} sources in the logs:\n{}", fleet.logs(&image));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_an_agent_without_flights_pulls_beside_the_others() {
    let fleet = Fleet::with_old_agents(&[3]).await;
    let mut problems = Problems::default();
    for client in Client::ALL {
        for image in [Image::of_one_blob(), Image::of_many_layers()] {
            // That one fetches for itself.
            problems.note(all_pull(&fleet, client, &image, ("one without flights", 2.0)).await);
        }
    }
    problems.none();
}

/// Every order of an upgrade from the version that [`PREVIOUS`] names; without it there is nothing to upgrade from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_the_previous_version_pulls_beside_this_one_in_every_order_of_an_upgrade() {
    if std::env::var_os(PREVIOUS).is_none() {
        println!("{PREVIOUS} names no binary of the previous version: nothing was tested");
        return;
    }
    let (every, half): (Vec<usize>, Vec<usize>) = ((0..NODES).collect(), (0..NODES / 2).collect());
    let orders = [
        ("an old server", Build::Previous, &[][..], NODES),
        ("an old server and half of the agents", Build::Previous, &half, NODES),
        // As many as ask at once, which is what the previous version makes of all of them.
        ("old agents", Build::New, &every, NODES),
        ("half of the agents", Build::New, &half, half.len() + 1),
        ("the last old agent", Build::New, &[NODES - 1], 2),
    ];
    let mut problems = Problems::default();
    for (what, server, previous, copies) in orders {
        let fleet = Fleet::of_builds(server, previous).await;
        for client in [Client::of(Version::V1_6), Client::of(Version::V2_3).in_parallel()] {
            for image in [Image::of_one_blob(), Image::of_many_layers()] {
                problems.note(all_pull(&fleet, client, &image, (what, copies as f64)).await);
            }
        }
    }
    problems.none();
}
