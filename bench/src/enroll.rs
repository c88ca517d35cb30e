//! A fleet starts: every agent syncs its whole inventory, then sends its first heartbeat. A closed loop, as
//! fast as the servers answer.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::agents::Agents;
use crate::cluster::Cluster;
use crate::drive::{Drive, Outcome, Source, Ticket};

/// Concurrent syncs: each agent is one connection, and far more of them wait than a server works on.
pub(crate) const CONNECTIONS: usize = 96;
/// Time for one server to answer a sync: the agent's timeout, divided among the servers.
pub(crate) const SYNC_PATIENCE: Duration = Duration::from_secs(10);
/// Time for one server to answer a heartbeat: the agent's timeout, divided among the servers.
pub(crate) const HEARTBEAT_PATIENCE: Duration = Duration::from_millis(1_667);

/// What each agent sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Sync,
    Heartbeat,
}

struct Enrolment {
    agents: Agents,
    what: What,
    next: u32,
    refused: u64,
    resyncs: u64,
}

/// A round of requests, one for each agent.
pub(crate) struct Enrolled {
    pub(crate) agents: Agents,
    pub(crate) outcome: Outcome,
}

impl Source for Enrolment {
    fn next(&mut self, _lane: usize, _pool: usize) -> Option<Ticket> {
        let agent = Some(self.next).filter(|next| *next < self.agents.fleet.hosts)?;
        self.next += 1;
        let patience = if self.what == What::Sync { SYNC_PATIENCE } else { HEARTBEAT_PATIENCE };
        Some(Ticket { due: None, kind: 0, agent, note: 0, again: true, patience, fresh: false })
    }

    fn compose(&mut self, ticket: &mut Ticket, out: &mut Vec<u8>) -> bool {
        match self.what {
            What::Sync => ticket.note = self.agents.sync(ticket.agent, out),
            What::Heartbeat => self.agents.heartbeat(ticket.agent, out),
        }
        true
    }

    fn answered(&mut self, _now: Duration, ticket: &Ticket, status: u16, body: &[u8]) {
        match (self.what, status) {
            (What::Sync, 201) => self.agents.acknowledged(ticket.agent, ticket.note, None),
            (What::Heartbeat, 201) => self.resyncs += u64::from(wants_sync(body)),
            _ => self.refused += 1,
        }
    }
}

/// True if the answer to a heartbeat asks for a sync.
pub(crate) fn wants_sync(body: &[u8]) -> bool {
    body.windows(13).any(|window| window == b"\"resync\":true")
}

/// Syncs all agents; returns when each has its 201.
pub(crate) fn sync_all(cluster: &Cluster, agents: Agents) -> Result<Enrolled> {
    run(cluster, agents, What::Sync)
}

/// Sends one heartbeat of each agent: after it the servers know zones and leases.
pub(crate) fn heartbeat_all(cluster: &Cluster, agents: Agents) -> Result<Enrolled> {
    run(cluster, agents, What::Heartbeat)
}

/// Syncs all agents, sends their heartbeats, and waits until all servers have applied both.
pub(crate) fn enroll(cluster: &Cluster, agents: Agents) -> Result<Agents> {
    let agents = sync_all(cluster, agents)?.agents;
    let agents = heartbeat_all(cluster, agents)?.agents;
    let pairs = cluster.wait_equal()?.pairs;
    ensure!(pairs == agents.fleet.pairs(), "{pairs} pairs arrived of {}", agents.fleet.pairs());
    Ok(agents)
}

fn run(cluster: &Cluster, agents: Agents, what: What) -> Result<Enrolled> {
    let drive = Drive { servers: cluster.addresses(), pools: vec![CONNECTIONS], fresh_most: 0, kinds: 1 };
    let source = Enrolment { agents, what, next: 0, refused: 0, resyncs: 0 };
    let (source, outcome) = drive.run(source)?;
    let Enrolment { agents, refused, resyncs, .. } = source;
    ensure!(refused == 0, "refused: {}", outcome.records[0].statuses_text());
    ensure!(resyncs == 0, "{resyncs} agents were asked to sync again right after their sync");
    Ok(Enrolled { agents, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_for_a_sync_is_found() {
        assert!(wants_sync(br#"{"success":true,"message":"x","resync":true}"#));
        assert!(!wants_sync(br#"{"success":true,"message":"x","resync":false}"#));
    }
}
