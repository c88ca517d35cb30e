//! Agents, links and the server die while the nodes pull.

use std::time::Duration;

use super::fleet::Fleet;
use super::registry::{Conduct, Registry};
use super::{Client, Image, MIB, ONE_COPY, Problems, WITHIN, check};
use crate::containerd::Version;

/// Rate of the registry, bytes a second: a pull takes some seconds, so that there is a middle of it.
const RATE: u64 = 8 * MIB;
/// Time for the middle to come.
const SOON: Duration = Duration::from_secs(20);

/// Who dies in the middle of the pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    /// The agent whose containerd fetches from the registry.
    Fetcher,
    /// An agent that receives from another one, and sends to a third one.
    Source,
    /// The link to such an agent: nothing passes any more, and nobody is told.
    LinkToSource,
    Server,
}

/// Lets the agent or server die when half of the blob has left the registry. One more copy leaves it at most.
async fn dies(client: Client, dying: Dies) -> Result<(), String> {
    let image = Image::of_one_blob();
    let fleet = if dying == Dies::LinkToSource { Fleet::over_wires().await } else { Fleet::start().await };
    let registry = Registry::start(&image, Conduct::ServesAt(RATE)).await;
    let limit = registry.undisturbed() + WITHIN;
    let daemons = fleet.daemons(client, &registry);
    let digest = &image.layers[0].digest;
    let death = async {
        registry.has_sent(0.5, SOON).await;
        match dying {
            Dies::Server => fleet.server.kill(),
            Dies::Fetcher => fleet.agents[fleet.fetcher(digest, SOON).await?].kill(),
            Dies::Source => fleet.agents[fleet.in_the_middle(digest, SOON).await?].kill(),
            Dies::LinkToSource => fleet.wires[fleet.in_the_middle(digest, SOON).await?].as_ref()?.cut(),
        }
        Some(registry.copies())
    };
    let (pulled, killed) = tokio::join!(daemons.pull(|_| vec![image.clone()], limit), death);
    let killed = killed.ok_or_else(|| format!("{client} | {dying:?}: there was none"))?;
    let cell = format!("{client} | {dying:?} dies at {killed:.2}");
    if killed >= 1.0 {
        return Err(format!("{cell}: too late"));
    }
    check(&fleet, (&cell, &image), &registry, &pulled, 1.0 + ONE_COPY)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_a_source_or_of_its_link_costs_one_copy_at_most() {
    dies(Client::of(Version::V2_1), Dies::Source).await.unwrap();
    dies(Client::of(Version::V2_1), Dies::LinkToSource).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_death_in_the_middle_costs_one_copy_at_most() {
    let mut problems = Problems::default();
    for client in Client::ALL {
        for dying in [Dies::Fetcher, Dies::Source, Dies::LinkToSource, Dies::Server] {
            problems.note(dies(client, dying).await);
        }
    }
    problems.none();
}
