//! Agents of a herd, in several processes: one process may not have a connection for each of 50,000.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use piccolo::agent::backoff::HeartbeatSchedule;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};

use crate::agents::Agents;
use crate::drive::{Connection, Record, allow_descriptors};
use crate::enroll::{HEARTBEAT_PATIENCE, wants_sync};
use crate::fleet::Fleet;

/// Number of agents in one process.
const AGENTS_MAX: u32 = 17_000;
/// Seq of an agent's first write.
const FIRST_SEQ: u64 = 1;
/// Default interval of an agent's heartbeats.
const INTERVAL: Duration = Duration::from_secs(30);

/// Arguments of one process.
#[derive(Args)]
pub(crate) struct FlockArgs {
    /// Hosts of the whole fleet, and keys of each.
    hosts: u32,
    keys: u32,
    /// Epoch of the agents, which have synced once.
    epoch: u64,
    /// Number of the first agent of this process, and number of agents in it.
    first: u32,
    count: u32,
    /// File for the tally.
    tally: PathBuf,
    /// Addresses of all servers.
    servers: Vec<SocketAddr>,
}

/// Results of one second in all processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    /// Requests that ended in this second.
    pub(crate) attempts: u64,
    /// Answers 201.
    pub(crate) answered: u64,
    /// Answers 503 and other 5xx.
    pub(crate) unavailable: u64,
    /// Failed connections and timeouts.
    pub(crate) failures: u64,
    /// Other answers.
    pub(crate) others: u64,
    /// Time from the release to the 201, milliseconds; the largest of all processes.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Results of all processes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) seconds: Vec<Second>,
    pub(crate) resyncs: u64,
}

/// The processes of a herd.
pub(crate) struct Flock {
    children: Vec<(Child, Option<ChildStdin>, PathBuf)>,
}

impl Flock {
    /// Starts the processes, which wait for [`Flock::release`].
    pub(crate) fn gather(agents: &Agents, servers: &[SocketAddr], folder: &Path) -> Result<Self> {
        let fleet = agents.fleet;
        let this = std::env::current_exe().context("could not find this program")?;
        let mut flock = Self { children: Vec::new() };
        let mut first = 0;
        while first < fleet.hosts {
            let count = AGENTS_MAX.min(fleet.hosts - first);
            let tally = folder.join(format!("tally-{first}"));
            let mut command = Command::new(&this);
            command.arg("herd-part");
            command.args([fleet.hosts, fleet.keys_per_host].map(|number| number.to_string()));
            command.arg(agents.epoch().to_string()).args([first, count].map(|number| number.to_string()));
            command.arg(&tally).args(servers.iter().map(SocketAddr::to_string));
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("could not start a part of the herd")?;
            let input = child.stdin.take();
            let output = child.stdout.take().context("the part has no output")?;
            flock.children.push((child, input, tally));
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).context("could not read from a part of the herd")?;
            ensure!(line == "ready\n", "a part of the herd said {line:?}");
            first += count;
        }
        Ok(flock)
    }

    /// Lets all agents start.
    pub(crate) fn release(&mut self) -> Result<()> {
        for (_, input, _) in &mut self.children {
            let mut input = input.take().context("released twice")?;
            input.write_all(b"go\n").context("could not release a part of the herd")?;
        }
        Ok(())
    }

    /// True if every agent has been answered.
    pub(crate) fn is_done(&mut self) -> Result<bool> {
        for (child, ..) in &mut self.children {
            match child.try_wait().context("could not wait for a part of the herd")? {
                None => return Ok(false),
                Some(status) => ensure!(status.success(), "a part of the herd failed: {status}"),
            }
        }
        Ok(true)
    }

    /// Sum of the processes' results, after their end.
    pub(crate) fn tally(&self) -> Result<Tally> {
        let mut sum = Tally::default();
        for (_, _, path) in &self.children {
            let text = std::fs::read(path).context("could not read a tally")?;
            let value: Value = serde_json::from_slice(&text).context("could not understand a tally")?;
            sum.add(&value).context("a tally lacks something")?;
        }
        Ok(sum)
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        for (child, ..) in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Tally {
    fn add(&mut self, part: &Value) -> Option<()> {
        self.resyncs += part["resyncs"].as_u64()?;
        for (number, seen) in part["seconds"].as_array()?.iter().enumerate() {
            if self.seconds.len() <= number {
                self.seconds.push(Second::default());
            }
            let second = &mut self.seconds[number];
            let count = |name: &str| seen[name].as_u64();
            second.answered += count("answered")?;
            second.unavailable += count("unavailable")?;
            second.failures += count("failures")?;
            second.others += count("others")?;
            second.attempts = second.answered + second.unavailable + second.failures + second.others;
            second.p50 = second.p50.max(seen["p50"].as_f64()?);
            second.p99 = second.p99.max(seen["p99"].as_f64()?);
        }
        Some(())
    }
}

/// Runs one of the processes.
pub(crate) fn run(args: &FlockArgs) -> Result<()> {
    allow_descriptors(u64::from(args.count))?;
    let fleet = Fleet::FULL.with_hosts(args.hosts).with_keys(args.keys);
    let mut agents = Agents::new(fleet, 0, args.epoch)?;
    let requests: Vec<Vec<u8>> = (args.first..args.first + args.count)
        .map(|agent| {
            let mut request = Vec::new();
            agents.acknowledged(agent, FIRST_SEQ, None);
            agents.heartbeat(agent, &mut request);
            request
        })
        .collect();
    drop(agents);
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("could not read the release")?;
    ensure!(line == "go\n", "not released: {line:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let shared = Rc::new(FlockState {
        servers: args.servers.clone(),
        start: Instant::now(),
        seen: std::cell::RefCell::default(),
    });
    runtime.context("could not start a runtime")?.block_on(LocalSet::new().run_until(async {
        let mut tasks = JoinSet::new();
        for (number, request) in requests.into_iter().enumerate() {
            tasks.spawn_local(agent(Rc::clone(&shared), args.first as usize + number, request));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("an agent panicked")?;
        }
        Ok::<_, anyhow::Error>(())
    }))?;
    let seen = shared.seen.borrow();
    let seconds: Vec<Value> = seen
        .record
        .seconds
        .iter()
        .enumerate()
        .map(|(number, second)| {
            let ms = |share| second.latency.quantile(share).as_secs_f64() * 1e3;
            let others = seen.others.get(number).copied().unwrap_or(0);
            json!({"answered": second.good, "unavailable": second.unavailable, "failures": second.failures,
                "others": others, "p50": ms(0.5), "p99": ms(0.99)})
        })
        .collect();
    let tally = json!({"resyncs": seen.resyncs, "seconds": seconds}).to_string();
    std::fs::write(&args.tally, tally).context("could not write a tally")
}

struct FlockState {
    servers: Vec<SocketAddr>,
    start: Instant,
    seen: std::cell::RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    record: Record,
    /// Answers that are neither 201 nor 5xx, by second.
    others: Vec<u64>,
    resyncs: u64,
}

/// Address of the agent with this number: one of loopback's 16 million.
fn source(number: usize) -> IpAddr {
    let number = u32::try_from(number).expect("a fleet has fewer agents than loopback has addresses");
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() + number).into()
}

/// Sends heartbeats until one is acknowledged, with the pauses of the agent.
async fn agent(shared: Rc<FlockState>, number: usize, request: Vec<u8>) {
    let mut rng = SmallRng::seed_from_u64(number as u64);
    let mut heartbeats = HeartbeatSchedule::new(INTERVAL);
    let count = shared.servers.len();
    loop {
        let mut wanted = None;
        for asked in 0..count {
            let mut connection = Connection::from(source(number), shared.servers[(number + asked) % count]);
            let answer = connection.exchange(&request, HEARTBEAT_PATIENCE).await;
            let at = shared.start.elapsed();
            let seen = &mut *shared.seen.borrow_mut();
            match answer {
                Ok(answer) if answer.status == 201 => {
                    seen.resyncs += u64::from(wants_sync(answer.body));
                    seen.record.ended(at, at, answer.status);
                    return;
                }
                Ok(answer) if answer.status >= 500 => {
                    wanted = answer.retry_after;
                    seen.record.was_unavailable(at);
                }
                Ok(_) => {
                    let second = at.as_secs() as usize;
                    let length = seen.others.len().max(second + 1);
                    seen.others.resize(length, 0);
                    seen.others[second] += 1;
                    seen.record.second(at);
                }
                Err(_) => seen.record.failed(at),
            }
        }
        tokio::time::sleep(heartbeats.after_failure(&mut rng, wanted)).await;
    }
}
