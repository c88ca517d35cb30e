//! Agents that continue while their servers are down: each sends a heartbeat every half minute, pauses like
//! the agent when nobody answers, and syncs its whole inventory when an answer asks for it.
//!
//! All of them run on one thread. Unlike the agent, which has separate tasks, none sends heartbeats while its
//! sync is in flight; and there is no image store to scan first.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use piccolo::agent::backoff::{Backoff, HeartbeatSchedule};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinSet, LocalSet};

use crate::agents::Agents;
use crate::drive::{Connection, Record, allow_descriptors};
use crate::enroll::{HEARTBEAT_PATIENCE, SYNC_PATIENCE, wants_sync};

/// First and longest pause before a sync is sent again, as in the agent.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// Time between two checks of the stop flag.
const LOOK: Duration = Duration::from_millis(50);

/// Results of all agents, by the second since their start.
#[derive(Default)]
pub(super) struct Lived {
    pub(super) heartbeats: Record,
    pub(super) syncs: Record,
}

/// A fleet that has enrolled.
pub(super) struct Living {
    pub(super) agents: Agents,
    pub(super) servers: Vec<SocketAddr>,
    /// Time between two heartbeats of an agent.
    pub(super) interval: Duration,
}

struct LivingState {
    agents: RefCell<Agents>,
    servers: Vec<SocketAddr>,
    interval: Duration,
    start: Instant,
    lived: RefCell<Lived>,
}

/// What an agent sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Heartbeat,
    Sync,
}

impl Living {
    /// Runs until `stop` is set.
    pub(super) fn run(self, stop: &Arc<AtomicBool>) -> Result<Lived> {
        let Self { agents, servers, interval } = self;
        let hosts = agents.fleet.hosts;
        allow_descriptors(u64::from(hosts))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let shared = Rc::new(LivingState {
            agents: RefCell::new(agents),
            servers,
            interval,
            start: Instant::now(),
            lived: RefCell::default(),
        });
        runtime.context("could not start a runtime")?.block_on(LocalSet::new().run_until(async {
            let mut tasks = JoinSet::new();
            for agent in 0..hosts {
                tasks.spawn_local(live(Rc::clone(&shared), agent));
            }
            while !stop.load(Ordering::Relaxed) {
                // No task ends by itself: one that ended has panicked.
                if let Ok(Some(ended)) = tokio::time::timeout(LOOK, tasks.join_next()).await {
                    ended.context("an agent panicked")?;
                }
            }
            tasks.shutdown().await;
            Ok::<_, anyhow::Error>(())
        }))?;
        Ok(shared.lived.take())
    }
}

async fn live(shared: Rc<LivingState>, agent: u32) {
    let mut rng = SmallRng::seed_from_u64(u64::from(agent));
    // The whole fleet has the same list; each agent begins at a random server.
    let mut good = rng.random_range(0..shared.servers.len());
    let mut heartbeats = HeartbeatSchedule::new(shared.interval);
    let mut pause = heartbeats.first(&mut rng);
    loop {
        tokio::time::sleep(pause).await;
        pause = match call(&shared, agent, What::Heartbeat, &mut good).await {
            Ok(wanted) => {
                if wanted {
                    sync(&shared, agent, &mut good, &mut rng).await;
                }
                heartbeats.after_success(&mut rng)
            }
            Err(retry_after) => heartbeats.after_failure(&mut rng, retry_after),
        };
    }
}

/// Sends a sync until a server has acknowledged it.
async fn sync(shared: &LivingState, agent: u32, good: &mut usize, rng: &mut SmallRng) {
    let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
    while let Err(retry_after) = call(shared, agent, What::Sync, good).await {
        tokio::time::sleep(retry_after.unwrap_or_default() + backoff.pause_by(rng)).await;
    }
}

/// Asks one server after the other, beginning with the one that answered last. Returns whether the answer
/// asks for a sync, or else when the servers want to be asked again.
async fn call(
    shared: &LivingState,
    agent: u32,
    what: What,
    good: &mut usize,
) -> Result<bool, Option<Duration>> {
    let (begun, mut request) = (shared.start.elapsed(), Vec::new());
    let seq = match what {
        What::Heartbeat => {
            shared.agents.borrow_mut().heartbeat(agent, &mut request);
            0
        }
        What::Sync => shared.agents.borrow_mut().sync(agent, &mut request),
    };
    let patience = if what == What::Heartbeat { HEARTBEAT_PATIENCE } else { SYNC_PATIENCE };
    let (count, first, mut wanted) = (shared.servers.len(), *good, None);
    for server in (first..first + count).map(|at| at % count) {
        let mut connection = Connection::new(shared.servers[server]);
        let answer = connection.exchange(&request, patience).await;
        let at = shared.start.elapsed();
        let lived = &mut *shared.lived.borrow_mut();
        let record = if what == What::Heartbeat { &mut lived.heartbeats } else { &mut lived.syncs };
        match answer {
            Ok(answer) if answer.status < 500 => {
                record.ended(at, at - begun, answer.status);
                *good = server;
                if what == What::Sync && answer.status == 201 {
                    shared.agents.borrow_mut().acknowledged(agent, seq, None);
                }
                return Ok(what == What::Heartbeat && wants_sync(answer.body));
            }
            Ok(answer) => {
                wanted = answer.retry_after;
                record.was_unavailable(at);
            }
            Err(_) => record.failed(at),
        }
    }
    Err(wanted)
}
