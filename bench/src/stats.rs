//! Medians and spreads.

use std::fmt;

/// Median, lowest and highest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// The spread of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[0], values[values.len() - 1]);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Self { median, low, high }
    }
}

/// `1.23 (1.10–1.31)`; the precision of the format applies to all three.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.low, self.high)
    }
}

/// A size as text, such as `512 MiB` or `100 KiB`.
pub(crate) fn size_text(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

/// Parses `512MiB`, `100KiB` or `1234`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.trim() {
        text if text.ends_with("KiB") => (text.trim_end_matches("KiB"), 10),
        text if text.ends_with("MiB") => (text.trim_end_matches("MiB"), 20),
        text => (text, 0),
    };
    let bytes = number.trim().parse::<u64>().ok().filter(|number| (1..1 << 30).contains(number));
    bytes
        .map(|number| number << shift)
        .ok_or_else(|| format!("{text:?} is not a size: expected 100KiB, 16MiB or bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Spread { median: 2.5, low: 1.0, high: 4.0 });
        assert_eq!(format!("{:.1}", Spread::of([2.0, 9.0, 1.0])), "2.0 (1.0–9.0)");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [("100KiB", 100 << 10), ("512MiB", 512 << 20), ("7", 7)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        assert_eq!((size_text(100 << 10), size_text(3 << 20)), ("100 KiB".to_owned(), "3 MiB".to_owned()));
        assert!(parse_size("0").is_err() && parse_size("many").is_err());
    }
}
