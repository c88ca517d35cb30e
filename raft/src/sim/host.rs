//! One server of the simulation: a disk, and while it runs a tokio runtime with paused time, in which a
//! real node lives. To kill it is to drop the runtime with everything in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::VoteResponse;
use rand::Rng;
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::cluster::{Node, NodeFailure, NodeNames, StartError};
use crate::format::{WIRE, next};
use crate::limits::FOUND_AFTER;
use crate::network::RAFT_PREFIX;
use crate::testing::sim_disk::SimDisk;
use crate::types::TypeConfig;

use super::client::Front;
use super::env::env;
use super::log::SimLog;
use super::net::{self, Answer, CallId, HostId, Message, Payload, TICK_MS};
use super::wire::SimNetwork;
use super::world::{self, Current, Fault};

/// How a host was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is one of a list of servers.
    Listed(Vec<String>),
    /// It waits to be admitted by this member.
    Joining(String),
}

/// A simulated server, running or not.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) address: String,
    pub(crate) disk: SimDisk,
    pub(crate) role: Role,
    running: Option<Running>,
    /// Number of starts.
    pub(crate) starts: u64,
    /// The process is stopped, as by SIGSTOP.
    pub(crate) frozen: bool,
    /// When its disk fails, the machine goes on: it is no power cut, but IO errors.
    pub(crate) outlives_its_disk: bool,
    /// While the host is down, its kernel refuses no connections either.
    silent: bool,
    /// From its next start on, the process is of the next build.
    pub(crate) next: bool,
}

struct Running {
    /// Before the runtime: what it holds of it is dropped first.
    life: Life,
    handling: BTreeMap<CallId, AbortHandle>,
    current: Current,
    /// The process is of the next build.
    next: bool,
    runtime: Runtime,
}

enum Life {
    Starting(JoinHandle<Result<Node, StartError>>),
    Serving(Serving),
}

struct Serving {
    front: Front,
    router: Router,
    failed: JoinHandle<NodeFailure>,
    stopping: Option<JoinHandle<()>>,
}

/// What one tick of a host has ended with.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The host goes on, or was down before.
    No,
    /// The node did not start, or its power was cut while it did.
    NotStarted(StartError),
    /// The node has failed.
    Failed(NodeFailure),
    /// The node has stopped, as it was asked to.
    Stopped,
    /// The node serves from now on, and has forgotten what it had promised.
    Forgetful(String),
}

/// Of the host at a raft address: the same host, another port.
fn api_of(raft: &str) -> String {
    raft.replace(":1", ":2")
}

/// Raft address of a host: `s<id>:1`.
pub(crate) fn address_of(id: HostId) -> String {
    format!("s{id}:1")
}

impl Host {
    pub(crate) fn new(id: HostId, role: Role) -> Self {
        let address = address_of(id);
        world::inside(|world| world.net.listen(&address, id, net::ip_of(id, 0)));
        Self {
            id,
            address,
            disk: SimDisk::default(),
            role,
            running: None,
            starts: 0,
            outlives_its_disk: false,
            frozen: false,
            silent: false,
            next: false,
        }
    }

    /// Down, it gets another address, and is called by that from the next start on unless it has a name.
    pub(crate) fn move_to(&mut self, at: IpAddr, named: bool) {
        assert!(!self.is_running(), "a host moves while it is down");
        if !named {
            self.address = format!("{at}:1");
        }
        world::inside(|world| world.net.listen(&self.address, self.id, at));
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The node of the host, once it serves.
    pub(crate) fn node(&self) -> Option<&Node> {
        match &self.running.as_ref()?.life {
            Life::Serving(serving) => Some(&serving.front.node),
            Life::Starting(_) => None,
        }
    }

    /// What the node says by the host's own clock; what depends on no clock may be asked of
    /// [`Host::node`].
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Node) -> T) -> Option<T> {
        let running = self.running.as_ref()?;
        let _clock = running.runtime.enter();
        next::set_on_this_thread(running.next);
        let answer = self.node().map(question);
        next::set_on_this_thread(true);
        answer
    }

    pub(crate) fn start(&mut self, now_ms: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without threads and sockets");
        let began = runtime.block_on(async { Instant::now() });
        let current = Current { host: self.id, began, began_ms: now_ms };
        self.outlives_its_disk = world::inside(|world| world.rng.random_bool(0.3));
        let disk = (!self.outlives_its_disk).then(|| self.disk.clone());
        world::inside(|world| {
            world.net.set_disk(self.id, disk);
            world.net.reset(&mut world.rng, now_ms, self.id);
            world.current = Some(current);
        });
        let (members, join) = match &self.role {
            Role::Listed(list) => (list.clone(), None),
            Role::Joining(member) => (Vec::new(), Some(member.clone())),
        };
        let id = self.id;
        let network = SimNetwork { host: id, list: members.clone() };
        let env = env(self.disk.clone(), network, runtime.handle().clone());
        let names = NodeNames {
            members,
            raft_address: Some(self.address.clone()),
            api_address: api_of(&self.address),
            api_host_follows: false,
        };
        let found_after =
            if world::is_broken(Fault::FoundsWithoutListening) { Duration::ZERO } else { FOUND_AFTER };
        let starting = async move {
            let opened = Node::open(env, None).await?;
            let (stop, faults) = (CancellationToken::new(), |log| SimLog::new(log, id));
            opened.start_with(names, join, found_after, None, stop, faults).await
        };
        let life = Life::Starting(runtime.spawn(starting));
        self.starts += 1;
        world::say(|| format!("{now_ms}: s{} starts", self.id));
        self.running = Some(Running { life, handling: BTreeMap::new(), current, next: self.next, runtime });
        world::inside(|world| world.current = None);
    }

    /// One tick up to `until_ms`: what arrives meanwhile is handled when it does.
    pub(crate) fn turn(&mut self, until_ms: u64) -> Ended {
        let Some(running) = &mut self.running else {
            self.refuse(until_ms);
            return Ended::No;
        };
        if self.frozen {
            return Ended::No;
        }
        world::inside(|world| world.current = Some(running.current));
        next::set_on_this_thread(running.next);
        running.run(until_ms);
        let ended = running.look(self.id);
        // Between the turns tests look at files of both builds.
        next::set_on_this_thread(true);
        world::inside(|world| world.current = None);
        ended
    }

    /// Nobody listens here: what arrives is answered so by the host's kernel.
    fn refuse(&mut self, until_ms: u64) {
        while let Some((at, message)) = world::inside(|world| world.net.take(self.id, until_ms)) {
            if let Message::Request { call, from, .. } = message
                && !self.silent
            {
                net::refuse(self.id, at, from, call);
            }
        }
    }

    /// Asks the node to hand its lead over and to stop.
    pub(crate) fn stop(&mut self) {
        let Some(Running { life: Life::Serving(serving), runtime, current, .. }) = &mut self.running else {
            return;
        };
        if serving.stopping.is_some() {
            return;
        }
        world::inside(|world| world.current = Some(*current));
        let node = serving.front.node.clone();
        serving.stopping = Some(runtime.spawn(async move {
            node.transfer_leader().await;
            node.shutdown().await;
        }));
        world::inside(|world| world.current = None);
    }

    /// Kill -9: ends the process at once. Its disk keeps what was written, as the kernel has it.
    pub(crate) fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        world::say(|| format!("s{} ends", self.id));
        // What is dropped now must not close its files, nor its connections, in good order.
        let disk = self.disk.take_over();
        world::inside(|world| {
            world.net.set_disk(self.id, None);
            world.net.set_mute(self.id, true);
        });
        drop(running);
        world::inside(|world| {
            world.net.forget(self.id);
            world.net.set_mute(self.id, false);
        });
        self.disk = disk;
        (self.frozen, self.silent) = (false, false);
    }

    /// Ends it by cutting its power: unsynced pieces arrive on the disk or not.
    pub(crate) fn cut_power(&mut self) {
        self.kill();
        let seed = world::inside(|world| world.rng.random());
        self.disk = self.disk.after_power_cut(seed);
        self.silent = world::inside(|world| world.rng.random());
    }
}

impl Running {
    fn run(&mut self, until_ms: u64) {
        let Self { life, handling, current, next: _, runtime } = self;
        run_until(runtime, *current, until_ms, |message| handle(life, handling, message));
        handling.retain(|_, task| !task.is_finished());
    }

    fn look(&mut self, host: HostId) -> Ended {
        let Self { life, runtime, .. } = self;
        match life {
            Life::Starting(starting) if starting.is_finished() => {
                match runtime.block_on(starting).expect("a node does not panic while it starts") {
                    Err(error) => return Ended::NotStarted(error),
                    Ok(node) => {
                        let router = node.router();
                        let failing = node.clone();
                        let failed = runtime.spawn(async move { failing.failed().await });
                        let front = Front::new(host, node);
                        let vote = front.node.parts().0.metrics().borrow_watched().vote;
                        *life = Life::Serving(Serving { front, router, failed, stopping: None });
                        if let Err(why) = world::inside(|world| world.check_promise(host, vote)) {
                            return Ended::Forgetful(why);
                        }
                    }
                }
            }
            Life::Starting(_) => {}
            Life::Serving(serving) => {
                if let Some(stopping) = &mut serving.stopping {
                    if stopping.is_finished() {
                        runtime.block_on(stopping).expect("a node does not panic while it stops");
                        return Ended::Stopped;
                    }
                } else if serving.failed.is_finished() {
                    let failed = runtime.block_on(&mut serving.failed);
                    return Ended::Failed(failed.expect("nothing panics while it waits for a failure"));
                }
            }
        }
        Ended::No
    }
}

/// Lets a runtime live until then; what arrives meanwhile is handled when it does.
pub(crate) fn run_until(runtime: &Runtime, current: Current, until_ms: u64, mut handle: impl FnMut(Message)) {
    let clock = |ms: u64| current.began + Duration::from_millis(ms.saturating_sub(current.began_ms));
    let end = clock(until_ms);
    runtime.block_on(async {
        let late = end - Instant::now();
        // It was frozen: the clock has gone on.
        if late > Duration::from_millis(TICK_MS) {
            tokio::time::advance(late - Duration::from_millis(TICK_MS)).await;
        }
        while let Some((at, message)) = world::inside(|world| world.net.take(current.host, until_ms)) {
            tokio::time::sleep_until(clock(at)).await;
            world::inside(|world| world.note_message(current.host, at, &message));
            world::say(|| format!("{at}: at {}: {}", current.host, message.tell()));
            handle(message);
        }
        tokio::time::sleep_until(end).await;
    });
}

/// Handles a message on the host's runtime.
fn handle(life: &Life, handling: &mut BTreeMap<CallId, AbortHandle>, message: Message) {
    match (message, life) {
        (Message::Request { call, from, .. }, Life::Starting(_)) => net::answer(from, call, Answer::Refused),
        (Message::Request { call, from, payload, .. }, Life::Serving(serving)) => {
            let (front, router) = (serving.front.clone(), serving.router.clone());
            let work = async move {
                let answer = match payload {
                    Payload::Rpc { route, body } => {
                        let answer = serve(router, &route, body).await;
                        note_vote(front.host, &route, &answer);
                        answer
                    }
                    Payload::Client(request) => Answer::Client(front.answer(request).await),
                };
                net::answer(from, call, answer);
            };
            let task = tokio::runtime::Handle::current().spawn(work);
            handling.insert(call, task.abort_handle());
        }
        (Message::GivenUp { call }, _) => {
            if let Some(task) = handling.remove(&call) {
                task.abort();
            }
        }
        (Message::Answer { call, answer }, _) => net::answered(call, answer),
    }
}

/// What a host has answered it must know again after any crash.
fn note_vote(host: HostId, route: &str, answer: &Answer) {
    if let ("vote", Answer::Rpc(StatusCode::OK, body)) = (route, answer) {
        let answer: VoteResponse<TypeConfig> =
            WIRE.decode("raft answer", body).expect("our own answer is readable");
        if answer.vote_granted {
            world::inside(|world| world.promise(host, answer.vote));
        }
    }
}

async fn serve(router: Router, route: &str, body: Bytes) -> Answer {
    let request = axum::http::Request::builder()
        .method(Method::POST)
        .uri(format!("{RAFT_PREFIX}/{route}"))
        .body(Body::from(body))
        .expect("a proper request");
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status: StatusCode = response.status();
    let body = response.into_body().collect().await.expect("the body is whole").to_bytes();
    Answer::Rpc(status, body)
}
