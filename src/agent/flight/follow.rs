//! What a node does next that receives a blob while it is still arriving elsewhere. Pure: the time is an argument.
//!
//! It asks a server for sources, and then one source after the other. A full source names its children, and the node
//! descends to them; after [`DESCENTS_MAX`] steps it asks a server again. It has one source at a time, and asks that
//! each [`SOURCE_PROBE_INTERVAL`] how far it is. One that is no further than the node is waited for: *starved is not
//! dead*. One that is slow says so, because its own source tells it, and names that instead: only the children of a
//! slow node can leave it, and those behind them stay where they are. Time alone never sends the node to the registry
//! before [`WITHOUT_BYTES_MAX`]; until then only the owner of the key does.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::limits::{
    BEGUN_AGAIN_FOR, CIRCLE_SUSPECTED_AFTER, DESCENTS_MAX, LOST_SAID_AGAIN_AFTER, SERVER_ASKED_AGAIN_AFTER,
    SOURCE_PROBE_INTERVAL, SOURCE_STALLS_AFTER, STARVED_SAID_AFTER, STARVED_SAID_AGAIN_AFTER,
    WITHOUT_BYTES_MAX,
};

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask a server for sources.
    AskServer(Need),
    /// Ask this node for the blob, from the bytes on that are there.
    Attach(SocketAddr),
    /// Ask the source, on another connection, how much it has and where that comes from.
    Probe(SocketAddr),
    /// Nothing is to be done before this time.
    WaitUntil(Duration),
    /// The registry sends the rest.
    GoToRegistry(Why),
}

/// Why a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The pull begins.
    Begins,
    /// All sources that are known were asked in vain.
    Sources,
    /// That was so for [`STARVED_SAID_AFTER`]: perhaps all who are known look for a source themselves.
    Fetcher,
    /// The source has no more, and nobody is before it.
    Starved,
    /// This source is gone, and there is no other one. That is said each [`LOST_SAID_AGAIN_AFTER`].
    Lost(SocketAddr),
}

impl Need {
    /// Whether the server is to rule on who fetches: nothing comes from the sources that are known.
    pub fn needs_ruling(self) -> bool {
        matches!(self, Self::Fetcher | Self::Starved)
    }
}

/// Why the node goes to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It has the claim.
    #[error("this node fetches it from the registry, for all that want it")]
    Claim,
    /// Every node goes there.
    #[error("no node that was to fetch it from the registry had a byte of it")]
    Open,
    /// No byte has come for [`WITHOUT_BYTES_MAX`].
    #[error("no byte has come from other nodes for {} s", WITHOUT_BYTES_MAX.as_secs())]
    Starved,
    /// No server answers, and no source is known.
    #[error("no server answers, and no node is known that has it")]
    NoServer,
}

/// What a server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAnswer {
    /// The node fetches the blob itself.
    Yours,
    /// Every node does.
    Open,
    /// These have it, or have a part of it, the best first.
    Sources(Vec<SocketAddr>),
    /// No server has answered.
    Nobody,
}

/// What a node has answered that was asked for the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAnswer {
    /// It sends.
    Sends,
    /// It has as many children as it may: these.
    Full(Vec<SocketAddr>),
    /// It waits for this node itself.
    Waits(SocketAddr),
    /// It has nothing that helps, or does not answer.
    Nothing,
    /// The same, and a server has named it as the node that fetches: its claim may have to pass on.
    FetcherFails,
}

/// What a source has answered to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Contiguous bytes that it has.
    pub have_bytes: u64,
    /// Whether another node is before it.
    pub has_source: bool,
    /// Whether the children of this node should leave it for the source, because this node is slow.
    pub should_be_left: bool,
    /// Whether this node should look for another source, because it is slow and others have taken its place.
    pub should_leave: bool,
    /// Its own source, if the children of the slow source should leave it for that.
    pub instead: Option<SocketAddr>,
}

/// The state of one node in one flight.
#[derive(Debug)]
pub struct Follow {
    own: SocketAddr,
    have_bytes: u64,
    candidates: VecDeque<SocketAddr>,
    /// Those that were asked since a server was.
    asked: HashSet<SocketAddr>,
    descents: usize,
    /// Why a server is to be asked next.
    need: Option<Need>,
    /// Since when all sources that are known were asked in vain.
    in_vain_since: Option<Duration>,
    /// When a server was asked last.
    server_asked: Option<Duration>,
    source: Option<SocketAddr>,
    /// Whether the source says that the children of this node should leave it.
    should_be_left: bool,
    /// Whether this node has left a slow source since one was lost.
    has_left_slow: bool,
    /// The source that was lost, or the fetcher that could not be reached, until a source sends.
    lost: Option<SocketAddr>,
    /// When the last byte came, or the pull began.
    fed: Duration,
    /// When the source was probed last.
    probed: Duration,
    /// Since when the source has more and sends nothing.
    withheld_since: Option<Duration>,
    /// Whether the source did not answer the last probe, and nothing has come since.
    is_silent: bool,
    /// Since when the first node of the chain has nothing more, as far as this node knows.
    root_starves_since: Option<Duration>,
    gave_up: Option<Why>,
    /// When the pull began.
    begun: Duration,
}

impl Follow {
    /// A node at `own` that has `have_bytes` and knows no source yet.
    pub fn new(own: SocketAddr, have_bytes: u64, now: Duration) -> Self {
        Self {
            own,
            have_bytes,
            candidates: VecDeque::new(),
            asked: HashSet::new(),
            descents: 0,
            need: Some(Need::Begins),
            in_vain_since: None,
            server_asked: None,
            source: None,
            should_be_left: false,
            has_left_slow: false,
            lost: None,
            fed: now,
            probed: now,
            withheld_since: None,
            is_silent: false,
            root_starves_since: None,
            gave_up: None,
            begun: now,
        }
    }

    /// Begins again at `now` without a byte, because those that came were wrong. They do not count: the node goes to the
    /// registry when it would have gone without them, but not before it could ask who fetches them anew.
    pub fn begin_again(&mut self, now: Duration) {
        let (own, begun) = (self.own, self.begun);
        let fed = begun.max(now.saturating_sub(WITHOUT_BYTES_MAX - BEGUN_AGAIN_FOR));
        *self = Self { begun, fed, ..Self::new(own, 0, now) };
    }

    /// What is to be done at `now`.
    pub fn next(&mut self, now: Duration) -> Step {
        if self.gave_up.is_none() && now.saturating_sub(self.fed) >= WITHOUT_BYTES_MAX {
            self.gave_up = Some(Why::Starved);
        }
        if let Some(why) = self.gave_up {
            return Step::GoToRegistry(why);
        }
        match self.source {
            Some(source) => self.next_with(source, now),
            None => self.next_without(now),
        }
    }

    fn next_with(&mut self, source: SocketAddr, now: Duration) -> Step {
        // Nodes that have begun again may be in a circle, without a first one.
        let suspected = self.fed + CIRCLE_SUSPECTED_AFTER;
        let since = self.root_starves_since.or_else(|| (now >= suspected).then_some(suspected));
        if let Some(since) = since {
            // A claim that lapses passes on with the next question. Only the first nodes behind the fetcher ask so often.
            let is_first = self.root_starves_since.is_some();
            let due = match self.server_asked.filter(|asked| *asked > since) {
                Some(asked) if is_first => asked + STARVED_SAID_AGAIN_AFTER,
                Some(asked) => asked + STARVED_SAID_AFTER,
                None => since + STARVED_SAID_AFTER,
            };
            if now >= due {
                self.server_asked = Some(now);
                return Step::AskServer(Need::Starved);
            }
        }
        let due = self.probed + SOURCE_PROBE_INTERVAL;
        if now < due {
            return Step::WaitUntil(due);
        }
        self.probed = now;
        Step::Probe(source)
    }

    fn next_without(&mut self, now: Duration) -> Step {
        if self.need.is_none() {
            while let Some(candidate) = self.candidates.pop_front() {
                if candidate != self.own && self.asked.insert(candidate) {
                    return Step::Attach(candidate);
                }
            }
        }
        let need = self.need.or(self.lost.map(Need::Lost)).unwrap_or(Need::Sources);
        let pause = match need {
            Need::Sources => SERVER_ASKED_AGAIN_AFTER,
            Need::Lost(_) => LOST_SAID_AGAIN_AFTER,
            Need::Begins | Need::Fetcher | Need::Starved => Duration::ZERO,
        };
        if let Some(asked) = self.server_asked
            && now < asked + pause
        {
            return Step::WaitUntil(asked + pause);
        }
        (self.need, self.server_asked) = (None, Some(now));
        if need != Need::Sources {
            return Step::AskServer(need);
        }
        let since = *self.in_vain_since.get_or_insert(now);
        let is_long = now.saturating_sub(since) >= STARVED_SAID_AFTER;
        Step::AskServer(if is_long { Need::Fetcher } else { Need::Sources })
    }

    /// A server has answered.
    pub fn server_answered(&mut self, answer: ServerAnswer) {
        match answer {
            ServerAnswer::Yours => self.gave_up = Some(Why::Claim),
            ServerAnswer::Open => self.gave_up = Some(Why::Open),
            ServerAnswer::Nobody if self.source.is_none() && self.candidates.is_empty() => {
                self.gave_up = Some(Why::NoServer);
            }
            ServerAnswer::Nobody => {}
            ServerAnswer::Sources(sources) => {
                let mut named = HashSet::new();
                self.candidates = sources.into_iter().filter(|source| named.insert(*source)).collect();
                self.asked.clear();
                self.descents = 0;
            }
        }
    }

    /// The node that was asked for the blob has answered.
    pub fn source_answered(&mut self, source: SocketAddr, answer: SourceAnswer, now: Duration) {
        let named = match answer {
            SourceAnswer::Sends => {
                (self.source, self.should_be_left, self.lost) = (Some(source), false, None);
                (self.root_starves_since, self.probed) = (None, now);
                (self.withheld_since, self.is_silent, self.in_vain_since) = (None, false, None);
                return;
            }
            SourceAnswer::Nothing => {
                // It may have a source later, and be named by that.
                self.asked.remove(&source);
                return;
            }
            SourceAnswer::FetcherFails => {
                self.asked.remove(&source);
                self.lost = Some(source);
                return;
            }
            SourceAnswer::Full(children) => children,
            SourceAnswer::Waits(node) => vec![node],
        };
        self.descents += 1;
        if self.descents >= DESCENTS_MAX {
            self.need = Some(Need::Sources);
            self.candidates.clear();
        }
        named.into_iter().rev().for_each(|node| self.candidates.push_front(node));
    }

    /// Bytes have come: `have_bytes` are there now.
    pub fn received(&mut self, have_bytes: u64, now: Duration) {
        if have_bytes > self.have_bytes {
            (self.have_bytes, self.fed, self.root_starves_since) = (have_bytes, now, None);
            (self.withheld_since, self.is_silent) = (None, false);
        }
    }

    /// The source has answered a probe; `None`: it has not. One bad answer is no reason to leave it: what it has just got
    /// may be on its way, and a busy node answers late.
    pub fn probe_answered(&mut self, answer: Option<Probed>, now: Duration) {
        let Some(probed) = answer else {
            // A source that still sends is there.
            if self.fed <= self.probed && std::mem::replace(&mut self.is_silent, true) {
                self.lost();
            }
            return;
        };
        self.is_silent = false;
        self.should_be_left = probed.should_be_left;
        if let Some(better) = probed.instead {
            self.leave_for(better);
        } else if let Some(source) = self.source.filter(|_| probed.should_leave) {
            // It asks once more, and is sent on to the children.
            (self.source, self.root_starves_since, self.descents) = (None, None, 0);
            self.asked.clear();
            self.candidates.push_front(source);
        } else if probed.have_bytes <= self.have_bytes {
            // It is as far as this node: whoever is before it is waited for.
            self.withheld_since = None;
            let is_root = !probed.has_source;
            self.root_starves_since = is_root.then(|| self.root_starves_since.unwrap_or(now));
        } else {
            self.root_starves_since = None;
            let since = *self.withheld_since.get_or_insert(now);
            if now.saturating_sub(since) >= SOURCE_STALLS_AFTER {
                self.lost();
            }
        }
    }

    /// Where the children of this node should go, because it is slow: to its own source.
    pub fn instead(&self) -> Option<SocketAddr> {
        self.source.filter(|_| self.should_be_left)
    }

    /// Whether this node looks for a source because the former one was slow.
    pub fn has_left_slow(&self) -> bool {
        self.has_left_slow
    }

    /// The source that sends, if one does.
    pub fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    /// Whether `source` was lost, rather than left for a better one, and nobody sends since.
    pub fn has_lost(&self, source: SocketAddr) -> bool {
        self.lost == Some(source)
    }

    /// The connection to the source has ended.
    pub fn lost(&mut self) {
        if let Some(source) = self.source.take() {
            (self.root_starves_since, self.lost, self.has_left_slow) = (None, Some(source), false);
        }
    }

    /// Leaves a source that is slow.
    fn leave_for(&mut self, better: SocketAddr) {
        let Some(slow) = self.source.take() else { return };
        (self.root_starves_since, self.has_left_slow) = (None, true);
        self.descents = 0;
        self.asked = HashSet::from([slow]);
        self.candidates.push_front(better);
    }
}

#[cfg(test)]
mod tests;
