//! Output for people: aligned tables, colours on a terminal only, errors with their causes.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use piccolo_raft::errors::chain;

use super::CliError;
use super::log_lines::LogLines;

/// Prints text on stdout. A closed pipe (`piccolo hosts | head`) is not an error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Process { action: "write to stdout", source: error })
        }
        _ => Ok(()),
    }
}

/// Prints an error with all its causes on stderr.
pub(super) fn complain(error: &dyn Error) {
    let _ = writeln!(io::stderr().lock(), "piccolo: {}", chain(error));
}

/// Prints an error on stderr, or drops it where that would have to wait for whoever reads stderr.
pub(super) fn complain_or_drop(error: &dyn Error) {
    let _ = LogLines.write_all(format!("piccolo: {}\n", chain(error)).as_bytes());
}

/// Colours, if stdout is a terminal and `NO_COLOR` (no-color.org) does not forbid them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours if stdout takes them.
    pub(super) fn stdout() -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: io::stdout().is_terminal() && !forbidden }
    }

    /// No colours.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { on: false }
    }

    /// Marks text as good.
    pub(super) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Marks text as bad.
    pub(super) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Marks text as a heading.
    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// "silent for …", shown behind the role of a member that does not answer the leader; empty for the others.
pub(super) fn silence(answers: Option<bool>, answered_ms_ago: Option<u64>) -> String {
    match (answers, answered_ms_ago) {
        (Some(false), Some(ms)) => format!(", silent for {} s", ms / 1000),
        (Some(false), None) => ", silent".to_owned(),
        _ => String::new(),
    }
}

/// Formats a table: columns as wide as their cells, two spaces apart, numbers aligned to the right.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>], paint: Paint) -> String {
    let cells = |column: usize| rows.iter().map(move |row| row[column].as_str());
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            cells(column).map(|cell| cell.chars().count()).fold(heading[column].chars().count(), usize::max)
        })
        .collect();
    let is_number = |cell: &str| !cell.is_empty() && cell.bytes().all(|c| c.is_ascii_digit());
    let numeric: Vec<bool> = (0..heading.len())
        .map(|column| {
            cells(column).any(is_number) && cells(column).all(|cell| cell == "-" || is_number(cell))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(widths.iter().zip(&numeric))
            .map(
                |(cell, (&width, &right))| {
                    if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                },
            )
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut text = paint.bold(&line(&mut heading.iter().copied()));
    text.push('\n');
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let rows =
            [["10.0.0.1:7781", "a", "7"], ["x", "", "1200"]].map(|row| row.map(str::to_owned).to_vec());
        let text = table(&["HOLDER", "ZONE", "KEYS"], &rows, Paint { on: false });
        assert_eq!(
            text,
            "HOLDER         ZONE  KEYS\n\
             10.0.0.1:7781  a        7\n\
             x                    1200\n"
        );
    }

    #[test]
    fn colours_only_where_they_are_on() {
        assert_eq!(Paint { on: false }.bad("x"), "x");
        assert_eq!(Paint { on: true }.bad("x"), "\x1b[31mx\x1b[0m");
    }
}
