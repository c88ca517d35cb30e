//! Checks the documents against the tree: links have targets, named files exist, reference pages are
//! complete, and pages are short.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Largest number of words in a document, as `wc -w` counts them. A longer one is not read.
const ARCHITECTURE_WORDS_MAX: usize = 2_000;
const README_WORDS_MAX: usize = 1_500;
const PAGE_WORDS_MAX: usize = 2_500;

/// Prefixes of code spans that are paths from the root.
const ROOTS: [&str; 7] = ["src/", "raft/", "tests/", "bench/", "deploy/", "docs/", ".ci/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Files below `folder` whose names end in `ending`, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&name, ending));
        } else if name.ends_with(ending) {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// All documents but `bench/RESULTS.md`, which the bench writes.
fn documents() -> Vec<String> {
    let named = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/RUNBOOK.md"];
    named.into_iter().map(str::to_owned).chain(files("docs", ".md")).collect()
}

/// The text without indented blocks, which are commands and output.
fn prose(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("    "));
    lines.collect::<Vec<_>>().join("\n")
}

/// Targets of `[text](target)` on this site.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.starts_with("http")).collect()
}

/// Text between backticks.
fn code_spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: char| (c.is_alphanumeric() || "-_ ".contains(c)).then(|| c.to_ascii_lowercase());
    heading.trim().chars().filter_map(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// First arguments of all calls of `call`, if they are string literals.
fn first_texts(code: &str, call: &str) -> BTreeSet<String> {
    let calls = code.split(call).skip(1);
    let texts = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"'));
    texts.map(|(text, _)| text.to_owned()).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&document).parent().unwrap();
            let target =
                if file.is_empty() { root().join(&document) } else { root().join(folder).join(file) };
            match fs::read_to_string(&target) {
                _ if target.is_dir() && heading.is_empty() => {}
                Ok(text) if heading.is_empty() || anchors(&text).contains(heading) => {}
                _ => wrong.push(format!("{document}: {link}")),
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_that_is_named_exists() {
    let mut wrong = Vec::new();
    for document in documents() {
        for span in code_spans(&prose(&read(&document))) {
            let is_path = ROOTS.iter().any(|root| span.starts_with(root)) && !span.contains([' ', '*', '{']);
            if is_path && !root().join(&span).exists() {
                wrong.push(format!("{document}: {span}"));
            }
        }
    }
    assert!(wrong.is_empty(), "files that do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn no_document_is_longer_than_people_read() {
    let pages = files("docs", ".md").into_iter().map(|page| (page, PAGE_WORDS_MAX));
    let named = [("ARCHITECTURE.md", ARCHITECTURE_WORDS_MAX), ("README.md", README_WORDS_MAX)];
    for (document, most) in named.map(|(name, most)| (name.to_owned(), most)).into_iter().chain(pages) {
        let words = read(&document).split_whitespace().count();
        assert!(words <= most, "{document} has {words} words, the limit is {most}");
    }
}

#[test]
fn the_configuration_page_has_every_setting() {
    let page = read("docs/configuration.md");
    for file in ["src/config/agent.rs", "src/config/server.rs", "src/config/logging.rs"] {
        let code = read(file);
        let mut settings = first_texts(&code, "Setting::new(");
        settings.extend(first_texts(&code, "Setting::switch("));
        assert!(!settings.is_empty(), "{file} has no settings: mend this test");
        for flag in settings {
            assert!(page.contains(&format!("`--{flag}`")), "docs/configuration.md lacks --{flag} of {file}");
        }
    }
}

#[test]
fn the_metrics_page_has_every_metric() {
    let page = read("docs/metrics.md");
    let mut metrics = BTreeSet::new();
    for file in files("src", ".rs") {
        let code = read(&file);
        for call in ["counter!(", "gauge!(", "histogram!("] {
            metrics.extend(first_texts(&code, call));
        }
    }
    metrics.remove("piccolo_test_total");
    assert!(metrics.len() > 30, "only {metrics:?} were found: mend this test");
    for metric in metrics {
        let is_there = page.contains(&format!("`{metric}`")) || page.contains(&format!("`{metric}{{"));
        assert!(is_there, "docs/metrics.md lacks {metric}");
    }
}

#[test]
fn an_anchor_is_made_as_github_makes_it() {
    assert_eq!(anchor(" Under `tags = \"peers\"` the newest, by age"), "under-tags--peers-the-newest-by-age");
    assert_eq!(anchor(" What to do when …"), "what-to-do-when-");
}
