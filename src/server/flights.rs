//! Flights: nodes share content that is still arriving, and one of them fetches it from the registry.
//!
//! Asking for a source registers the asker as a partial holder. For each key one voter, its *owner*, keeps what is
//! known ([`table`], in memory only) and grants one *claim* ([`claim`]); all servers agree on the owner without a
//! message ([`owner`]). The other servers pass messages on to it in batches ([`exchange`]), and answer from its last
//! answer for a moment ([`remembered`]). An owner that does not answer is left out for a while: the next server in
//! the key's order is the owner then, at worst the one that was asked. What a server lost with its memory comes back
//! with the next messages of the nodes.

pub mod claim;
pub mod exchange;
pub mod owner;
pub mod remembered;
pub mod sample;
pub mod table;
pub mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use piccolo_raft::cluster::{Node as RaftNode, Role};
use piccolo_raft::types::NodeId;
use tokio::time::MissedTickBehavior;

use self::claim::Ruling;
use self::exchange::Exchange;
use self::remembered::OwnerAnswers;
use self::table::{Content, FlightSummary, FlightTable, Node, Progress, Question, Sources};
use self::wire::{FlightAnswer, FlightMessage, Said};
use crate::api::flight::FlightList;
use crate::clock::SharedClock;
use crate::limits::{
    CLAIM_ASKS_MAX, FLIGHT_OWNER_AVOIDED, FLIGHT_VOTERS_LOOK_INTERVAL, FLIGHTS_UPKEEP_INTERVAL,
};
use crate::task::Stop;

/// The flights of one server: those that it owns, and the way to the owners of others.
pub struct Flights {
    node: RaftNode,
    clock: SharedClock,
    exchange: Exchange,
    table: Mutex<FlightTable>,
    remembered: Mutex<OwnerAnswers>,
    voters: Mutex<Voters>,
}

/// The voters, as this server last saw them.
#[derive(Default)]
struct Voters {
    /// API addresses by node id; that of this server is `None`.
    addresses: Arc<HashMap<NodeId, Option<String>>>,
    looked: Option<Duration>,
    /// Owners that did not answer, and until when they are left out.
    avoided: HashMap<NodeId, Duration>,
}

impl Flights {
    /// No flights yet, on the server of `node`.
    pub fn new(node: RaftNode, clock: SharedClock, exchange: Exchange) -> Self {
        Self {
            node,
            clock,
            exchange,
            table: Mutex::default(),
            remembered: Mutex::default(),
            voters: Mutex::default(),
        }
    }

    /// Answers a node that needs a source of `content`. While the claim on it is undecided, this waits, at most
    /// [`CLAIM_ASKS_MAX`] times.
    pub async fn ask(&self, content: Content, mut question: Question) -> Sources {
        let mut sources = self.ask_owner(&content, &question).await;
        for _ in 1..CLAIM_ASKS_MAX {
            let Some(Ruling::Undecided(wait)) = sources.ruling else { break };
            tokio::time::sleep(wait).await;
            question.begins = false;
            sources = self.ask_owner(&content, &question).await;
        }
        let outcome = match sources.ruling {
            Some(Ruling::Yours) => Some("granted"),
            Some(Ruling::Open) => Some("open"),
            _ => None,
        };
        if let Some(outcome) = outcome {
            metrics::counter!("piccolo_api_flight_claims_total", "outcome" => outcome).increment(1);
        }
        sources
    }

    /// Notes how far a node is in its flights, of each its content, its part and what it does, with the owners of the
    /// contents. Returns for each whether the node's claim still stands; true where the owner did not answer.
    pub async fn progress(&self, said: Vec<(Content, Node, Progress)>) -> Vec<bool> {
        let stand = said.into_iter().map(async |(content, node, progress)| {
            let answer = self.to_owner(FlightMessage { content, said: Said::Progress(node, progress) }).await;
            !matches!(answer, FlightAnswer::Stands(false))
        });
        join_all(stand).await
    }

    /// Answers a message as the owner of its content.
    pub fn answer_as_owner(&self, message: &FlightMessage) -> FlightAnswer {
        let now = self.clock.monotonic();
        let mut table = lock(&self.table);
        match &message.said {
            Said::Question(question) => {
                let sources = table.ask(&message.content, question, now, &mut rand::rng());
                FlightAnswer::Sources(sources)
            }
            Said::Came(node) => {
                table.came(&message.content, node, now, &mut rand::rng());
                FlightAnswer::Stands(true)
            }
            Said::Progress(node, progress) => {
                FlightAnswer::Stands(table.progress(&message.content, node, *progress, now))
            }
        }
    }

    /// The flights that the other voters own, and those voters that did not answer in time.
    pub async fn of_others(&self) -> FlightList {
        let voters = voters_of(&self.node);
        let asked = voters.values().flatten().map(async |server| (server, self.exchange.list(server).await));
        let mut list = FlightList::default();
        for (server, flights) in join_all(asked).await {
            match flights {
                Some(mut flights) => list.flights.append(&mut flights),
                None => list.unanswered.push(server.clone()),
            }
        }
        list
    }

    /// The flights that this server owns.
    pub fn owned(&self) -> Vec<FlightSummary> {
        lock(&self.table).summaries()
    }

    /// Forgets partial holders that are silent, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: Stop) -> Result<(), Infallible> {
        let mut ticks = tokio::time::interval(FLIGHTS_UPKEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = self.clock.monotonic();
            let mut table = lock(&self.table);
            table.expire(now);
            metrics::gauge!("piccolo_api_flights").set(table.count() as f64);
        }
        self.exchange.finish().await;
        Ok(())
    }

    /// Asks once, or answers from the owner's last answer and tells the owner only that the node has come.
    async fn ask_owner(&self, content: &Content, question: &Question) -> Sources {
        let is_first_question = question.begins && !question.is_starved && question.lost.is_none();
        if is_first_question
            && let Some((_, Some(server))) = self.owners(content).into_iter().next()
            && let Some(sources) =
                lock(&self.remembered).get(content, &question.node.zone, self.clock.monotonic())
            // The fetcher itself has to hear of its claim.
            && sources.fetcher != Some(question.node.address)
        {
            let said = Said::Came(question.node.clone());
            self.exchange.tell(&server, FlightMessage { content: content.clone(), said });
            return sources;
        }
        let message = FlightMessage { content: content.clone(), said: Said::Question(question.clone()) };
        match self.to_owner(message).await {
            FlightAnswer::Sources(sources) => {
                if !question.has_ended_bytes(sources.attempt) {
                    let now = self.clock.monotonic();
                    lock(&self.remembered).put(content, &question.node.zone, &sources, now);
                }
                sources
            }
            FlightAnswer::Stands(_) => Sources::default(),
        }
    }

    /// The answer of the owner; without one, that of the next server in order, in the end this one's.
    async fn to_owner(&self, message: FlightMessage) -> FlightAnswer {
        for (voter, address) in self.owners(&message.content) {
            let Some(server) = address else { break };
            match self.exchange.send(&server, message.clone()).await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::debug!(server, %error, "the owner of a key is left out for a while");
                    let until = self.clock.monotonic() + FLIGHT_OWNER_AVOIDED;
                    lock(&self.voters).avoided.insert(voter, until);
                }
            }
        }
        self.answer_as_owner(&message)
    }

    /// The voters in the order in which they own `content`, without those that are left out.
    fn owners(&self, content: &Content) -> Vec<(NodeId, Option<String>)> {
        let now = self.clock.monotonic();
        let mut voters = lock(&self.voters);
        voters.avoided.retain(|_, until| now < *until);
        if voters.looked.is_none_or(|looked| now.saturating_sub(looked) >= FLIGHT_VOTERS_LOOK_INTERVAL) {
            voters.looked = Some(now);
            voters.addresses = Arc::new(voters_of(&self.node));
        }
        let may_own = voters.addresses.keys().copied().filter(|voter| !voters.avoided.contains_key(voter));
        let order = owner::order(content, may_own);
        order.into_iter().map(|voter| (voter, voters.addresses[&voter].clone())).collect()
    }
}

fn voters_of(node: &RaftNode) -> HashMap<NodeId, Option<String>> {
    let status = node.status();
    let own = status.node_id;
    let voters = status.members.into_iter().filter(|info| info.role != Role::Learner);
    voters.map(|info| (info.node_id, (info.node_id != own).then_some(info.member.api_address))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}
