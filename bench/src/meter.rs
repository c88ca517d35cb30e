//! Resources that a cluster, the load and the machine used over a time.

use std::time::Instant;

use anyhow::Result;

use crate::cluster::{Cluster, Used};
use crate::usage::Machine;
use crate::usage::process::cpu_seconds;

/// A measurement that begins before the load and is read after it. The same servers must run at both ends.
pub(crate) struct Meter {
    started: Instant,
    servers: Vec<Used>,
    load: f64,
    machine: Machine,
}

/// CPU time divided by elapsed time, in cores.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    pub(crate) seconds: f64,
    pub(crate) servers: Vec<f64>,
    pub(crate) written_mib: Vec<f64>,
    pub(crate) leader: usize,
    pub(crate) load: f64,
    /// Share of the whole machine that was idle, 0 to 1.
    pub(crate) idle: f64,
    /// Cores used by processes other than ours.
    pub(crate) others: f64,
}

impl Meter {
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        Ok(Self {
            started: Instant::now(),
            servers: cluster.used_by_all()?,
            load: cpu_seconds(std::process::id())?,
            machine: Machine::now()?,
        })
    }

    pub(crate) fn read(&self, cluster: &Cluster) -> Result<Shares> {
        let seconds = self.started.elapsed().as_secs_f64();
        let used = cluster.used_by_all()?;
        let machine = Machine::now()?;
        let load = (cpu_seconds(std::process::id())? - self.load) / seconds;
        let both = || used.iter().zip(&self.servers);
        let servers: Vec<f64> =
            both().map(|(now, then)| (now.cpu_seconds - then.cpu_seconds) / seconds).collect();
        let total = machine.total - self.machine.total;
        let idle = machine.idle - self.machine.idle;
        let ours = servers.iter().sum::<f64>() + load;
        Ok(Shares {
            seconds,
            written_mib: both().map(|(now, then)| now.written_mib - then.written_mib).collect(),
            leader: cluster.wait_leader()?,
            load,
            idle: idle / total,
            others: ((total - idle) / seconds - ours).max(0.0),
            servers,
        })
    }
}

impl Shares {
    pub(crate) fn leader(&self) -> f64 {
        self.servers[self.leader]
    }

    /// The busiest follower; zero if there is none.
    pub(crate) fn follower(&self) -> f64 {
        let others = self.servers.iter().enumerate().filter(|(number, _)| *number != self.leader);
        others.map(|(_, cores)| *cores).fold(0.0, f64::max)
    }

    /// `leader 0.51, busiest follower 0.32, load 0.20 cores; idle 40 %, others 0.01`.
    pub(crate) fn text(&self) -> String {
        format!(
            "leader {:.2}, busiest follower {:.2}, load {:.2} cores; machine idle {:.0} %, others {:.2} cores",
            self.leader(),
            self.follower(),
            self.load,
            self.idle * 100.0,
            self.others
        )
    }
}
