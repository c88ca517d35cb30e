//! Bars on a logarithmic scale: the sides are orders of magnitude apart.

use std::fmt::Write as _;

use super::Sample;
use super::questions::Form;
use super::table::{CONSTANT, Cell, MARIADB, Outcome, PICCOLO};
use crate::plot::{escape, line, text};
use crate::stats::Spread;

const LEFT: f64 = 70.0;
const TOP: f64 = 90.0;
const GROUP_WIDTH: f64 = 190.0;
const HEIGHT: f64 = 260.0;
const BOTTOM: f64 = TOP + HEIGHT;
/// Which bars a class has: form, side, name, colour.
const BARS: [(Form, usize, &str, &str); 5] = [
    (Form::Native, CONSTANT, "constant answer, native query's size", "#868e96"),
    (Form::Native, PICCOLO, "Piccolo, native query", "#d9480f"),
    (Form::Go, CONSTANT, "constant answer, Go query's size", "#ced4da"),
    (Form::Go, PICCOLO, "Piccolo, Go query", "#f59f00"),
    (Form::Go, MARIADB, "MariaDB, Go query", "#1971c2"),
];

/// Lookups a second.
pub(super) fn rates(outcome: &Outcome) -> String {
    draw(outcome, "Lookups a second", Sample::rate)
}

/// The slowest of a hundred.
pub(super) fn tails(outcome: &Outcome) -> String {
    draw(outcome, "99th percentile, ms", |sample| sample.seen.p99_ms)
}

fn draw(outcome: &Outcome, what: &str, value: impl Fn(&Sample) -> f64) -> String {
    let bars: Vec<_> = BARS.iter().filter(|bar| bar.1 != MARIADB || outcome.mariadb.is_some()).collect();
    let classes = || outcome.cells.iter().filter(|cell| cell.form == Form::Native);
    let spread = |class: &Cell, &&(form, side, ..): &&(Form, usize, &str, &str)| {
        let found = outcome.cells.iter().find(|cell| cell.class == class.class && cell.form == form);
        found.map(|cell| cell.spread(side, &value))
    };
    let all: Vec<Spread> =
        classes().flat_map(|class| bars.iter().filter_map(move |bar| spread(class, bar))).collect();
    let scale = Scale::over(&all);
    let width = LEFT + GROUP_WIDTH * classes().count() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {0}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{1}</text>\n",
        BOTTOM + 40.0,
        escape(&format!("{what}, {} pairs, {} connections", outcome.fleet.pairs(), outcome.askers)),
    );
    for (place, (_, _, name, colour)) in bars.iter().enumerate() {
        let (x, y) = (LEFT + 250.0 * (place % 3) as f64, 34.0 + 18.0 * (place / 3) as f64);
        writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>")
            .expect("a string takes everything");
        text(&mut svg, x + 18.0, y + 10.0, "start", name);
    }
    for decade in scale.low..=scale.high {
        let tick = 10f64.powi(decade);
        let y = scale.y(tick);
        line(&mut svg, (LEFT, y), (width - 30.0, y), "#dee2e6");
        text(&mut svg, LEFT - 6.0, y + 4.0, "end", &format!("{tick}"));
    }
    for (number, class) in classes().enumerate() {
        let left = LEFT + GROUP_WIDTH * number as f64;
        let bar_width = GROUP_WIDTH * 0.85 / bars.len() as f64;
        for (place, bar) in bars.iter().enumerate() {
            if let Some(value) = spread(class, bar) {
                draw_bar(
                    &mut svg,
                    left + 10.0 + bar_width * place as f64,
                    bar_width - 2.0,
                    value,
                    &scale,
                    bar.3,
                );
            }
        }
        text(&mut svg, left + GROUP_WIDTH / 2.0, BOTTOM + 20.0, "middle", &class.class.name());
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_bar(svg: &mut String, x: f64, width: f64, value: Spread, scale: &Scale, colour: &str) {
    let y = scale.y(value.median);
    writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
         <title>{value:.2}</title></rect>",
        BOTTOM - y
    )
    .expect("a string takes everything");
    let middle = x + width / 2.0;
    line(svg, (middle, scale.y(value.low)), (middle, scale.y(value.high)), "#212529");
    let digits = usize::from(value.median < 10.0) * 2;
    text(svg, middle, y - 4.0, "middle", &format!("{:.digits$}", value.median));
}

/// Powers of ten at both ends.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn over(values: &[Spread]) -> Self {
        let lowest = values.iter().map(|value| value.low).fold(f64::INFINITY, f64::min).max(1e-3);
        let highest = values.iter().map(|value| value.high).fold(0.0, f64::max).max(2e-3);
        let low = lowest.log10().floor() as i32;
        Self { low, high: (highest.log10().ceil() as i32).max(low + 1) }
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        BOTTOM - share.clamp(0.0, 1.0) * HEIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_begins_and_ends_at_powers_of_ten() {
        let spread = |low, high| Spread { median: low, low, high };
        let scale = Scale::over(&[spread(750.0, 800.0), spread(40_000.0, 60_000.0)]);
        assert_eq!((scale.low, scale.high), (2, 5));
        assert_eq!((scale.y(100.0), scale.y(100_000.0)), (BOTTOM, TOP));
        assert!(Scale::over(&[spread(1.0, 1.0)]).high > 0);
    }
}
