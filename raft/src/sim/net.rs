//! The network between hosts: requests and answers that are late, lost, out of order or twice there.
//!
//! It carries whole requests, not a byte stream: what HTTP/1.1 and TCP do with those is tested on real
//! sockets elsewhere, and a message that overtakes another, or arrives when its sender has long given
//! up, is worse than anything TCP does. Who gives a request up closes its connection: the receiver's
//! handler is dropped a moment later, wherever it waits. Where a message is lost, the asker's deadline ends the
//! wait, except for snapshots, which have a minute: those are sent again when the link is sound, as TCP
//! would. A host that has died refuses what it was asked before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::network::names::{Resolve, split};

use crate::testing::sim_disk::SimDisk;

use super::client::Request;
use super::world;

/// Position of a host in the simulation.
pub(crate) type HostId = usize;
/// Names one request and its answer.
pub(crate) type CallId = u64;

/// A message takes at least so long: while a host has its turn of this length, no other host can reach it.
pub(crate) const TICK_MS: u64 = 4;
/// Longest usual latency of a message, milliseconds.
const LATENCY_MS_MAX: u64 = 14;
/// Added to the latency of a snapshot, at most, milliseconds.
const SNAPSHOT_MS_MAX: u64 = 1500;

/// The content of a request.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// A raft RPC, which the router of the node handles.
    Rpc { route: String, body: Bytes },
    /// A request of a client of the simulation.
    Client(Request),
}

/// The answer to a request, or why there is none.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nobody listens there: the request was not handled.
    Refused,
    /// The connection broke: the request may have been handled, or passed on.
    Broken,
    Rpc(StatusCode, Bytes),
    Client(super::client::Answer),
}

/// A message that arrives at a host.
#[derive(Debug)]
pub(crate) enum Message {
    Request {
        call: CallId,
        from: HostId,
        payload: Payload,
        /// The request is a duplicate of an earlier one.
        again: bool,
    },
    /// The sender has given the request up.
    GivenUp {
        call: CallId,
    },
    Answer {
        call: CallId,
        answer: Answer,
    },
}

impl Message {
    /// The message as text for a verbose run.
    pub(crate) fn tell(&self) -> String {
        match self {
            Message::Request { call, from, payload: Payload::Rpc { route, body }, .. } => {
                format!("#{call} from {from}: {route}, {} bytes", body.len())
            }
            Message::Request { call, from, payload, .. } => format!("#{call} from {from}: {payload:?}"),
            Message::GivenUp { call } => format!("#{call} given up"),
            Message::Answer { call, answer: Answer::Rpc(status, body) } => {
                format!("#{call} answered {status}, {} bytes", body.len())
            }
            Message::Answer { call, answer } => format!("#{call} answered {answer:?}"),
        }
    }
}

/// The link from one host to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    /// Added to the latency of every message, at most, milliseconds.
    pub(crate) delay_ms_max: u64,
    /// Messages that are lost, of a thousand.
    pub(crate) lost: u32,
    /// Requests that arrive a second time, later, of a thousand.
    pub(crate) doubled: u32,
    /// Raft messages with larger bodies are lost, bytes.
    pub(crate) rpc_bytes_max: usize,
}

const SOUND: Link = Link { cut: false, delay_ms_max: 0, lost: 0, doubled: 0, rpc_bytes_max: usize::MAX };

/// A host behind a NAT that does not lead back inside.
#[derive(Clone, Copy, Debug)]
struct Nat {
    /// The host's own address, at which it alone reaches itself.
    inside: SocketAddr,
    /// Where all others reach it, and it does not.
    outside: SocketAddr,
}

/// State of the DNS.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Dns {
    #[default]
    Sound,
    /// Lookups are not answered for longer than anybody waits.
    Away,
    /// Each lookup takes this long, milliseconds.
    Slow(u64),
}

/// Resolves names to the addresses of simulated hosts.
#[derive(Debug)]
pub(crate) struct SimDns;

impl Resolve for SimDns {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let (dns, found) = world::inside(|world| {
            world.net.lookups += 1;
            (world.net.dns, world.net.names.get(host).copied())
        });
        async move {
            match dns {
                Dns::Sound => {}
                Dns::Away => tokio::time::sleep(Duration::from_secs(20)).await,
                Dns::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            }
            let found = found.filter(|_| !matches!(dns, Dns::Away));
            found.map(|ip| vec![ip]).ok_or_else(|| io::Error::other("no such name"))
        }
        .boxed()
    }
}

/// All links, and the messages on their way.
#[derive(Default)]
pub(crate) struct Net {
    /// Hosts that listen, by address, never by name.
    addresses: BTreeMap<SocketAddr, HostId>,
    names: BTreeMap<String, IpAddr>,
    nats: BTreeMap<HostId, Nat>,
    pub(crate) dns: Dns,
    /// Number of lookups that were begun.
    pub(crate) lookups: usize,
    /// Links that are not [`SOUND`].
    links: BTreeMap<(HostId, HostId), Link>,
    /// Messages by receiver, then by time and order of sending.
    queues: BTreeMap<HostId, BTreeMap<(u64, u64), Message>>,
    waiting: BTreeMap<CallId, Asked>,
    /// Parts of a snapshot's exchange that a link has lost.
    held: Vec<(HostId, HostId, Message)>,
    /// Hosts whose messages are dropped.
    mute: BTreeSet<HostId>,
    /// Disks of hosts that lose their power together with them.
    disks: BTreeMap<HostId, SimDisk>,
    /// Messages that were lost on links that were not cut.
    pub(crate) lost: usize,
    next: u64,
}

/// A request whose answer is waited for.
struct Asked {
    from: HostId,
    to: HostId,
    snapshot: bool,
    sender: oneshot::Sender<Answer>,
}

impl Payload {
    fn is_snapshot(&self) -> bool {
        matches!(self, Payload::Rpc { route, .. } if route == "snapshot")
    }

    /// A write without a pair that comes twice is made twice, after whatever its holder has been told of
    /// later ones. No promise is made for that: who sends it twice has to know.
    fn may_come_twice(&self) -> bool {
        let pairless =
            |request: &Request| matches!(request, Request::Write { order, .. } if order.pair.is_none());
        !matches!(self, Payload::Client(request) if pairless(request))
    }
}

impl Net {
    /// From now on the host is reached at `address` only, and that has its name if it has one.
    pub(crate) fn listen(&mut self, address: &str, host: HostId, at: IpAddr) {
        let (name, port) = split(address).expect("host:port");
        self.addresses.retain(|_, other| *other != host);
        // Who had the address before has none, until it moves too.
        self.addresses.insert(SocketAddr::new(at, port), host);
        if name.parse::<IpAddr>().is_err() {
            self.names.insert(name.to_owned(), at);
        }
    }

    /// From now on the host is behind a NAT: the others reach it at `outside` only, and it reaches itself only where
    /// it listens.
    pub(crate) fn put_behind_nat(&mut self, host: HostId, outside: IpAddr) {
        let listens = self.addresses.iter().find(|(_, other)| **other == host);
        let inside = *listens.expect("the host listens somewhere").0;
        self.nats.insert(host, Nat { inside, outside: SocketAddr::new(outside, inside.port()) });
    }

    /// The host that answers `from` at `address`.
    fn find(&self, from: HostId, address: &str) -> Option<HostId> {
        let (name, port) = split(address)?;
        let ip = name.parse().ok().or_else(|| self.names.get(name).copied())?;
        let at = SocketAddr::new(ip, port);
        let translated = self.nats.iter().find(|(_, nat)| nat.inside == at || nat.outside == at);
        match translated {
            Some((host, nat)) => ((from == *host) == (at == nat.inside)).then_some(*host),
            None => self.addresses.get(&at).copied(),
        }
    }

    pub(crate) fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.links.entry((from, to)).or_insert(SOUND)
    }

    /// Makes all links sound again.
    pub(crate) fn heal(&mut self, rng: &mut StdRng, now_ms: u64) {
        self.links.clear();
        for (from, to, message) in std::mem::take(&mut self.held) {
            self.post(rng, now_ms, from, to, message);
        }
    }

    /// Whoever waits for an answer of `host` hears that nobody is there any more.
    pub(crate) fn reset(&mut self, rng: &mut StdRng, now_ms: u64, host: HostId) {
        self.held.retain(|(from, to, _)| *from != host && *to != host);
        for (call, asked) in self.waiting.iter().filter(|(_, asked)| asked.to == host) {
            let at = now_ms + rng.random_range(TICK_MS..=LATENCY_MS_MAX);
            let broken = Message::Answer { call: *call, answer: Answer::Broken };
            self.queues.entry(asked.from).or_default().insert((at, self.next), broken);
            self.next += 1;
        }
    }

    /// The host cannot say anything any more when this disk has no power.
    pub(crate) fn set_disk(&mut self, host: HostId, disk: Option<SimDisk>) {
        match disk {
            Some(disk) => drop(self.disks.insert(host, disk)),
            None => drop(self.disks.remove(&host)),
        }
    }

    pub(crate) fn set_mute(&mut self, host: HostId, mute: bool) {
        if mute {
            self.mute.insert(host);
        } else {
            self.mute.remove(&host);
        }
    }

    fn post(&mut self, rng: &mut StdRng, now_ms: u64, from: HostId, to: HostId, message: Message) {
        let link = self.links.get(&(from, to)).copied().unwrap_or(SOUND);
        if self.mute.contains(&from) || self.disks.get(&from).is_some_and(SimDisk::is_off) {
            return;
        }
        let snapshot = match &message {
            Message::Request { payload, .. } => payload.is_snapshot(),
            Message::Answer { call, .. } => self.waiting.get(call).is_some_and(|asked| asked.snapshot),
            Message::GivenUp { .. } => false,
        };
        let too_large = matches!(&message, Message::Request { payload: Payload::Rpc { body, .. }, .. }
            if body.len() > link.rpc_bytes_max);
        let lost = !link.cut && (rng.random_range(0..1000) < link.lost || too_large);
        self.lost += usize::from(lost);
        if link.cut || lost {
            if snapshot {
                self.held.push((from, to, message));
            }
            return;
        }
        let mut latency =
            || rng.random_range(TICK_MS..=LATENCY_MS_MAX) + rng.random_range(0..=link.delay_ms_max);
        let mut at = now_ms + latency();
        let later = at + latency() * 3;
        if snapshot {
            at += rng.random_range(0..=SNAPSHOT_MS_MAX);
        }
        let doubled = rng.random_range(0..1000) < link.doubled;
        let copy = match &message {
            Message::Request { call, from, payload, .. } if doubled && payload.may_come_twice() => {
                Some(Message::Request { call: *call, from: *from, payload: payload.clone(), again: true })
            }
            _ => None,
        };
        let queue = self.queues.entry(to).or_default();
        queue.insert((at, self.next), message);
        if let Some(copy) = copy {
            queue.insert((later, self.next + 1), copy);
        }
        self.next += 2;
    }

    /// The next message for `host` that is there before `before_ms`, with its time.
    pub(crate) fn take(&mut self, host: HostId, before_ms: u64) -> Option<(u64, Message)> {
        let queue = self.queues.get_mut(&host)?;
        let first = queue.first_entry()?;
        let at = first.key().0;
        (at < before_ms).then(|| (at, first.remove()))
    }

    /// What is on its way to `host` is lost, and nobody there waits any longer.
    pub(crate) fn forget(&mut self, host: HostId) {
        self.queues.remove(&host);
        self.waiting.retain(|_, asked| asked.from != host);
    }
}

/// An answer that is waited for; dropped, the request is given up.
struct Waiting {
    call: CallId,
    from: HostId,
    to: HostId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Waiting { call, from, to } = *self;
        let sender = world::with(|world| {
            let waiting = world.net.waiting.remove(&call);
            if waiting.is_some() && world.current.is_some() {
                let now_ms = world.now_ms();
                world.net.post(&mut world.rng, now_ms, from, to, Message::GivenUp { call });
            }
            waiting
        });
        drop(sender);
    }
}

/// Sends `payload` from `from` and waits for the answer, forever if need be.
pub(crate) async fn ask(from: HostId, address: &str, payload: Payload) -> Answer {
    let (sender, answer) = oneshot::channel();
    let waiting = world::inside(|world| {
        let to = world.net.find(from, address)?;
        let (now_ms, call) = (world.now_ms(), world.net.next);
        world.net.next += 1;
        let snapshot = payload.is_snapshot();
        world.net.waiting.insert(call, Asked { from, to, snapshot, sender });
        let request = Message::Request { call, from, payload, again: false };
        world.net.post(&mut world.rng, now_ms, from, to, request);
        Some(Waiting { call, from, to })
    });
    let Some(waiting) = waiting else { return Answer::Refused };
    let answer = answer.await;
    drop(waiting);
    answer.unwrap_or(Answer::Broken)
}

/// Answers a request, at the host whose turn it is.
pub(crate) fn answer(to: HostId, call: CallId, answer: Answer) {
    world::inside(|world| {
        let now_ms = world.now_ms();
        let from = world.current.expect("some host's code runs").host;
        world.net.post(&mut world.rng, now_ms, from, to, Message::Answer { call, answer });
    });
}

/// Answers as the kernel of a host on which nobody listens.
pub(crate) fn refuse(from: HostId, now_ms: u64, to: HostId, call: CallId) {
    let message = Message::Answer { call, answer: Answer::Refused };
    world::inside(|world| world.net.post(&mut world.rng, now_ms, from, to, message));
}

/// Hands an answer that has arrived to its task.
pub(crate) fn answered(call: CallId, answer: Answer) {
    let waiting = world::inside(|world| world.net.waiting.remove(&call));
    if let Some(asked) = waiting {
        asked.sender.send(answer).ok();
    }
}

/// The `number`-th address of a host.
pub(crate) fn ip_of(host: HostId, number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, number, host as u8 + 1).into()
}
