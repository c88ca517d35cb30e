//! Drives servers with many connections from one thread, to take little of the machine, which the measured
//! servers share.
//!
//! With a given rate the loop is open: each request is due at a time that does not depend on earlier answers,
//! and its latency counts from then, so that a stall shows completely.

mod connection;
mod histogram;
mod record;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::{JoinSet, LocalSet};

pub(crate) use connection::Connection;
pub(crate) use record::{Record, Second};

/// Resolution of timers: a request may be sent this late after its due time, which is not latency of the
/// server.
const TIMER_TICK: Duration = Duration::from_millis(1);
/// First and longest pause before a write is sent again, as in the agent.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Time for which an agent keeps an idle connection.
const AGENT_IDLE: Duration = Duration::from_secs(5);
/// Descriptors that are not for connections.
const OTHER_DESCRIPTORS: u64 = 256;

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// Time since the start at which it is due; `None`: now (a closed loop).
    pub(crate) due: Option<Duration>,
    /// Index of its record.
    pub(crate) kind: usize,
    /// Number of the agent that sends it.
    pub(crate) agent: u32,
    /// Free for use by the source.
    pub(crate) note: u64,
    /// True for a write that is sent again, with the agent's pauses, until a server has acknowledged it.
    pub(crate) again: bool,
    /// Time for the answer of one server.
    pub(crate) patience: Duration,
    /// True if it goes over its own connection, which then stays open for as long as an agent keeps an idle
    /// one; otherwise it uses the connection of the previous request.
    pub(crate) fresh: bool,
}

/// Source of requests. All of it runs on one thread.
pub(crate) trait Source {
    /// The next request to the server with number `lane` over a connection of `pool`; `None`: no more.
    fn next(&mut self, lane: usize, pool: usize) -> Option<Ticket>;
    /// Writes the due request into `out`, which is empty. `false`: nothing is to be sent after all.
    fn compose(&mut self, ticket: &mut Ticket, out: &mut Vec<u8>) -> bool;
    /// Receives the final answer, `now` after the start; status 0 without one.
    fn answered(&mut self, now: Duration, ticket: &Ticket, status: u16, body: &[u8]);
}

/// Configuration of a run.
pub(crate) struct Drive {
    pub(crate) servers: Vec<SocketAddr>,
    /// Connections of each pool, to all servers together. Requests of one pool never wait for those of
    /// another.
    pub(crate) pools: Vec<usize>,
    /// Limit of fresh connections that are idle at once.
    pub(crate) fresh_most: u64,
    /// Number of kinds of requests.
    pub(crate) kinds: usize,
}

/// Result of a run.
pub(crate) struct Outcome {
    pub(crate) records: Vec<Record>,
    pub(crate) elapsed: Duration,
    /// Peak number of fresh connections that were open and idle.
    pub(crate) parked: usize,
}

struct DriveState<S> {
    source: RefCell<S>,
    records: RefCell<Vec<Record>>,
    start: Instant,
    parked: RefCell<Parked>,
}

/// Idle connections that an agent keeps for a while.
#[derive(Default)]
struct Parked {
    connections: VecDeque<(Instant, Vec<Connection>)>,
    most: usize,
}

impl Parked {
    fn park(&mut self, connections: Vec<Connection>) {
        let now = Instant::now();
        while self.connections.front().is_some_and(|(since, _)| now - *since > AGENT_IDLE) {
            self.connections.pop_front();
        }
        self.connections.push_back((now, connections));
        self.most = self.most.max(self.connections.len());
    }
}

impl Drive {
    /// Runs until the source has no more requests; returns the source.
    pub(crate) fn run<S: Source + 'static>(&self, source: S) -> Result<(S, Outcome)> {
        allow_descriptors(self.pools.iter().sum::<usize>() as u64 + self.fresh_most)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("could not start a runtime")?;
        let start = Instant::now();
        let shared = Rc::new(DriveState {
            source: RefCell::new(source),
            records: RefCell::new(vec![Record::default(); self.kinds]),
            start,
            parked: RefCell::default(),
        });
        let lanes = self.servers.len();
        runtime.block_on(LocalSet::new().run_until(async {
            let mut workers = JoinSet::new();
            for (pool, size) in self.pools.iter().enumerate() {
                for number in 0..(*size).max(lanes) {
                    let connections = self.servers.iter().map(|server| Connection::new(*server)).collect();
                    workers.spawn_local(work(Rc::clone(&shared), (number % lanes, pool), connections));
                }
            }
            while let Some(ended) = workers.join_next().await {
                ended.context("a connection's task panicked")?;
            }
            Ok::<_, anyhow::Error>(())
        }))?;
        let elapsed = start.elapsed();
        let Ok(DriveState { source, records, parked, .. }) = Rc::try_unwrap(shared) else {
            unreachable!("all workers have ended");
        };
        let (records, parked) = (records.into_inner(), parked.into_inner().most);
        Ok((source.into_inner(), Outcome { records, elapsed, parked }))
    }
}

/// Raises the limit of descriptors; root may go above the hard limit.
pub(crate) fn allow_descriptors(connections: u64) -> Result<()> {
    let wanted = connections + OTHER_DESCRIPTORS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        let maximum = maximum.map(|maximum| maximum.max(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .with_context(|| format!("could not allow {wanted} file descriptors: run as root"))?;
    }
    Ok(())
}

/// Sends the requests of one agent after the other over one connection: to the server of its lane, and to the
/// others if that one does not answer.
async fn work<S: Source>(shared: Rc<DriveState<S>>, place: (usize, usize), mut connections: Vec<Connection>) {
    let (lane, pool) = place;
    let mut request = Vec::new();
    loop {
        let Some(mut ticket) = shared.source.borrow_mut().next(lane, pool) else { return };
        let mut due = shared.start.elapsed();
        if let Some(at) = ticket.due {
            if at > due {
                tokio::time::sleep_until((shared.start + at).into()).await;
            }
            due = shared.start.elapsed().min(at + TIMER_TICK);
        }
        request.clear();
        if shared.source.borrow_mut().compose(&mut ticket, &mut request) {
            serve(&shared, lane, &mut connections, &ticket, &request, due).await;
            if ticket.fresh {
                let fresh = connections.iter().map(Connection::another).collect();
                shared.parked.borrow_mut().park(std::mem::replace(&mut connections, fresh));
            }
        }
    }
}

async fn serve<S: Source>(
    shared: &DriveState<S>,
    lane: usize,
    connections: &mut [Connection],
    ticket: &Ticket,
    request: &[u8],
    due: Duration,
) {
    let mut pause = RETRY_PAUSE.0;
    loop {
        let mut status = 0;
        // Like the agent's client: asks the next server after a failure.
        for asked in 0..connections.len() {
            let server = (lane + asked) % connections.len();
            let connection = &mut connections[server];
            let answer = connection.exchange(request, ticket.patience).await;
            let at = shared.start.elapsed();
            let record = &mut shared.records.borrow_mut()[ticket.kind];
            match answer {
                Ok(answer) if answer.status < 500 => {
                    record.ended(at, at.saturating_sub(due), answer.status);
                    shared.source.borrow_mut().answered(at, ticket, answer.status, answer.body);
                    return;
                }
                Ok(answer) => {
                    status = answer.status;
                    record.was_unavailable(at);
                }
                Err(_) => record.failed(at),
            }
        }
        if !ticket.again {
            let at = shared.start.elapsed();
            shared.records.borrow_mut()[ticket.kind].ended(at, at.saturating_sub(due), status);
            shared.source.borrow_mut().answered(at, ticket, status, &[]);
            return;
        }
        tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

/// Opens `count` connections to a server, sends one request over each, and calls `look` while all are open
/// and idle. Takes at most half of the time for which a server keeps idle connections.
pub(crate) fn hold_open<T>(server: SocketAddr, count: usize, look: impl FnOnce() -> Result<T>) -> Result<T> {
    const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nhost: piccolo\r\n\r\n";
    const OPENED_AT_ONCE: usize = 256;
    const IDLE_MAX: Duration = Duration::from_secs(5);
    allow_descriptors(count as u64)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("could not start a runtime")?;
    runtime.block_on(async {
        let (start, mut connections) = (Instant::now(), Vec::with_capacity(count));
        while connections.len() < count {
            let mut opening = JoinSet::new();
            for _ in 0..OPENED_AT_ONCE.min(count - connections.len()) {
                let mut connection = Connection::new(server);
                opening.spawn(async move {
                    let status = connection.exchange(REQUEST, IDLE_MAX).await.map(|answer| answer.status);
                    status.map(|status| (connection, status))
                });
            }
            for opened in opening.join_all().await {
                let (connection, status) = opened.context("could not open a connection")?;
                ensure!(status == 200, "/livez answers {status}");
                connections.push(connection);
            }
        }
        let seen = look()?;
        ensure!(start.elapsed() < IDLE_MAX, "{count} connections took {:?}", start.elapsed());
        drop(connections);
        Ok(seen)
    })
}
