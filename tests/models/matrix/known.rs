//! Cells that the product cannot do yet, or not always. The table shrinks as the product improves.

use crate::containerd::Version;

/// How a row binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Fails every time; the test fails when it passes.
    Fails,
    /// Depends on which of several requests at once is first; either result is accepted.
    Races,
}

/// Client, fault, place, who else, size: `*` stands for all, `a/b` for either.
type Row = (Known, [&'static str; 5], &'static str);

const FAILING: &[Row] = &[];

/// The row that covers a cell.
pub fn known(columns: &[String; 5]) -> Option<Known> {
    let fits = |pattern: &str, column: &str| pattern == "*" || pattern.split('/').any(|one| one == column);
    let covers = |row: &[&str; 5]| row.iter().zip(columns).all(|(pattern, column)| fits(pattern, column));
    FAILING.iter().find(|(_, row, _)| covers(row)).map(|(known, _, _)| *known)
}
