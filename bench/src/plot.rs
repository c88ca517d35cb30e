//! Grouped bars with whiskers as SVG: a panel for each blob size, a group for each connection count, a bar
//! for each side.
//!
//! Without a library: `plotters` has neither grouped bars nor a legend in columns, so that each rectangle
//! would still be placed here, and an SVG file needs none of its back-ends.

pub(crate) mod log_bars;

use std::fmt::Write as _;

use crate::compare::{Cell, Comparison};
use crate::stats::{Spread, size_text};

mod lines;

pub(crate) use lines::lines;

const PANEL_WIDTH: f64 = 260.0;
const PANEL_HEIGHT: f64 = 200.0;
const GAP: f64 = 60.0;
const TOP: f64 = 70.0;
const COLOURS: [&str; 3] = ["#d9480f", "#868e96", "#1971c2"];

/// One bar of a group.
struct Bar {
    value: Spread,
    /// Index of its series, which selects the colour.
    series: usize,
}

/// One group of bars and its label.
struct Group {
    label: String,
    bars: Vec<Bar>,
}

/// Draws the rates, or another `value` of each side in each cell.
pub(crate) fn plot(comparison: &Comparison, title: &str, value: impl Fn(&Cell, usize) -> Spread) -> String {
    let first = usize::from(!comparison.has_subject);
    let names = ["Piccolo", &comparison.sides[1 - first].0, "best other"];
    let mut panels: Vec<(String, Vec<Group>)> = Vec::new();
    for cell in &comparison.cells {
        let default = 1 - first;
        let best = cell.best(default..comparison.sides.len());
        let mut bars =
            vec![Bar { value: value(cell, default), series: 1 }, Bar { value: value(cell, best), series: 2 }];
        if comparison.has_subject {
            bars.insert(0, Bar { value: value(cell, 0), series: 0 });
        }
        let group = Group { label: format!("{} conn.", cell.connections), bars };
        let name = size_text(cell.blob_bytes);
        match panels.last_mut() {
            Some((last, groups)) if *last == name => groups.push(group),
            _ => panels.push((name, vec![group])),
        }
    }
    draw(title, &names[first..], first, &panels)
}

fn draw(title: &str, names: &[&str], first: usize, panels: &[(String, Vec<Group>)]) -> String {
    let width = GAP + panels.len() as f64 * (PANEL_WIDTH + GAP);
    let height = TOP + PANEL_HEIGHT + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{GAP}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    );
    for (position, name) in names.iter().enumerate() {
        let x = GAP + 180.0 * position as f64;
        let colour = COLOURS[position + first];
        writeln!(svg, "<rect x=\"{x}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/>")
            .expect("a string");
        text(&mut svg, x + 18.0, 42.0, "start", name);
    }
    for (position, (name, groups)) in panels.iter().enumerate() {
        panel(&mut svg, GAP + position as f64 * (PANEL_WIDTH + GAP), name, groups);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, name: &str, groups: &[Group]) {
    let highest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.value.high).fold(0.0, f64::max);
    let step = tick_step(highest);
    let top_value = (highest / step).ceil().max(1.0) * step;
    let bottom = TOP + PANEL_HEIGHT;
    let y = |value: f64| bottom - value / top_value * PANEL_HEIGHT;
    text(svg, left + PANEL_WIDTH / 2.0, TOP - 8.0, "middle", name);
    let mut tick = 0.0;
    while tick <= top_value + step / 2.0 {
        let at = y(tick);
        line(svg, (left, at), (left + PANEL_WIDTH, at), "#dee2e6");
        text(svg, left - 6.0, at + 4.0, "end", &format!("{:.1$}", tick, usize::from(step < 1.0) * 2));
        tick += step;
    }
    let group_width = PANEL_WIDTH / groups.len() as f64;
    for (number, group) in groups.iter().enumerate() {
        let start = left + number as f64 * group_width;
        let bar_width = group_width * 0.8 / group.bars.len() as f64;
        for (index, bar) in group.bars.iter().enumerate() {
            let x = start + group_width * 0.1 + index as f64 * bar_width;
            let (at, colour) = (y(bar.value.median), COLOURS[bar.series]);
            writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{at:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
                 <title>{:.2}</title></rect>",
                bar_width - 2.0,
                bottom - at,
                bar.value
            )
            .expect("a string");
            let middle = x + bar_width / 2.0 - 1.0;
            line(svg, (middle, y(bar.value.low)), (middle, y(bar.value.high)), "#212529");
        }
        text(svg, start + group_width / 2.0, bottom + 18.0, "middle", &group.label);
    }
}

/// 1, 2 or 5 times a power of ten, so that there are four to ten ticks.
fn tick_step(highest: f64) -> f64 {
    let power = 10f64.powf((highest.max(1e-6) / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    steps.into_iter().rev().find(|step| highest / step >= 4.0).unwrap_or(power)
}

pub(crate) fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>")
        .expect("a string takes everything");
}

pub(crate) fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escape(words);
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
        .expect("a string takes everything");
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (highest, step) in [(4.0, 1.0), (7.9, 1.0), (8.0, 2.0), (23.0, 5.0), (0.9, 0.2)] {
            assert!((tick_step(highest) - step).abs() < 1e-9, "{highest}: {}", tick_step(highest));
        }
    }

    #[test]
    fn a_bar_is_as_high_as_its_value() {
        let bar = |median| Bar { value: Spread { median, low: median, high: median }, series: 0 };
        let group = Group { label: "a < b".to_owned(), bars: vec![bar(4.0), bar(2.0)] };
        let svg = draw("t", &["one"], 0, &[("p".to_owned(), vec![group])]);
        assert!(
            svg.contains("height=\"200.0\" fill=\"#d9480f\"") && svg.contains("height=\"100.0\""),
            "{svg}"
        );
        assert!(svg.contains("a &lt; b"));
    }
}
