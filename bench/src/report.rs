//! RESULTS.md: a section for each scenario, with its command, machine and date. A run replaces its own
//! sections and keeps the others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;
use crate::usage::machine_line;

const HEAD: &str = "# Results\n\nWritten by `piccolo-bench` (`make bench`); each section is one run, and says which. \
    Ratios count, bare rates belong to the machine. *idle*: share of all CPUs that did nothing while Piccolo was \
    measured; *others*: share taken by processes that are not part of the bench.\n";
/// Scenarios by the names of their commands, in the order of the file; `all` runs them.
pub(crate) const SECTIONS: [&str; 18] = [
    "loopback",
    "veth",
    "relay",
    "relay-capped",
    "pull",
    "new-image",
    "agent",
    "findkey",
    "register",
    "crowd",
    "steady",
    "herd",
    "rebuild",
    "catch-up",
    "sizes",
    "micro",
    "jitter",
    "flights",
];

/// Destination of the results.
pub(crate) struct Report {
    folder: PathBuf,
    origin: String,
}

impl Report {
    /// A report on a run of `binary`, in `folder`.
    pub(crate) fn new(folder: &Path, binary: Option<&Path>) -> Result<Self> {
        fs::create_dir_all(folder.join("plots")).context("could not make a folder for plots")?;
        let date = run(Command::new("date").args(["-u", "+%F %H:%M UTC"]))?;
        let words: Vec<String> = std::env::args().skip(1).collect();
        let version = match binary {
            // The version has the commit if `make bench` has built the binary.
            Some(binary) => run(Command::new(binary).arg("--version"))?,
            None => "without Piccolo".to_owned(),
        };
        let origin = format!(
            "`piccolo-bench {}`, {}, {}, {}\n",
            words.join(" "),
            version.trim(),
            date.trim(),
            machine_line()?
        );
        Ok(Self { folder: folder.to_owned(), origin })
    }

    /// Writes `plots/<name>.svg`; returns the markdown that shows it.
    pub(crate) fn plot(&self, name: &str, svg: &str) -> Result<String> {
        fs::write(self.folder.join(format!("plots/{name}.svg")), svg).context("could not write a plot")?;
        Ok(format!("![{name}](plots/{name}.svg)\n"))
    }

    /// Replaces the section `name` by `body`, and prints it.
    pub(crate) fn section(&self, name: &str, title: &str, body: &str) -> Result<()> {
        let section = format!("## {title}\n\n{}\n{body}", self.origin);
        println!("{section}");
        let path = self.folder.join("RESULTS.md");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, replace(&old, name, &section)).context("could not write RESULTS.md")
    }
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"))
}

/// Sections that were written by hand; they come last.
fn by_hand(old: &str) -> impl Iterator<Item = &str> {
    let names = old.lines().filter_map(|line| line.strip_prefix("<!-- ")?.strip_suffix(" -->"));
    names.filter(|name| !name.starts_with("end of ") && !SECTIONS.contains(name))
}

fn replace(old: &str, name: &str, section: &str) -> String {
    let mut text = HEAD.to_owned();
    for known in SECTIONS.iter().copied().chain(by_hand(old)) {
        let (start, end) = markers(known);
        let kept = old.split_once(&start).and_then(|(_, rest)| rest.split_once(&end)).map(|(body, _)| body);
        let fresh = format!("{section}\n");
        if let Some(body) = if known == name { Some(fresh.as_str()) } else { kept } {
            text.push_str(&format!("\n{start}{body}{end}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_replaces_its_section_and_keeps_the_others_in_order() {
        let first = replace("", "pull", "old pull");
        let second = replace(&first, "veth", "veth");
        let third = replace(&second, "pull", "new pull");
        assert!(third.contains("new pull") && !third.contains("old pull"));
        assert!(third.find("veth").unwrap() < third.find("new pull").unwrap());
        assert_eq!(replace(&third, "pull", "new pull"), third);
        let (start, end) = markers("what a person saw");
        let fourth = format!("{third}\n{start}by hand\n{end}");
        let fifth = replace(&fourth, "veth", "new veth");
        assert!(fifth.contains("new veth") && fifth.ends_with(&format!("{start}by hand\n{end}")), "{fifth}");
    }
}
