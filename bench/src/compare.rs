//! Comparison of sides: every combination of sizes and connection counts, in turns and rounds.

use anyhow::Result;

use crate::layout::Blob;
use crate::load::{Load, Sample, sample};
use crate::net::Network;
use crate::side::Side;
use crate::stats::{Spread, size_text};

/// Size above which blobs are never counted in whole requests, bytes.
const WHOLE_BLOB_BYTES_MAX: u64 = 16 << 20;

/// Extent of the measurement.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub(crate) connections: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) load: Load,
}

/// One blob size with one number of connections.
pub(crate) struct Cell {
    pub(crate) blob_bytes: u64,
    pub(crate) connections: usize,
    /// Samples by side, then by round.
    samples: Vec<Vec<Sample>>,
}

/// Result of a comparison.
pub(crate) struct Comparison {
    /// Name and configuration of each side.
    pub(crate) sides: Vec<(String, String)>,
    /// True if the first side is Piccolo, which is compared with all others.
    pub(crate) has_subject: bool,
    pub(crate) cells: Vec<Cell>,
}

/// Budgets of a row, as ratios of the medians of the rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// Least rate, divided by the default's.
    pub(crate) over_default: Option<f64>,
    /// Least rate, divided by the best one's.
    pub(crate) over_best: Option<f64>,
    /// Most CPU for a GiB, divided by the best one's.
    pub(crate) cpu_over_best: Option<f64>,
}

/// Measures all cells. Sides take turns in each: A B C, B C A, C A B.
pub(crate) fn compare(
    grid: &Grid,
    client: &Network,
    sides: &[Side],
    has_subject: bool,
    blobs: &[Blob],
) -> Result<Comparison> {
    for side in sides {
        side.check(client, blobs)?;
    }
    let mut cells = Vec::new();
    for blob in blobs {
        for &connections in &grid.connections {
            // A window sees only a few of the largest blobs, but those flow evenly.
            let whole_bytes = grid.load.whole_bytes.filter(|_| blob.bytes <= WHOLE_BLOB_BYTES_MAX);
            let load = Load { connections, whole_bytes, ..grid.load };
            let mut samples = vec![Vec::with_capacity(grid.rounds); sides.len()];
            for round in 0..grid.rounds {
                for turn in 0..sides.len() {
                    let index = (turn + round) % sides.len();
                    samples[index].push(sample(load, client, &sides[index], blob)?);
                }
            }
            let cell = Cell { blob_bytes: blob.bytes, connections, samples };
            eprintln!("  {}: {}", cell.name(), cell.summary(sides));
            cells.push(cell);
        }
    }
    let sides = sides.iter().map(|side| (side.name.clone(), side.what.clone())).collect();
    Ok(Comparison { sides, has_subject, cells })
}

impl Cell {
    fn name(&self) -> String {
        format!("{} × {}", size_text(self.blob_bytes), self.connections)
    }

    fn summary(&self, sides: &[Side]) -> String {
        let one = |(index, side): (usize, &Side)| format!("{} {:.2}", side.name, self.rate(index).median);
        format!("GiB/s: {}", sides.iter().enumerate().map(one).collect::<Vec<_>>().join(", "))
    }

    fn spread(&self, side: usize, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples[side].iter().map(value))
    }

    pub(crate) fn rate(&self, side: usize) -> Spread {
        self.spread(side, |sample| sample.gib_per_second)
    }

    pub(crate) fn cpu(&self, side: usize) -> Spread {
        self.spread(side, |sample| sample.cpu_per_gib)
    }

    /// Ratio side ÷ other in each round.
    fn ratio(&self, side: usize, other: usize, value: impl Fn(&Sample) -> f64) -> Spread {
        let pairs = self.samples[side].iter().zip(&self.samples[other]);
        Spread::of(pairs.map(|(a, b)| value(a) / value(b).max(1e-9)))
    }

    /// The side with the highest median rate among `sides`.
    pub(crate) fn best(&self, sides: std::ops::Range<usize>) -> usize {
        sides
            .max_by(|a, b| self.rate(*a).median.total_cmp(&self.rate(*b).median))
            .expect("there is a side to compare with")
    }

    fn row(&self, comparison: &Comparison, budget: Budget) -> String {
        let (default, best) = (1, self.best(1..comparison.sides.len()));
        let over_default = self.ratio(0, default, |sample| sample.gib_per_second);
        let over_best = self.ratio(0, best, |sample| sample.gib_per_second);
        let cpu_over_best = self.ratio(0, best, |sample| sample.cpu_per_gib);
        let misses = [
            budget.over_default.is_some_and(|least| over_default.median < least),
            budget.over_best.is_some_and(|least| over_best.median < least),
            budget.cpu_over_best.is_some_and(|most| cpu_over_best.median > most),
        ];
        let mark = |ratio: Spread, missed: bool| {
            if missed { format!("**{ratio:.2}**") } else { format!("{ratio:.2}") }
        };
        format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} ({}) | {} | {} | {:.2} | {:.2} | {} | {:.0} % | {:.0} % |\n",
            size_text(self.blob_bytes),
            self.connections,
            self.rate(0).median,
            self.rate(default).median,
            self.rate(best).median,
            comparison.sides[best].0,
            mark(over_default, misses[0]),
            mark(over_best, misses[1]),
            self.cpu(0).median,
            self.cpu(best).median,
            mark(cpu_over_best, misses[2]),
            self.spread(0, |sample| sample.idle * 100.0).median,
            self.spread(0, |sample| sample.others * 100.0).median,
        )
    }
}

impl Comparison {
    /// Table of Piccolo beside the default and the best side, with a row for each cell; a missed budget is
    /// bold.
    pub(crate) fn table(&self, budget: impl Fn(&Cell) -> Budget) -> String {
        if !self.has_subject {
            return "Piccolo did not take part in this run.\n".to_owned();
        }
        let default = &self.sides[1].0;
        let mut text = format!(
            "Rates in GiB/s, CPU in seconds of the serving processes for a GiB, medians; ratios are taken round by \
             round: median (lowest–highest). **Bold: budget missed.** Best: the highest median in that row.\n\n\
             | blob | connections | Piccolo | {default} | best | × default | × best | Piccolo CPU | best's CPU | \
             CPU × best | idle | others |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for cell in &self.cells {
            text.push_str(&cell.row(self, budget(cell)));
        }
        text
    }

    /// Table of rate and CPU of every side in every cell.
    pub(crate) fn all_sides(&self) -> String {
        let mut text = "All sides: median GiB/s, and CPU seconds for a GiB in brackets.\n\n| |".to_owned();
        self.cells.iter().for_each(|cell| text.push_str(&format!(" {} |", cell.name())));
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(self.cells.len())));
        for (index, (name, _)) in self.sides.iter().enumerate() {
            text.push_str(&format!("| {name} |"));
            for cell in &self.cells {
                text.push_str(&format!(" {:.2} [{:.2}] |", cell.rate(index).median, cell.cpu(index).median));
            }
            text.push('\n');
        }
        let samples = self.cells.iter().flat_map(|cell| cell.samples.iter().flatten());
        let idle = Spread::of(samples.clone().map(|sample| sample.idle * 100.0));
        let others = Spread::of(samples.map(|sample| sample.others * 100.0));
        text.push_str(&format!(
            "\nOver all samples: idle {idle:.0} %, others {others:.0} %.\n\nConfigurations:\n\n"
        ));
        for (name, what) in &self.sides {
            text.push_str(&format!(
                "- {name}: `{}`\n",
                what.split_whitespace().collect::<Vec<_>>().join(" ")
            ));
        }
        text
    }
}
