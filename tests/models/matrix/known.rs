//! Cells that the product cannot do yet, or not always. The table shrinks as the product improves.

/// How a row binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Fails every time; the test fails when it passes.
    Fails,
    /// Depends on timing: which of several requests at once is first, how near a cell is to its limit.
    /// Either result is accepted.
    Sometimes,
}

/// Client, fault, place, who else, size: `*` stands for all, `a/b` for either.
type Row = (Known, [&'static str; 5], &'static str);

const FAILING: &[Row] = &[
    (
        Known::Fails,
        ["1.6/2.1/2.3", "short/long", "50 %/99 %/last byte", "*", "64 MiB"],
        "the agent believes the peer's length: the wrong hash is seen with the last byte, and the pull is reset",
    ),
    (
        Known::Fails,
        ["1.6/2.1/2.3", "long", "*", "*", "64 MiB"],
        "the same; a blob claimed short of 16 MiB is verified whole, one claimed long never is",
    ),
    (
        Known::Fails,
        ["2.1 parallel/2.3 parallel", "short", "50 %/99 %/last byte", "*", "64 MiB"],
        "the agent believes the peer's length, and no range is verified",
    ),
    (
        Known::Fails,
        ["2.1 parallel/2.3 parallel", "long", "*", "*", "64 MiB"],
        "the agent believes the peer's length, and no range is verified",
    ),
    (
        Known::Fails,
        ["2.1 parallel/2.3 parallel", "corrupt", "*", "*", "64 MiB"],
        "no range is verified: the second pull is given to the same liar",
    ),
    (
        Known::Sometimes,
        [
            "2.1 parallel/2.3 parallel",
            "clean close/reset/freeze/404/500/503/slow/nobody",
            "1 %/50 %/99 %/last byte",
            "*",
            "64 MiB",
        ],
        "a cut or a 404 in one chunk cancels the chunks before it that still run, and containerd resumes none of them",
    ),
    (
        Known::Sometimes,
        ["2.1 parallel/2.3 parallel", "freeze/slow", "*", "*", "2 MiB"],
        "the answer is cut without a byte (no source in time), or another chunk is answered 404 because of that",
    ),
    (
        Known::Sometimes,
        ["*", "slow", "*", "*", "64 MiB"],
        "a rate window that began with fast bytes hides the slow ones, and a slow peer is asked a second time: up to \
         16 s of the 20 are gone on a quiet machine",
    ),
];

/// The row that covers a cell.
pub fn known(columns: &[String; 5]) -> Option<Known> {
    let fits = |pattern: &str, column: &str| pattern == "*" || pattern.split('/').any(|one| one == column);
    let covers = |row: &[&str; 5]| row.iter().zip(columns).all(|(pattern, column)| fits(pattern, column));
    FAILING.iter().find(|(_, row, _)| covers(row)).map(|(known, _, _)| *known)
}
