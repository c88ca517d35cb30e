//! What a simulated site is like, and what became of its pulls.

/// Pieces of the blob: bytes move a piece at a time.
pub(super) const PIECES: u64 = 256;

/// The site and the blob; rates in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) nodes: usize,
    pub(super) bytes: f64,
    pub(super) link: f64,
    pub(super) registry: f64,
    /// Rate at which a node writes.
    pub(super) write: f64,
    /// Time within which all nodes come, at random.
    pub(super) arrive_seconds: f64,
}

impl Terms {
    /// One transfer between two nodes that do nothing else.
    pub(super) fn transfer_seconds(&self) -> f64 {
        self.bytes / self.link.min(self.write)
    }

    /// Time of one piece from a node that sends to `children` at once.
    pub(super) fn piece_seconds(&self, children: usize) -> f64 {
        let share = self.link / children.max(1) as f64;
        self.bytes / PIECES as f64 / share.min(self.write)
    }
}

/// What became of the pulls.
pub(super) struct Outcome {
    /// Seconds from each node's start to its last byte, sorted.
    pub(super) took: Vec<f64>,
    pub(super) copies: usize,
    pub(super) depth: u32,
    pub(super) asked_p99: u32,
    pub(super) asked_most: u32,
    pub(super) lookups: u64,
}

impl Outcome {
    /// Time within which this share of the nodes was done, seconds.
    pub(super) fn at(&self, share: f64) -> f64 {
        let position = (self.took.len() as f64 * share).ceil() as usize;
        self.took[position.clamp(1, self.took.len()) - 1]
    }
}
