//! Nodes with a containerd each, and a registry, from the first side to the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::plan::Plan;
use super::running::Running;
use super::side::{Flights, Outcome, Side};
use super::watch::watched;
use crate::daemons::{Containerd, Registry, write_hosts_without_mirror};
use crate::lan::Lan;
use crate::layout::{Blob, Layout};
use crate::piccolo::Piccolo;
use crate::tmpfs::Tmpfs;
use crate::usage::{Machine, cpu_seconds_of_tree};

/// What a pull may take beyond twice the time in which the registry serves all nodes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pushed image.
pub(super) struct Image {
    pub(super) reference: String,
    /// Size of all blobs, bytes.
    pub(super) bytes: u64,
    pub(super) blobs: Vec<Blob>,
}

/// Everything but Piccolo. All files of containerds and registry are in memory.
pub(super) struct Site<'a> {
    pub(super) piccolo: &'a Piccolo,
    pub(super) plan: &'a Plan,
    pub(super) nodes: Vec<Containerd>,
    pub(super) registry: Registry,
    /// `certs.d` without a mirror.
    straight: PathBuf,
    pub(super) lan: Lan,
    memory: Tmpfs,
}

impl<'a> Site<'a> {
    pub(super) fn start(piccolo: &'a Piccolo, folder: &Path, plan: &'a Plan) -> Result<Self> {
        let lan = Lan::make(&plan.rates())?;
        let memory = Tmpfs::mount(folder)?;
        let registry = Registry::start(lan.host(plan.registry()), folder)?;
        let start =
            |number: usize| Containerd::start(lan.host(number), &folder.join(format!("node-{number}")));
        let nodes = (0..plan.nodes).map(start).collect::<Result<_>>()?;
        let straight = folder.join("straight");
        write_hosts_without_mirror(&straight, registry.address)?;
        Ok(Self { piccolo, plan, nodes, registry, straight, lan, memory })
    }

    /// Makes an image and pushes it.
    pub(super) fn push(&self, seed: u64, layers: &[u64]) -> Result<Image> {
        let folder = self.memory.folder().join("image");
        let layout = Layout::make(&folder, seed, layers)?;
        let reference = self.registry.push(&layout, &format!("bench/app:{seed}"))?;
        fs::remove_dir_all(&folder).context("could not remove an image")?;
        let blobs = [layout.layers, layout.rest].concat();
        Ok(Image { reference, bytes: blobs.iter().map(|blob| blob.bytes).sum(), blobs })
    }

    /// Measures one side, with new servers and agents. A side with a holder follows one after which the first node has
    /// the image.
    pub(super) fn measure(&self, side: Side, image: &Image) -> Result<Outcome> {
        let kept = usize::from(side.has_holder());
        self.remove_from(kept..self.nodes.len(), image)?;
        let running = side.flights().map(|flights| Running::start(self, flights)).transpose()?;
        if let Some(running) = running.as_ref().filter(|_| side.has_holder()) {
            running.wait_findable(self, &image.blobs)?;
        }
        let (sent, cpu) = (self.sent()?, Cpu::now()?);
        let pull = || self.pull_at_once(side, image);
        let (done, seen) = match &running {
            Some(running) if side.flights() == Some(Flights::On) => {
                let (host, api) = running.first_server(self);
                let (done, seen) = watched(host, api, pull)?;
                (done, Some(seen))
            }
            _ => (pull(), None),
        };
        let done = done.with_context(|| {
            let logs = running.as_ref().map(Running::logs).unwrap_or_default();
            format!("{}: a pull has failed; logs of Piccolo:\n{logs}", side.name(self.plan))
        })?;
        let (registry_bytes, (idle, others)) = (self.sent()? - sent, cpu.shares_since()?);
        for number in side.pullers(self.nodes.len()) {
            let missing = image.blobs.iter().find(|blob| !self.nodes[number].has(blob));
            ensure!(missing.is_none(), "node {number} has not {missing:?} after its pull");
        }
        Ok(Outcome { done, registry_bytes, idle, others, seen })
    }

    fn sent(&self) -> Result<u64> {
        self.lan.sent(self.plan.registry())
    }

    /// Pulls on all nodes of `side`; returns the sorted durations, seconds.
    fn pull_at_once(&self, side: Side, image: &Image) -> Result<Vec<f64>> {
        let pullers = side.pullers(self.nodes.len());
        let all_are_there = Barrier::new(pullers.len());
        let limit = PATIENCE + Duration::from_secs_f64(2.0 * self.plan.seconds_for_all(image.bytes));
        let pull = |node: &Containerd| {
            let certs = if side.flights().is_some() { node.certs() } else { self.straight.clone() };
            all_are_there.wait();
            let started = Instant::now();
            node.download(&image.reference, &certs, limit)?;
            Ok(started.elapsed().as_secs_f64())
        };
        let mut done = on_each(&self.nodes[pullers], pull)?;
        done.sort_by(f64::total_cmp);
        Ok(done)
    }

    fn remove_from(&self, nodes: std::ops::Range<usize>, image: &Image) -> Result<()> {
        on_each(&self.nodes[nodes], |node| node.remove(&image.reference)).map(|_| ())
    }
}

/// CPU seconds until a moment.
struct Cpu {
    machine: Machine,
    /// Of this process and all that it has started.
    ours: f64,
}

impl Cpu {
    fn now() -> Result<Self> {
        Ok(Self { machine: Machine::now()?, ours: cpu_seconds_of_tree(std::process::id())? })
    }

    /// Shares of all CPUs since then: idle, and taken by others.
    fn shares_since(&self) -> Result<(f64, f64)> {
        let now = Self::now()?;
        let total = now.machine.total - self.machine.total;
        let idle = now.machine.idle - self.machine.idle;
        let others = (total - idle - (now.ours - self.ours)).max(0.0);
        Ok((idle / total, others / total))
    }
}

/// Does `job` for all of `items` at the same time; returns what each returned, in their order.
pub(super) fn on_each<I: Sync, T: Send>(items: &[I], job: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let job = &job;
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || job(item))).collect();
        let ended =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        ended.collect()
    })
}
