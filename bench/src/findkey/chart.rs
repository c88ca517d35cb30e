//! Charts of rates and tail latencies of all sides, by class.

use super::Sample;
use super::questions::Form;
use super::table::{CONSTANT, MARIADB, Outcome, PICCOLO};
use crate::plot::log_bars::{Group, Series, draw as draw_bars};

/// Bars of each class.
const BARS: [(Form, usize, Series); 5] = [
    (Form::Native, CONSTANT, ("constant answer, native query's size", "#868e96")),
    (Form::Native, PICCOLO, ("Piccolo, native query", "#d9480f")),
    (Form::Go, CONSTANT, ("constant answer, Go query's size", "#ced4da")),
    (Form::Go, PICCOLO, ("Piccolo, Go query", "#f59f00")),
    (Form::Go, MARIADB, ("MariaDB, Go query", "#1971c2")),
];

/// Chart of lookups a second.
pub(super) fn rates(outcome: &Outcome) -> String {
    draw(outcome, "Lookups a second", Sample::rate)
}

/// Chart of the 99th percentile.
pub(super) fn tails(outcome: &Outcome) -> String {
    draw(outcome, "99th percentile, ms", |sample| sample.seen.p99_ms)
}

fn draw(outcome: &Outcome, what: &str, value: impl Fn(&Sample) -> f64) -> String {
    let bars: Vec<_> = BARS.iter().filter(|bar| bar.1 != MARIADB || outcome.mariadb.is_some()).collect();
    let group = |class| -> Group {
        let bar = |bar: &&(Form, usize, Series)| outcome.cell(class, bar.0).spread(bar.1, &value);
        (class.name(), bars.iter().map(bar).collect())
    };
    let groups: Vec<Group> = outcome.native().map(|cell| group(&cell.class)).collect();
    let series: Vec<Series> = bars.iter().map(|bar| bar.2).collect();
    draw_bars(
        &format!("{what}, {} pairs, {} connections", outcome.fleet.pairs(), outcome.askers),
        &series,
        &groups,
    )
}
