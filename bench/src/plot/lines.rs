//! Lines over one pair of axes as SVG: a colour for each series, straight between its points.

use std::fmt::Write as _;

use super::{escape, line, text, tick_step};

const LEFT: f64 = 90.0;
const TOP: f64 = 70.0;
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 280.0;
const COLOURS: [&str; 6] = ["#d9480f", "#1971c2", "#2f9e44", "#868e96", "#9c36b5", "#e8590c"];
/// Approximate width of a character in the legend.
const LEGEND_CHARACTER: f64 = 6.6;

/// Maps a value between zero and the last tick to pixels.
struct Axis {
    step: f64,
    end: f64,
    pixels: f64,
}

impl Axis {
    /// An axis from zero to the first tick at or after the highest value.
    fn over(values: impl Iterator<Item = f64>, pixels: f64) -> Self {
        let highest = values.fold(0.0, f64::max);
        let step = tick_step(highest);
        Self { step, end: (highest / step).ceil().max(1.0) * step, pixels }
    }

    fn at(&self, value: f64) -> f64 {
        value / self.end * self.pixels
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (0..=(self.end / self.step).round() as u32).map(|number| f64::from(number) * self.step)
    }

    /// Text of a tick, with enough decimals to distinguish two ticks.
    fn label(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

/// Draws the series with both axes from zero, in the order of their points.
pub(crate) fn lines(title: &str, x_label: &str, y_label: &str, series: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points);
    let x_axis = Axis::over(points().map(|(x, _)| *x), WIDTH);
    let y_axis = Axis::over(points().map(|(_, y)| *y), HEIGHT);
    let (width, height) = (LEFT + WIDTH + 30.0, TOP + HEIGHT + 60.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    );
    legend(&mut svg, series.iter().map(|(name, _)| *name));
    axes(&mut svg, &x_axis, &y_axis);
    let bottom = TOP + HEIGHT;
    text(&mut svg, LEFT + WIDTH / 2.0, bottom + 40.0, "middle", x_label);
    let middle = TOP + HEIGHT / 2.0;
    writeln!(
        svg,
        "<text transform=\"translate(18 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(y_label)
    )
    .expect("a string takes everything");
    for (number, (_, points)) in series.iter().enumerate() {
        let at = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", LEFT + x_axis.at(*x), bottom - y_axis.at(*y));
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>",
            COLOURS[number % COLOURS.len()],
            points.iter().map(at).collect::<Vec<_>>().join(" ")
        )
        .expect("a string takes everything");
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend<'a>(svg: &mut String, names: impl Iterator<Item = &'a str>) {
    let mut x = LEFT;
    for (number, name) in names.enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        writeln!(svg, "<rect x=\"{x:.1}\" y=\"36\" width=\"16\" height=\"4\" fill=\"{colour}\"/>")
            .expect("a string takes everything");
        text(svg, x + 22.0, 42.0, "start", name);
        x += 44.0 + LEGEND_CHARACTER * name.chars().count() as f64;
    }
}

fn axes(svg: &mut String, x_axis: &Axis, y_axis: &Axis) {
    let bottom = TOP + HEIGHT;
    for tick in y_axis.ticks() {
        let at = bottom - y_axis.at(tick);
        line(svg, (LEFT, at), (LEFT + WIDTH, at), "#dee2e6");
        text(svg, LEFT - 6.0, at + 4.0, "end", &y_axis.label(tick));
    }
    for tick in x_axis.ticks() {
        let at = LEFT + x_axis.at(tick);
        line(svg, (at, bottom), (at, bottom + 5.0), "#868e96");
        text(svg, at, bottom + 20.0, "middle", &x_axis.label(tick));
    }
    line(svg, (LEFT, bottom), (LEFT + WIDTH, bottom), "#868e96");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_their_values_say() {
        let svg = lines("a < b", "s", "calls", &[("one", vec![(0.0, 0.0), (10.0, 4.0), (20.0, 2.0)])]);
        assert!(svg.contains("points=\"90.0,350.0 470.0,70.0 850.0,210.0\""), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains(">one</text>"), "{svg}");
    }

    #[test]
    fn an_empty_plot_has_axes_and_no_infinite_number() {
        let svg = lines("t", "x", "y", &[("nothing", Vec::new()), ("zero", vec![(0.0, 0.0)])]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
    }

    #[test]
    fn ticks_below_one_keep_the_digits_that_tell_them_apart() {
        let axis = Axis::over([0.05].into_iter(), 100.0);
        assert_eq!(
            axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>()[..3],
            ["0.00", "0.01", "0.02"]
        );
    }
}
