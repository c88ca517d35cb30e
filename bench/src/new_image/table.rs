//! The measured sides of one image as markdown and as a plot.

use anyhow::{Context, Result};

use super::plan::Plan;
use super::side::{Outcome, Side};
use crate::plot::lines;

/// Share of idle CPUs below which the machine, and not a link, may have decided the times.
const IDLE_ENOUGH: f64 = 0.3;

/// What stands above all tables.
pub(super) const INTRODUCTION: &str = "\
    Each node is a network namespace with a containerd 1.6 of its own, content in memory, an agent, and a link that `tc \
    tbf` limits in both directions; registry and discovery servers have namespaces too. All nodes start in the same \
    second; three layers at a time, nothing is unpacked. Servers and agents are new for every side. Bytes are counted \
    at the registry's link, headers included. × *undisturbed*: times one pull of one node alone, straight from the \
    registry; for the rows with one holder, one pull of one node alone from that holder. *In a row*: most nodes \
    between a node and the first one, *copies*: most often that nodes were told to fetch one blob, both as the server \
    lists them each 200 ms.\n\n";

/// The sides of one image with one number of nodes.
pub(super) struct Table<'a> {
    plan: &'a Plan,
    image: String,
    image_bytes: u64,
    rows: Vec<(Side, Outcome)>,
}

impl<'a> Table<'a> {
    pub(super) fn new(plan: &'a Plan, image: &str, image_bytes: u64) -> Self {
        Self { plan, image: image.to_owned(), image_bytes, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, side: Side, outcome: Outcome) {
        self.rows.push((side, outcome));
        self.rows.sort_by_key(|(side, _)| side.has_holder());
    }

    /// Fails without the undisturbed pulls.
    pub(super) fn markdown(&self) -> Result<String> {
        let mut text = format!(
            "### {}, image of {}\n\nAlone, a node reaches {:.0} Mbit/s from the registry and {:.0} Mbit/s from another node.\n\n\
             | | from the registry, × the image | last node, × undisturbed | nodes done after, s | CPU idle | others | \
             in a row | copies | budget |\n|---|---|---|---|---|---|---|---|---|\n",
            self.plan.name(),
            self.image,
            self.mbit(Side::Single)?,
            self.mbit(Side::Transfer)?,
        );
        for (side, outcome) in &self.rows {
            text.push_str(&self.row(*side, outcome)?);
        }
        text.push('\n');
        Ok(text)
    }

    /// Nodes that are done, by time.
    pub(super) fn plot(&self) -> String {
        let all = self.rows.iter().filter(|(side, _)| side.pullers(self.plan.nodes).len() > 1);
        let series: Vec<(&str, Vec<(f64, f64)>)> =
            all.map(|(side, outcome)| (side.short_name(), steps(&outcome.done))).collect();
        let title = format!("{}, image of {}", self.plan.name(), self.image);
        lines(&title, "seconds since all nodes began", "nodes that are done", &series)
    }

    fn row(&self, side: Side, outcome: &Outcome) -> Result<String> {
        let registry = outcome.registry_bytes as f64 / self.image_bytes as f64;
        let last = outcome.last() / self.outcome(side.reference())?.last();
        let done: Vec<String> = outcome.done.iter().map(|seconds| format!("{seconds:.1}")).collect();
        let seen = outcome.seen.map_or(["–".to_owned(), "–".to_owned()], |seen| {
            [seen.depth.to_string(), seen.copies.to_string()]
        });
        Ok(format!(
            "| {} | {registry:.2} | {last:.2} | {} | {} | {:.0} % | {} | {} | {} |\n",
            side.name(self.plan),
            done.join(" "),
            idle(outcome.idle),
            outcome.others * 100.0,
            seen[0],
            seen[1],
            self.verdict(side, registry, last)
        ))
    }

    fn verdict(&self, side: Side, registry: f64, last: f64) -> String {
        let Some(budget) = side.budget(self.plan.nodes) else { return "–".to_owned() };
        let one = |value: f64, most: f64| if value <= most { "met" } else { "**missed**" };
        format!(
            "registry ≤ {}: {}; last ≤ {}: {}",
            budget.registry,
            one(registry, budget.registry),
            budget.last,
            one(last, budget.last)
        )
    }

    /// Rate of a side with one node, in bytes of the image.
    fn mbit(&self, side: Side) -> Result<f64> {
        Ok(self.image_bytes as f64 * 8.0 / 1e6 / self.outcome(side)?.last())
    }

    fn outcome(&self, wanted: Side) -> Result<&Outcome> {
        let found = self.rows.iter().find(|(side, _)| *side == wanted);
        found.map(|(_, outcome)| outcome).with_context(|| format!("{wanted:?} was not measured"))
    }
}

fn idle(share: f64) -> String {
    let percent = share * 100.0;
    if share < IDLE_ENOUGH { format!("**{percent:.0} %: too busy**") } else { format!("{percent:.0} %") }
}

/// One step up at each of the sorted times.
fn steps(done: &[f64]) -> Vec<(f64, f64)> {
    let mut points = vec![(0.0, 0.0)];
    for (number, seconds) in done.iter().enumerate() {
        points.extend([(*seconds, number as f64), (*seconds, number as f64 + 1.0)]);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::super::side::{Flights, Seen};
    use super::*;

    fn outcome(done: &[f64], registry_mib: f64, idle: f64) -> Outcome {
        let registry_bytes = (registry_mib * 1_048_576.0) as u64;
        Outcome {
            done: done.to_vec(),
            registry_bytes,
            idle,
            others: 0.04,
            seen: Some(Seen { depth: 2, copies: 1 }),
        }
    }

    #[test]
    fn each_row_is_compared_with_its_own_undisturbed_pull_and_its_budget() {
        let plan = Plan::of(4, 80.0, 160.0);
        let mut table = Table::new(&plan, "one layer", 100 << 20);
        table.add(Side::Single, outcome(&[10.0], 100.0, 0.9));
        table.add(Side::Transfer, outcome(&[5.0], 0.0, 0.9));
        table.add(Side::OneHolder(Flights::On), outcome(&[6.0, 6.5, 7.0], 0.5, 0.2));
        table.add(Side::New(Flights::On), outcome(&[10.0, 10.5, 11.0, 11.4], 106.0, 0.5));
        let text = table.markdown().unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("flights on")).collect();
        assert_eq!(
            rows,
            [
                "| 4 nodes, new image, flights on | 1.06 | 1.14 | 10.0 10.5 11.0 11.4 | 50 % | 4 % | 2 | 1 | registry ≤ \
                 1.05: **missed**; last ≤ 1.15: met |",
                "| 3 nodes, from one holder, flights on | 0.01 | 1.40 | 6.0 6.5 7.0 | **20 %: too busy** | 4 % | 2 | 1 | \
                 registry ≤ 0.01: met; last ≤ 1.3: **missed** |",
            ]
        );
        assert!(text.contains("84 Mbit/s from the registry and 168 Mbit/s from another"), "{text}");
    }

    #[test]
    fn a_table_without_an_undisturbed_pull_is_refused() {
        let plan = Plan::of(4, 80.0, 160.0);
        let mut table = Table::new(&plan, "one layer", 1 << 20);
        table.add(Side::New(Flights::On), outcome(&[1.0], 1.0, 0.9));
        assert!(table.markdown().is_err());
    }
}
