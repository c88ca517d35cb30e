//! Tables of the results.

use super::Sample;
use super::questions::{Class, Form};
use super::sides::Filled;
use crate::fleet::Fleet;
use crate::stats::Spread;

/// Budget of the design, section 11: least rate, divided by that of the constant answer.
const OVER_CONSTANT_MIN: f64 = 0.9;
const P99_ALL_OVER_FEW_MAX: f64 = 1.5;
const OVER_MARIADB_MIX_MIN: f64 = 30.0;
const OVER_MARIADB_ALL_MIN: f64 = 60.0;
/// Indices of the sides in a cell.
pub(super) const PICCOLO: usize = 0;
pub(super) const CONSTANT: usize = 1;
pub(super) const MARIADB: usize = 2;

/// All rounds of one question.
pub(super) struct Cell {
    pub(super) class: Class,
    pub(super) form: Form,
    /// Name and samples by round of each side.
    pub(super) sides: Vec<(&'static str, Vec<Sample>)>,
}

/// Result of the whole run.
pub(super) struct Outcome {
    pub(super) fleet: Fleet,
    pub(super) askers: usize,
    pub(super) cells: Vec<Cell>,
    pub(super) resident_mib: Vec<(&'static str, f64)>,
    pub(super) filled: Filled,
    /// Configuration of MariaDB, if it took part.
    pub(super) mariadb: Option<String>,
}

impl Cell {
    pub(super) fn spread(&self, side: usize, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.sides[side].1.iter().map(value))
    }

    /// Spread of the ratio in each round.
    fn ratio(&self, side: usize, (other, to): (&Self, usize), value: impl Fn(&Sample) -> f64) -> Spread {
        let pairs = self.sides[side].1.iter().zip(&other.sides[to].1);
        Spread::of(pairs.map(|(a, b)| value(a) / value(b).max(1e-9)))
    }

    pub(super) fn summary(&self) -> String {
        let one = |(index, (name, _)): (usize, &(&str, _))| {
            let rate = self.spread(index, Sample::rate).median;
            let p99 = self.spread(index, |sample| sample.seen.p99_ms).median;
            format!("{name} {rate:.0}/s p99 {p99:.2} ms")
        };
        let sides: Vec<String> = self.sides.iter().enumerate().map(one).collect();
        format!("{}, {}: {}", self.class.name(), self.form.name(), sides.join(", "))
    }
}

/// Text of a cell, which is bold if the budget is missed.
fn marked(ratio: Spread, good: impl Fn(f64) -> bool) -> String {
    let digits = if ratio.median < 10.0 { 2 } else { 0 };
    if good(ratio.median) { format!("{ratio:.digits$}") } else { format!("**{ratio:.digits$}**") }
}

impl Outcome {
    pub(super) fn cell(&self, class: &Class, form: Form) -> &Cell {
        let found = self.cells.iter().find(|cell| cell.class == *class && cell.form == form);
        found.expect("every class is asked in both forms")
    }

    /// Cells in the form of our agents, by class.
    pub(super) fn native(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.form == Form::Native)
    }

    /// Table of the ratios with budgets.
    pub(super) fn ratios(&self) -> String {
        let Fleet { hosts, keys_per_host, distinct_keys, .. } = self.fleet;
        let mut text = format!(
            "{} pairs: {hosts} hosts × {keys_per_host} keys, {distinct_keys} distinct keys. {} connections, each with \
             one request under way; generator and servers share the machine. Ratios are taken round by round: \
             median (lowest–highest). **Bold: budget missed.**\n\n",
            self.fleet.pairs(),
            self.askers
        );
        text.push_str(&self.beside_constant());
        if self.mariadb.is_some() {
            text.push_str(&self.beside_mariadb());
        }
        text.push_str(&self.tail());
        text
    }

    fn beside_constant(&self) -> String {
        let mut text = format!(
            "Piccolo ÷ a constant answer of the same size (budget: rate ≥ {OVER_CONSTANT_MIN}):\n\n\
             | keys | rate, our agent's query | CPU a request | rate, the Go agent's query | CPU a request |\n\
             |---|---|---|---|---|\n"
        );
        for native in self.native() {
            let go = self.cell(&native.class, Form::Go);
            let rate = |cell: &Cell| cell.ratio(PICCOLO, (cell, CONSTANT), Sample::rate);
            let cpu = |cell: &Cell| cell.ratio(PICCOLO, (cell, CONSTANT), |sample| sample.cpu_us);
            text.push_str(&format!(
                "| {} | {} | {:.2} | {} | {:.2} |\n",
                native.class.name(),
                marked(rate(native), |ratio| ratio >= OVER_CONSTANT_MIN),
                cpu(native),
                marked(rate(go), |ratio| ratio >= OVER_CONSTANT_MIN),
                cpu(go),
            ));
        }
        text
    }

    fn beside_mariadb(&self) -> String {
        let mut text = format!(
            "\nPiccolo ÷ MariaDB with the Go agent's query (budget: rate ≥ {OVER_MARIADB_MIX_MIN} for the mix, ≥ \
             {OVER_MARIADB_ALL_MIN} for keys that all hold), and MariaDB ÷ Piccolo for CPU:\n\n\
             | keys | rate, each its own agent's query | CPU a request | rate, the same query | CPU a request |\n\
             |---|---|---|---|---|\n"
        );
        for native in self.native() {
            let go = self.cell(&native.class, Form::Go);
            let least = match native.class {
                Class::All(_) => OVER_MARIADB_ALL_MIN,
                Class::Mix => OVER_MARIADB_MIX_MIN,
                Class::Holders(_) => 0.0,
            };
            let rate = |cell: &Cell| cell.ratio(PICCOLO, (go, MARIADB), Sample::rate);
            let cpu = |cell: &Cell| go.ratio(MARIADB, (cell, PICCOLO), |sample| sample.cpu_us);
            text.push_str(&format!(
                "| {} | {} | {:.0} | {} | {:.0} |\n",
                native.class.name(),
                marked(rate(native), |ratio| ratio >= least),
                cpu(native),
                marked(rate(go), |ratio| ratio >= least),
                cpu(go),
            ));
        }
        text
    }

    fn tail(&self) -> String {
        let few = self.native().next().expect("there is a class");
        let all = self.cell(&Class::All(self.fleet.hosts), Form::Native);
        let ratio = all.ratio(PICCOLO, (few, PICCOLO), |sample| sample.seen.p99_ms);
        format!(
            "\nPiccolo's p99 at {} ÷ p99 at {}: {} (budget: ≤ {P99_ALL_OVER_FEW_MAX}).\n",
            all.class.name(),
            few.class.name(),
            marked(ratio, |ratio| ratio <= P99_ALL_OVER_FEW_MAX)
        )
    }

    /// Table of every side at every question.
    pub(super) fn all_sides(&self) -> String {
        let mut text = "All sides, medians (lowest–highest):\n\n\
            | keys | query | side | lookups/s | p50 ms | p99 ms | CPU µs a request | of that mariadbd | bytes | idle | others |\n\
            |---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for cell in &self.cells {
            for (index, (name, _)) in cell.sides.iter().enumerate() {
                let spread = |value: fn(&Sample) -> f64| cell.spread(index, value);
                let behind = spread(|sample| sample.behind_us);
                text.push_str(&format!(
                    "| {} | {} | {name} | {:.0} | {:.2} | {:.2} | {:.1} | {} | {:.0} | {:.0} % | {:.0} % |\n",
                    cell.class.name(),
                    cell.form.name(),
                    spread(Sample::rate),
                    spread(|sample| sample.seen.p50_ms).median,
                    spread(|sample| sample.seen.p99_ms),
                    spread(|sample| sample.cpu_us),
                    if index == MARIADB { format!("{:.1}", behind.median) } else { String::new() },
                    spread(|sample| sample.seen.body_bytes).median,
                    spread(|sample| sample.idle * 100.0).median,
                    spread(|sample| sample.others * 100.0).median,
                ));
            }
        }
        text.push_str("\nResident memory after it: ");
        let memory = self.resident_mib.iter().map(|(name, mib)| format!("{name} {mib:.0} MiB"));
        text.push_str(&memory.collect::<Vec<_>>().join(", "));
        let Filled { pairs, seconds } = self.filled;
        text.push_str(&format!(
            ". The fleet had registered with Piccolo (one server) in {seconds:.1} s, {:.0} pairs/s.\n",
            pairs as f64 / seconds
        ));
        text.push_str(&self.configurations());
        text
    }

    fn configurations(&self) -> String {
        let mut text = "\nQueries: *native* is our agent's (`ip:port`, 16 holders), *Go* the Go `pi`'s (bare address, \
            3 holders).\n\nConfigurations:\n\n\
            - Piccolo: `piccolo server`, a cluster of one; every host has sent its zone\n\
            - constant: the product's accept loop and router, one route, a fixed body of the average length of \
            Piccolo's answers\n"
            .to_owned();
        if let Some(mariadb) = &self.mariadb {
            text.push_str(&format!(
                "- MariaDB: the Go Piccolo's schema, query (`LIMIT 2000`, then sorted by common prefix) and JSON, on \
                 the product's accept loop; 100 pooled connections over a unix socket, statements prepared once \
                 (gorm prepares each time, which costs MariaDB more); {mariadb}\n"
            ));
        }
        text
    }
}
