//! Dependencies have one direction. Every `use` of the product is read as text, and a forbidden one is
//! reported with file and line.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

use std::fs;
use std::path::{Path, PathBuf};

#[path = "layering/circles.rs"]
mod circles;
#[path = "layering/switches.rs"]
mod switches;

/// Folders or files below the root (without `.rs`), and the modules that they must not name. Modules that may
/// not name `piccolo_raft` may still name those in [`GROUND_FLOOR`].
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "src/oci",
        &["crate::api", "crate::server", "crate::agent", "crate::cli", "crate::http", "piccolo_raft"],
    ),
    (
        "src/api",
        &["crate::server", "crate::agent", "crate::cli", "crate::http", "crate::oci", "piccolo_raft"],
    ),
    ("src/http", &["crate::server", "crate::agent", "crate::cli", "piccolo_raft"]),
    ("src/server", &["crate::agent", "crate::cli", "crate::config", "containerd_client"]),
    ("src/agent", &["crate::server", "crate::cli", "crate::config", "piccolo_raft"]),
    (
        "src/limits",
        &[
            "crate::api",
            "crate::server",
            "crate::agent",
            "crate::cli",
            "crate::http",
            "crate::oci",
            "piccolo_raft",
        ],
    ),
    (
        "src/identity",
        &[
            "crate::api",
            "crate::server",
            "crate::agent",
            "crate::cli",
            "crate::config",
            "crate::http",
            "piccolo_raft",
        ],
    ),
    ("src/config", &["crate::cli", "crate::http", "piccolo_raft"]),
    ("src/value", &["crate::", "super::super", "piccolo_raft"]),
    (
        "src/metrics",
        &["crate::server", "crate::agent", "crate::cli", "crate::config", "crate::http", "piccolo_raft"],
    ),
    (
        "src/hosts_toml",
        &[
            "crate::api",
            "crate::server",
            "crate::agent",
            "crate::cli",
            "crate::config",
            "crate::http",
            "piccolo_raft",
        ],
    ),
    // What encrypts, and the keys for it, come from outside (`Connect`, `Caller`).
    ("raft/src", &["piccolo::", "containerd_client", "reqwest", "rustls"]),
    ("raft/src/model", &["crate::"]),
    ("raft/src/errors", &["crate::"]),
    ("raft/src/task", &["crate::"]),
];

/// Modules of `piccolo_raft` that servers, agents and clients share; they depend on nothing else.
const GROUND_FLOOR: [&str; 3] = ["piccolo_raft::model", "piccolo_raft::errors", "piccolo_raft::task"];

fn sources(root: &Path, place: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    let folder = root.join(place);
    if folder.is_dir() {
        walk(&folder, &mut found);
    }
    let file = folder.with_extension("rs");
    if file.is_file() {
        found.push(file);
    }
    found
}

fn violations(text: &str, forbidden: &[&str]) -> Vec<(usize, String)> {
    let is_wrong = |line: &str| {
        let above = GROUND_FLOOR.iter().fold(line.to_owned(), |line, name| line.replace(name, ""));
        forbidden.iter().any(|name| above.contains(name))
    };
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.filter(|(_, line)| is_wrong(line))
        .map(|(number, line)| (number + 1, line.trim().to_owned()))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (place, forbidden) in FORBIDDEN {
        let files = sources(root, place);
        assert!(!files.is_empty(), "{place} does not exist: mend the table of this test");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for (line, code) in violations(&text, forbidden) {
                wrong.push(format!("{}:{line}: {code}", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "forbidden arrows:\n{}", wrong.join("\n"));
}

#[test]
fn a_forbidden_arrow_is_found_and_a_comment_is_none() {
    let text = "// crate::server\nuse crate::server::Config;\n";
    assert_eq!(violations(text, &["crate::server"]), [(2, "use crate::server::Config;".to_owned())]);
    let text = "use piccolo_raft::model::Key;\nuse piccolo_raft::log::LogStore;\n";
    assert_eq!(violations(text, &["piccolo_raft"]), [(2, "use piccolo_raft::log::LogStore;".to_owned())]);
}

/// The process that uses the network will lose containerd's socket: the rest of the agent asks the store.
#[test]
fn only_the_containerd_store_speaks_grpc() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = root.join("src/agent/content/store/containerd");
    let mut speakers = Vec::new();
    for file in sources(root, "src/agent") {
        let text = fs::read_to_string(&file).unwrap();
        let found = violations(&text, &["tonic::", "containerd_client"]);
        if !found.is_empty() && !file.starts_with(&store) && file != store.with_extension("rs") {
            speakers.push(format!("{}: {found:?}", file.strip_prefix(root).unwrap().display()));
        }
    }
    assert!(speakers.is_empty(), "gRPC outside the store:\n{}", speakers.join("\n"));
}

/// Formats and commands of a future version are for tests of upgrades only.
#[test]
fn no_release_has_the_formats_of_a_version_to_come() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = Vec::new();
    for folder in [".", "raft", "bench", "tests/fuzz"] {
        let manifest: toml::Table =
            fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap().parse().unwrap();
        for (section, content) in manifest {
            if content.to_string().contains("next-format") {
                named.push(format!("{folder} {section}"));
            }
        }
    }
    assert_eq!(named, [". dev-dependencies", "raft features"]);
    let features = fs::read_to_string(root.join("raft/Cargo.toml")).unwrap();
    assert!(!features.contains("default = "), "a default feature would be in a release");
}
