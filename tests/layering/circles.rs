//! No circles among the modules of one folder. A module here is a file with the folder of the same name: for
//! its neighbours all of `network.rs` and `network/` is `network`. Its content is the next level. Parent and
//! child are not neighbours: a child may use what its parent defines.
//!
//! Run it alone, in seconds: `CARGO_MANIFEST_DIR=. rustc --edition 2024 --test -o /tmp/circles
//! tests/layering/circles.rs && /tmp/circles`.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not their helpers")
)]

#[path = "source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use source::{Arrow, Crate, Name};

/// Roots of the checked crates.
const ROOTS: [&str; 2] = ["src/lib.rs", "raft/src/lib.rs"];

/// Places of one arrow that are told.
const PLACES_MAX: usize = 4;

/// For each module its neighbours in the same folder that it names, and where.
type Neighbours = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Arrows among neighbours, by folder.
fn folders(arrows: &[Arrow]) -> BTreeMap<Name, Neighbours> {
    let mut folders: BTreeMap<Name, Neighbours> = BTreeMap::new();
    for Arrow { from, to, place } in arrows {
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        let (Some(here), Some(there)) = (from.get(common), to.get(common)) else { continue };
        let folder = folders.entry(from[..common].to_vec()).or_default();
        folder.entry(there.clone()).or_default();
        folder.entry(here.clone()).or_default().entry(there.clone()).or_default().push(place.clone());
    }
    folders
}

fn reached<'a>(neighbours: &'a Neighbours, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&str> = neighbours[from].keys().map(String::as_str).collect();
    while let Some(name) = left.pop() {
        if reached.insert(name) {
            left.extend(neighbours[name].keys().map(String::as_str));
        }
    }
    reached
}

/// Groups of modules that reach each other.
fn circles(neighbours: &Neighbours) -> BTreeSet<BTreeSet<String>> {
    let all: BTreeMap<&str, BTreeSet<&str>> =
        neighbours.keys().map(|name| (name.as_str(), reached(neighbours, name))).collect();
    let of = |name: &&str| -> BTreeSet<String> {
        all[name].iter().filter(|other| all[*other].contains(name)).map(|&other| other.to_owned()).collect()
    };
    all.keys().map(of).filter(|circle| !circle.is_empty()).collect()
}

fn report(folder: &str, neighbours: &Neighbours, circle: &BTreeSet<String>) -> String {
    let names: Vec<&str> = circle.iter().map(String::as_str).collect();
    let mut report = format!("{folder}: a circle of {}\n", names.join(", "));
    for from in circle {
        for (to, places) in neighbours[from].iter().filter(|(to, _)| circle.contains(*to)) {
            let some = places.iter().take(PLACES_MAX).map(String::as_str).collect::<Vec<_>>().join(" ");
            let more = if places.len() > PLACES_MAX { " …" } else { "" };
            writeln!(report, "    {from} -> {to}: {some}{more}").unwrap();
        }
    }
    report
}

#[test]
fn no_module_is_used_by_those_that_it_uses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = String::new();
    for file in ROOTS {
        let read = Crate::read(&root.join(file));
        let top = file.trim_end_matches("/lib.rs");
        for (folder, neighbours) in folders(&read.arrows(root)) {
            let folder = [&[top.to_owned()], &folder[..]].concat().join("/");
            for circle in circles(&neighbours) {
                found.push_str(&report(&folder, &neighbours, &circle));
            }
        }
    }
    assert!(found.is_empty(), "circles:\n{found}");
}
