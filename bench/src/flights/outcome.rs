//! What became of the pulls of a simulated site.

/// What became of the pulls.
pub(super) struct Outcome {
    /// Seconds from each healthy node's start to its last byte, sorted.
    pub(super) took: Vec<f64>,
    /// The same of slow nodes.
    pub(super) slow_took: Vec<f64>,
    /// How many nodes went to the registry.
    pub(super) copies: usize,
    /// Most nodes in a row, as they attached.
    pub(super) depth: u32,
    /// How often each node was sent on by a full source, sorted.
    pub(super) steps: Vec<u32>,
    /// How many lookups all servers together answered.
    pub(super) lookups: u64,
    /// Most lookups at one server within a second.
    pub(super) lookups_most: u64,
    /// Pieces that each node has sent.
    pub(super) sent: Vec<u64>,
    /// Pieces that have left each rack.
    pub(super) rack_sent: Vec<u64>,
    /// Blobs that have come from another zone: pieces by the pieces of a blob.
    pub(super) across_zones: f64,
}

impl Outcome {
    /// Time within which this share of the healthy nodes was done, seconds.
    pub(super) fn at(&self, share: f64) -> f64 {
        at(&self.took, share)
    }

    /// Time within which this share of the slow nodes was done, seconds.
    pub(super) fn slow_at(&self, share: f64) -> f64 {
        at(&self.slow_took, share)
    }

    /// The busiest node's bytes × the mean.
    pub(super) fn busiest_node(&self) -> f64 {
        busiest(&self.sent)
    }

    /// The bytes of the busiest uplink of a rack × the mean.
    pub(super) fn busiest_rack(&self) -> f64 {
        busiest(&self.rack_sent)
    }
}

/// The value that this share of `sorted` is not above.
pub(super) fn at<T: Copy>(sorted: &[T], share: f64) -> T {
    let position = (sorted.len() as f64 * share).ceil() as usize;
    sorted[position.clamp(1, sorted.len()) - 1]
}

/// The highest of these × their mean.
pub(super) fn busiest(values: &[u64]) -> f64 {
    let (most, sum) = (values.iter().max().copied().unwrap_or_default(), values.iter().sum::<u64>());
    most as f64 * values.len() as f64 / sum.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_means_of_a_few_values() {
        let values = [1, 2, 3, 10];
        assert_eq!([0.0, 0.5, 0.75, 0.99, 1.0].map(|share| at(&values, share)), [1, 2, 3, 10, 10]);
        assert_eq!((busiest(&values), busiest(&[])), (2.5, 0.0));
    }
}
