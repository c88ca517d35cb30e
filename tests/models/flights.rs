//! Modelled daemons of several nodes pull the same image at once, through real agents and a real server. The registry
//! counts what it sends: one copy, and one more for each incident.

mod crowds;
mod fleet;
mod losses;
mod mixed;
mod refusals;
mod registry;
mod wire;
mod wrong_bytes;

use std::fmt;
use std::time::Duration;

use crate::blob::Blob;
use crate::containerd::{SLOTS, Version};

use fleet::{Fleet, Pulled};
use registry::Registry;

const MIB: u64 = 1 << 20;
/// Number of nodes that pull at once.
const NODES: usize = 8;
/// Size of a chunk in the parallel mode: blobs up to it come over one connection.
const CHUNK_BYTES: u64 = 4 * MIB;
/// Time that we may cost a pull.
const WITHIN: Duration = Duration::from_secs(20);
/// Copies that may leave the registry for one: what was on its way when a daemon closed a connection counts.
const ONE_COPY: f64 = 1.05;

/// Settings of the daemons of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Client {
    version: Version,
    parallel: bool,
    /// `max_concurrent_downloads`.
    slots: usize,
}

impl Client {
    const ALL: [Self; 5] = [
        Self::of(Version::V1_6),
        Self::of(Version::V2_1),
        Self::of(Version::V2_1).in_parallel(),
        Self::of(Version::V2_3),
        Self::of(Version::V2_3).in_parallel(),
    ];

    const fn of(version: Version) -> Self {
        Self { version, parallel: false, slots: SLOTS }
    }

    const fn in_parallel(self) -> Self {
        Self { parallel: true, ..self }
    }

    const fn with_slots(self, slots: usize) -> Self {
        Self { slots, ..self }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.parallel { " parallel" } else { "" };
        write!(f, "{}{mode} with {} slots", self.version.name(), self.slots)
    }
}

/// Layers of an image. Clones share them.
#[derive(Clone, Debug)]
struct Image {
    layers: Vec<Blob>,
}

impl Image {
    fn new(sizes: &[u64]) -> Self {
        Self { layers: sizes.iter().map(|size| Blob::new(*size)).collect() }
    }

    /// One layer of 24 MiB, which is passed on while it comes.
    fn of_one_blob() -> Self {
        Self::new(&[24 * MIB])
    }

    /// Twelve layers, of which one is larger than what is verified whole before it is passed on.
    fn of_many_layers() -> Self {
        const KIB: u64 = 1 << 10;
        let sizes = [64 * KIB, 300 * KIB, MIB, MIB + 1, 2 * MIB, 2 * MIB, 3 * MIB, 4 * MIB, 4 * MIB, 5 * MIB];
        Self::new(&[sizes.as_slice(), &[6 * MIB, 17 * MIB]].concat())
    }

    /// The same layers, the last one first.
    fn backwards(&self) -> Self {
        Self { layers: self.layers.iter().rev().cloned().collect() }
    }

    /// The layers of both, in this order.
    fn and(&self, other: &Self) -> Self {
        Self { layers: self.layers.iter().chain(&other.layers).cloned().collect() }
    }

    fn bytes(&self) -> u64 {
        self.layers.iter().map(Blob::size).sum()
    }
}

/// Checks that all pulls of the layers of `image` went well, and that at most so many copies have left `registry`.
fn check(
    fleet: &Fleet,
    (cell, image): (&str, &Image),
    registry: &Registry,
    pulled: &Pulled,
    copies_max: f64,
) -> Result<(), String> {
    let (copies, last, failed) = (registry.copies(), pulled.last(), pulled.failed());
    let cell = format!("{cell}: {copies:.2} copies, last node after {last:.1?}");
    println!("{cell}");
    if failed.is_empty() && copies <= copies_max {
        return Ok(());
    }
    let (failed, requests) = (failed.join("\n"), registry.requests());
    Err(format!("{cell}\n{failed}\nthe registry was asked for {requests}\n{}", fleet.logs(image)))
}

/// What was wrong in the cells of one test.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    fn note(&mut self, result: Result<(), String>) {
        self.0.extend(result.err());
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{} cells:\n{}", self.0.len(), self.0.join("\n\n"));
    }
}
