//! Requests of the agents of a flash crowd, and their times.
//!
//! Every agent pulls the image once. Its layers come in order over the length of its pull. The agent looks
//! each layer up, one fifth of them twice (nobody had it yet, or containerd asked again), has it one step
//! later, and advertises it. The starts of the pulls are evenly spread, so that the last pull ends with the
//! crowd. While an advertise of an agent is in flight, further layers wait and are sent together, because an
//! agent has one writer.

use std::collections::VecDeque;
use std::time::Duration;

use crate::agents::Agents;
use crate::drive::{Source, Ticket};

/// Layers of the image.
pub(super) const LAYERS: u32 = 12;
/// Kinds of requests, which are the indices of their pools.
pub(super) const LOOKUP: usize = 0;
pub(super) const ADVERTISE: usize = 1;
/// What an agent adds to a lookup whose answer begins a flight.
const FLIGHT: &str = "&intent=fetch&have=0&begins=true&owes=0";
/// Note of a ticket for waiting layers only.
const WAITING: u64 = u64::MAX;
/// One of this many lookups is repeated: 12 × 1.2 = 14.4 for each agent, 12,000 a second for 50,000 agents in
/// a minute.
const REPEATED: u32 = 5;
/// The agent's timeouts of a lookup and of a write, which are divided among the servers.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(1);
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Shape of a crowd.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) agents: u32,
    /// Time from the start of the first pull to the end of the last.
    pub(super) length: Duration,
    /// Length of one agent's pull.
    pub(super) pull: Duration,
    /// Number of layers that arrive and are advertised together.
    pub(super) together: u32,
    /// Whether lookups say that the node will pass the layer on while it arrives.
    pub(super) flights: bool,
    /// Number of the first layer's key.
    pub(super) first_key: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Duration,
    agent: u32,
    layer: u32,
}

/// Agents of one server.
#[derive(Default)]
struct Lane {
    /// Events by pool, sorted by time.
    events: [VecDeque<Event>; 2],
    /// Agents whose writer is free again, with the layers that waited.
    ready: VecDeque<Ticket>,
}

/// Layers that wait for an agent's writer.
#[derive(Clone, Copy, Default)]
struct Waiting {
    /// One bit for each layer.
    layers: u64,
    since: Duration,
}

/// Source of the requests of a crowd.
pub(super) struct Crowd {
    pub(super) agents: Agents,
    shape: Shape,
    lanes: Vec<Lane>,
    waiting: Vec<Waiting>,
    /// Advertises that were sent, and layers in them.
    pub(super) writes: u64,
    pub(super) layers: u64,
    /// Answers to writes other than 201.
    pub(super) refused: u64,
}

impl Crowd {
    pub(super) fn new(agents: Agents, shape: Shape, servers: usize) -> Self {
        let mut lanes: Vec<Lane> = (0..servers).map(|_| Lane::default()).collect();
        let starts = shape.length.saturating_sub(shape.pull);
        let step = shape.pull / LAYERS;
        let mut number = 0;
        for agent in 0..shape.agents {
            let start = starts.mul_f64(f64::from(agent) / f64::from(shape.agents));
            let events = &mut lanes[agent as usize % servers].events;
            for layer in 0..LAYERS {
                let event = Event { at: start + step * layer, agent, layer };
                events[LOOKUP].push_back(event);
                number += 1;
                if number % REPEATED == 0 {
                    events[LOOKUP].push_back(Event { at: event.at + step / 2, ..event });
                }
                if (layer + 1) % shape.together == 0 || layer + 1 == LAYERS {
                    events[ADVERTISE].push_back(Event { at: event.at + step, ..event });
                }
            }
        }
        for events in lanes.iter_mut().flat_map(|lane| &mut lane.events) {
            events.make_contiguous().sort_unstable();
        }
        let waiting = vec![Waiting::default(); shape.agents as usize];
        Self { agents, shape, lanes, waiting, writes: 0, layers: 0, refused: 0 }
    }

    /// The layers that are advertised together with this one.
    fn group(&self, last: u32) -> u64 {
        let first = last - last % self.shape.together;
        (first..=last).map(|layer| 1 << layer).sum()
    }

    fn keys(&self, layers: u64) -> Vec<u32> {
        let there = (0..LAYERS).filter(|layer| layers >> layer & 1 == 1);
        there.map(|layer| self.shape.first_key + layer).collect()
    }
}

impl Source for Crowd {
    fn next(&mut self, lane: usize, pool: usize) -> Option<Ticket> {
        let lane = &mut self.lanes[lane];
        if pool == ADVERTISE
            && let Some(ticket) = lane.ready.pop_front()
        {
            return Some(ticket);
        }
        let Event { at, agent, layer } = lane.events[pool].pop_front()?;
        let (again, patience) = match pool {
            ADVERTISE => (true, WRITE_PATIENCE / self.lanes.len() as u32),
            _ => (false, LOOKUP_PATIENCE / self.lanes.len() as u32),
        };
        let note = u64::from(layer);
        Some(Ticket { due: Some(at), kind: pool, agent, note, again, patience, fresh: false })
    }

    fn compose(&mut self, ticket: &mut Ticket, out: &mut Vec<u8>) -> bool {
        if ticket.kind == LOOKUP {
            let key = self.shape.first_key + ticket.note as u32;
            self.agents.lookup(ticket.agent, key, if self.shape.flights { FLIGHT } else { "" }, out);
            return true;
        }
        let mut layers = if ticket.note == WAITING { 0 } else { self.group(ticket.note as u32) };
        let waiting = &mut self.waiting[ticket.agent as usize];
        if self.agents.is_writing(ticket.agent) {
            if waiting.layers == 0 {
                waiting.since = ticket.due.unwrap_or_default();
            }
            waiting.layers |= layers;
            return false;
        }
        layers |= std::mem::take(&mut waiting.layers);
        if layers == 0 {
            return false;
        }
        let keys = self.keys(layers);
        let seq = self.agents.advertise(ticket.agent, &keys, out);
        ticket.note = seq << LAYERS | layers;
        self.writes += 1;
        self.layers += keys.len() as u64;
        true
    }

    fn answered(&mut self, _now: Duration, ticket: &Ticket, status: u16, _body: &[u8]) {
        if ticket.kind == LOOKUP {
            return;
        }
        let keys = self.keys(ticket.note & ((1 << LAYERS) - 1));
        self.agents.acknowledged(ticket.agent, ticket.note >> LAYERS, Some(&keys));
        self.refused += u64::from(status != 201);
        let waiting = self.waiting[ticket.agent as usize];
        if waiting.layers > 0 {
            let lane = ticket.agent as usize % self.lanes.len();
            let ticket = Ticket { due: Some(waiting.since), note: WAITING, ..*ticket };
            self.lanes[lane].ready.push_back(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;

    fn crowd(together: u32) -> Crowd {
        let fleet = Fleet { hosts: 10, keys_per_host: 40, distinct_keys: 100, common_keys: 5 };
        let agents = Agents::new(fleet, LAYERS, 1).unwrap();
        let (length, pull) = (Duration::from_secs(10), Duration::from_secs(2));
        Crowd::new(agents, Shape { agents: 10, length, pull, together, flights: false, first_key: 100 }, 2)
    }

    #[test]
    fn every_agent_asks_for_each_layer_and_all_end_in_time() {
        let mut crowd = crowd(1);
        let mut lookups = [0; LAYERS as usize];
        let mut last = Duration::ZERO;
        for lane in 0..2 {
            let mut before = Duration::ZERO;
            while let Some(ticket) = crowd.next(lane, LOOKUP) {
                assert!(ticket.due >= Some(before) && ticket.agent as usize % 2 == lane);
                before = ticket.due.unwrap();
                lookups[ticket.note as usize] += 1;
            }
            while let Some(ticket) = crowd.next(lane, ADVERTISE) {
                last = last.max(ticket.due.unwrap());
            }
        }
        assert_eq!(lookups.iter().sum::<u32>(), 144);
        assert!(lookups.iter().all(|count| *count >= 10));
        assert!(last > Duration::from_secs(9) && last <= Duration::from_secs(10), "{last:?}");
    }

    #[test]
    fn what_comes_while_a_write_is_on_its_way_goes_out_together_after_it() {
        let mut crowd = crowd(3);
        let mut out = Vec::new();
        let mut mine = Vec::new();
        while let Some(ticket) = crowd.next(0, ADVERTISE) {
            if ticket.agent == 0 {
                mine.push(ticket);
            }
        }
        assert_eq!(mine.len(), 4);
        assert!(crowd.compose(&mut mine[0], &mut out));
        assert!(!crowd.compose(&mut mine[1], &mut out) && !crowd.compose(&mut mine[2], &mut out));
        crowd.answered(Duration::from_secs(1), &mine[0], 201, b"");
        let mut waited = crowd.next(0, ADVERTISE).unwrap();
        assert_eq!(waited.due, mine[1].due);
        assert!(crowd.compose(&mut waited, &mut out));
        crowd.answered(Duration::from_secs(1), &waited, 201, b"");
        assert!(crowd.next(0, ADVERTISE).is_none());
        assert!(crowd.compose(&mut mine[3], &mut out));
        crowd.answered(Duration::from_secs(1), &mine[3], 201, b"");
        assert_eq!((crowd.writes, crowd.layers, crowd.refused), (3, 12, 0));
    }
}
