//! What nodes and servers say to each other, as in `src/server/flights.rs` without the batches.

use piccolo::agent::flight::follow::{Need, ServerAnswer};
use piccolo::limits::{CLAIM_ASKS_MAX, CLAIM_PROGRESS_INTERVAL, FLIGHT_OWNER_TIMEOUT};
use piccolo::server::flights::claim::Ruling;
use piccolo::server::flights::table::{Progress, Question, Sources};

use super::super::events::{Event, Message, Said, Told};
use super::super::servers::{Servers, Way};
use super::{ONE_WAY, Site, address, node_at};

impl Site {
    /// A node asks its server for sources.
    pub(super) fn ask(&mut self, node: usize, need: Need) {
        self.nodes[node].is_waiting = true;
        let lost = match need {
            Need::Lost(source) => Some(source),
            _ => None,
        };
        let question = Question {
            node: self.asker(node),
            begins: need == Need::Begins,
            is_held: false,
            is_starved: need.needs_ruling() || matches!(need, Need::Lost(_)),
            lost,
            owes: 0,
            attempt: None,
        };
        self.send_to_server(node, Said::Question(question));
    }

    /// A fetcher says how far it is, until it is done.
    pub(super) fn say(&mut self, node: usize) {
        let is_done = self.nodes[node].done.is_some();
        if self.nodes[node].is_gone {
            return;
        }
        let progress = if is_done { Progress::Ended } else { Progress::Fetches };
        self.send_to_server(node, Said::Progress(self.asker(node), progress));
        if !is_done {
            self.events.after(CLAIM_PROGRESS_INTERVAL.as_secs_f64(), Event::Says { node });
        }
    }

    /// All servers know that a node has the blob; it is no partial holder any more.
    pub(super) fn indexed(&mut self, node: usize) {
        if !self.nodes[node].is_gone {
            self.servers.index(node, self.terms.zone(node));
            self.send_to_server(node, Said::Progress(self.asker(node), Progress::Ended));
        }
    }

    fn send_to_server(&mut self, node: usize, said: Said) {
        let message = Message { node, server: self.nodes[node].server, said, undecided: 0 };
        self.events.after(ONE_WAY, Event::Asks(Box::new(message)));
    }

    /// A message has come to the server that the node asks.
    pub(super) fn asked(&mut self, mut message: Box<Message>) {
        let now = self.time();
        if self.servers.is_gone(message.server, now) {
            return self.events.after(ONE_WAY, Event::ServerGone(message));
        }
        if let Said::Question(question) = &mut message.said {
            self.servers.count(message.server, now);
            question.is_held = self.servers.is_held();
            let is_first = question.begins && !question.is_starved;
            if is_first
                && let Some(sources) = self.servers.remembered(message.server, &question.node.zone, now)
                && let Way::To(owner) | Way::ToSilent(owner) = self.servers.way(message.server, now)
            {
                let told = message.clone();
                let lag = self.terms.server_lag;
                self.events.after(lag, Event::AtOwner { owner, message: told, is_answered: false });
                return self.decided(message, &sources, false);
            }
        }
        self.route(message);
    }

    /// Brings a message to the owner of the key, as the server that was asked sees it.
    pub(super) fn route(&mut self, message: Box<Message>) {
        let now = self.time();
        let lag = self.terms.server_lag;
        match self.servers.way(message.server, now) {
            Way::Here => {
                let server = message.server;
                if let Some(sources) = self.decide(server, &message) {
                    self.decided(message, &sources, true);
                }
            }
            Way::To(owner) => self.events.after(lag, Event::AtOwner { owner, message, is_answered: true }),
            Way::ToSilent(owner) => {
                let late = message.clone();
                self.events.after(lag, Event::AtOwner { owner, message: late, is_answered: false });
                let silent = Event::OwnerSilent { owner, message };
                self.events.after(FLIGHT_OWNER_TIMEOUT.as_secs_f64(), silent);
            }
        }
    }

    pub(super) fn at_owner(&mut self, owner: usize, message: Box<Message>, is_answered: bool) {
        if self.servers.is_gone(owner, self.time()) {
            return;
        }
        if let Some(sources) = self.decide(owner, &message)
            && is_answered
        {
            let answered = Event::OwnerAnswered { message, sources: Box::new(sources) };
            self.events.after(self.terms.server_lag, answered);
        }
    }

    /// The table of `server` answers a question, or takes note of a progress.
    fn decide(&mut self, server: usize, message: &Message) -> Option<Sources> {
        let now = self.time();
        let content = self.servers.content.clone();
        match &message.said {
            Said::Question(question) => {
                Some(self.servers.table(server).ask(&content, question, now, &mut self.rng))
            }
            Said::Progress(asker, progress) => {
                self.servers.table(server).progress(&content, asker, *progress, now);
                None
            }
        }
    }

    /// The server that was asked has an answer.
    pub(super) fn decided(&mut self, mut message: Box<Message>, sources: &Sources, is_fresh: bool) {
        let now = self.time();
        let Said::Question(question) = &mut message.said else { return };
        if self.servers.is_gone(message.server, now) {
            return self.events.after(ONE_WAY, Event::ServerGone(message));
        }
        if is_fresh {
            self.servers.remember(message.server, &question.node.zone, sources, now);
        }
        let told = match sources.ruling {
            Some(Ruling::Undecided(wait)) if message.undecided + 1 < CLAIM_ASKS_MAX => {
                question.begins = false;
                message.undecided += 1;
                return self.events.after(wait.as_secs_f64(), Event::Asks(message));
            }
            Some(Ruling::Yours) => Told::Yours,
            Some(Ruling::Open) => Told::Open,
            Some(Ruling::HeldBy(_) | Ruling::Undecided(_)) | None => {
                let own = address(message.node);
                let not: Vec<_> = std::iter::once(own).chain(question.lost).collect();
                let picked = sources.pick(&not, &mut self.rng);
                let mut all = self.servers.holders(self.terms.zone(message.node), &mut self.rng);
                all.extend(picked.into_iter().map(node_at));
                all.retain(|node| !not.contains(&address(*node)));
                let fetcher = sources.fetcher.map(node_at);
                all.extend(fetcher);
                Told::Sources { all, fetcher }
            }
        };
        self.events.after(ONE_WAY, Event::Told { node: message.node, told: Box::new(told) });
    }

    pub(super) fn told(&mut self, node: usize, told: Told) {
        let answer = match told {
            Told::Yours => ServerAnswer::Yours,
            Told::Open => ServerAnswer::Open,
            Told::Sources { all, fetcher } => {
                self.nodes[node].fetcher = fetcher;
                ServerAnswer::Sources(all.into_iter().map(address).collect())
            }
        };
        self.nodes[node].is_waiting = false;
        self.nodes[node].follow.server_answered(answer);
        self.step(node);
    }

    /// The node asks another server.
    pub(super) fn server_gone(&mut self, message: Message) {
        self.nodes[message.node].server = Servers::other(message.server, &mut self.rng);
        self.send_to_server(message.node, message.said);
    }
}
