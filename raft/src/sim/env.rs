//! The environment of a simulated server, in place of what a server has of its system.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::Rng;
use tokio::runtime::Handle;
use tokio::task::JoinError;

use crate::cluster::Env;
use crate::random::Random;
use crate::testing::sim_disk::SimDisk;
use crate::threads::{Threads, Worker};

use super::log;
use super::net::SimDns;
use super::wire::SimNetwork;
use super::world;

/// Work on the disk takes up to so long, milliseconds of the host's clock.
const DISK_DELAY_MS_MAX: u64 = 6;

/// What a server on `disk` is given.
pub(super) fn env(disk: SimDisk, network: SimNetwork, runtime: Handle) -> Env {
    Env {
        disk: Arc::new(disk),
        random: Arc::new(SimRandom),
        threads: Arc::new(SimThreads),
        network: Arc::new(network),
        resolver: Arc::new(SimDns),
        runtime,
    }
}

/// The random numbers of the simulation's seed.
#[derive(Debug)]
struct SimRandom;

impl Random for SimRandom {
    fn bits(&self) -> u128 {
        world::inside(|world| world.dice.random())
    }
}

/// The one thread of the simulation: work is done there at once, after a random time of the host's clock.
#[derive(Debug)]
struct SimThreads;

impl Threads for SimThreads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, Result<(), JoinError>> {
        Box::pin(async move {
            disk_delay().await;
            work();
            Ok(())
        })
    }

    fn start(&self, _: &'static str, mut worker: Box<dyn Worker>) -> io::Result<()> {
        Handle::current().spawn(async move {
            while poll_fn(|context| worker.poll_wait(context)).await {
                log::late_commit().await;
                disk_delay().await;
                if !worker.step() {
                    break;
                }
            }
        });
        Ok(())
    }
}

/// Waits as long as a disk may take.
async fn disk_delay() {
    let delay_ms = world::inside(|world| world.dice.random_range(0..=DISK_DELAY_MS_MAX));
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
}
