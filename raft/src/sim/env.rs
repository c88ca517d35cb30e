//! The environment of a simulated server, in place of what a server has of its system.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::Rng;
use tokio::runtime::Handle;
use tokio::task::JoinError;

use crate::cluster::{Env, Keep, LevelTimes, Timing};
use crate::random::Random;
use crate::testing::sim_disk::SimDisk;
use crate::threads::{Threads, Worker};

use super::log;
use super::net::SimDns;
use super::wire::SimNetwork;
use super::world;

/// Work on the disk takes up to so long, milliseconds of the host's clock.
const DISK_DELAY_MS_MAX: u64 = 6;
/// For so long the log is kept, milliseconds; ten minutes in the product.
pub(super) const KEPT_MS: u64 = 1_500;

/// The environment of a server on `disk`.
pub(super) fn env(disk: SimDisk, network: SimNetwork, runtime: Handle) -> Env {
    Env {
        disk: Arc::new(disk),
        random: Arc::new(SimRandom),
        threads: Arc::new(SimThreads),
        network: Arc::new(network),
        resolver: Arc::new(SimDns),
        runtime,
        timing: timing(),
    }
}

/// Replaces the day after which a level begins.
pub(super) const DAY: Duration = Duration::from_secs(12);

/// Short, so that a few seconds see many flushes and purges.
fn timing() -> Timing {
    Timing {
        flush_interval: Duration::from_secs(1),
        keep: Keep {
            time: Duration::from_millis(KEPT_MS),
            bytes: 8 * 1024,
            entries_min: 16,
            interval: Duration::from_millis(300),
        },
        levels: LevelTimes { activate_after: DAY, note_interval: DAY / 24, look_interval: DAY / 48 },
    }
}

/// Random numbers from the seed of the simulation.
#[derive(Debug)]
struct SimRandom;

impl Random for SimRandom {
    fn bits(&self) -> u128 {
        world::inside(|world| world.rng.random())
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

/// Waits for a random time, as long as a disk may take.
async fn disk_delay() {
    let delay_ms = world::inside(|world| world.rng.random_range(0..=DISK_DELAY_MS_MAX));
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
}
