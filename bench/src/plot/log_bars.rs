//! Bars on a logarithmic scale, for sides that differ by orders of magnitude.

use std::fmt::Write as _;

use super::{escape, line, text};
use crate::stats::Spread;

const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const HEIGHT: f64 = 260.0;
const BAR_WIDTH: f64 = 34.0;
const GROUP_GAP: f64 = 30.0;
const LEGEND_COLUMNS: usize = 3;
const LEGEND_WIDTH: f64 = 250.0;
const LEGEND_LINE: f64 = 18.0;

/// Meaning and colour of one bar in each group.
pub(crate) type Series = (&'static str, &'static str);

/// Label of a group, with a value for each series.
pub(crate) type Group = (String, Vec<Spread>);

/// Draws all groups beside each other.
pub(crate) fn draw(title: &str, series: &[Series], groups: &[Group]) -> String {
    let top = 60.0 + LEGEND_LINE * series.len().div_ceil(LEGEND_COLUMNS) as f64;
    let scale = Scale::over(groups.iter().flat_map(|(_, bars)| bars), top + HEIGHT);
    let group_width = BAR_WIDTH * series.len() as f64 + GROUP_GAP;
    let legend = LEGEND_WIDTH * series.len().min(LEGEND_COLUMNS) as f64;
    let width = LEFT + RIGHT + legend.max(group_width * groups.len() as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {0}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{1}</text>\n",
        scale.bottom + 40.0,
        escape(title),
    );
    for (place, (name, colour)) in series.iter().enumerate() {
        let x = LEFT + LEGEND_WIDTH * (place % LEGEND_COLUMNS) as f64;
        let y = 34.0 + LEGEND_LINE * (place / LEGEND_COLUMNS) as f64;
        writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>")
            .expect("a string takes everything");
        text(&mut svg, x + 18.0, y + 10.0, "start", name);
    }
    for decade in scale.low..=scale.high {
        let tick = 10f64.powi(decade);
        let y = scale.y(tick);
        line(&mut svg, (LEFT, y), (width - RIGHT, y), "#dee2e6");
        text(&mut svg, LEFT - 6.0, y + 4.0, "end", &format!("{tick}"));
    }
    for (number, (label, bars)) in groups.iter().enumerate() {
        let left = LEFT + group_width * number as f64 + GROUP_GAP / 2.0;
        for (place, (value, (_, colour))) in bars.iter().zip(series).enumerate() {
            draw_bar(&mut svg, left + BAR_WIDTH * place as f64, *value, &scale, colour);
        }
        let middle = left + BAR_WIDTH * series.len() as f64 / 2.0;
        text(&mut svg, middle, scale.bottom + 20.0, "middle", label);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_bar(svg: &mut String, x: f64, value: Spread, scale: &Scale, colour: &str) {
    let y = scale.y(value.median);
    writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
         <title>{value:.2}</title></rect>",
        BAR_WIDTH - 3.0,
        scale.bottom - y
    )
    .expect("a string takes everything");
    let middle = x + (BAR_WIDTH - 3.0) / 2.0;
    line(svg, (middle, scale.y(value.low)), (middle, scale.y(value.high)), "#212529");
    text(svg, middle, scale.y(value.high) - 4.0, "middle", &short(value.median));
}

/// Formats a value with few characters, for the width of a bar.
fn short(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 10_000.0 => format!("{value:.0}"),
        _ if value < 1e6 => format!("{:.0}k", value / 1e3),
        _ => format!("{:.1}M", value / 1e6),
    }
}

/// Scale between two powers of ten.
struct Scale {
    low: i32,
    high: i32,
    bottom: f64,
}

impl Scale {
    fn over<'a>(values: impl Iterator<Item = &'a Spread> + Clone, bottom: f64) -> Self {
        let lowest = values.clone().map(|value| value.low).fold(f64::INFINITY, f64::min).max(1e-3);
        let highest = values.map(|value| value.high).fold(0.0, f64::max).max(2e-3);
        let low = lowest.log10().floor() as i32;
        Self { low, high: (highest.log10().ceil() as i32).max(low + 1), bottom }
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.bottom - share.clamp(0.0, 1.0) * HEIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(low: f64, high: f64) -> Spread {
        Spread { median: low, low, high }
    }

    #[test]
    fn the_scale_begins_and_ends_at_powers_of_ten() {
        let scale = Scale::over([spread(750.0, 800.0), spread(40_000.0, 60_000.0)].iter(), 300.0);
        assert_eq!((scale.low, scale.high), (2, 5));
        assert_eq!((scale.y(100.0), scale.y(100_000.0)), (300.0, 300.0 - HEIGHT));
        assert!(Scale::over([spread(1.0, 1.0)].iter(), 300.0).high > 0);
    }

    #[test]
    fn every_group_has_its_bars_and_its_label() {
        let groups = [("a".to_owned(), vec![spread(1.0, 2.0)]), ("b < c".to_owned(), vec![spread(3.0, 4.0)])];
        let svg = draw("t", &[("one", "#123456")], &groups);
        assert_eq!(svg.matches("fill=\"#123456\"").count(), 3, "the legend and two bars: {svg}");
        assert!(svg.contains("b &lt; c"));
    }
}
