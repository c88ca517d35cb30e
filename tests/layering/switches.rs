//! The product's raft files have no switches for tests. What a simulation gives to a node, and every fault,
//! comes from outside (`raft/src/cluster/env.rs`); a product file only declares its test modules.

use std::fs;
use std::path::{Path, PathBuf};

/// The file that selects openraft's runtime, and says why that needs `cfg(test)`.
const ROOT: &str = "raft/src/lib.rs";
/// The switch of a future build's formats, which tests of upgrades need in the binary, too.
const NEXT_BUILD: &str = "cfg(any(test, feature = \"next-format\"))";

/// The module that `line` declares, inline or in its own file.
fn declared(line: &str) -> Option<&str> {
    let (before, name) = line.trim().split_once("mod ")?;
    let is_visibility =
        matches!(before, "" | "pub ") || (before.starts_with("pub(") && before.ends_with(") "));
    is_visibility.then(|| name.trim_end_matches(['{', ';', ' ']))
}

/// Adds `file` and the files of its submodules in `folder` that are compiled without tests.
fn product(file: PathBuf, folder: &Path, found: &mut Vec<PathBuf>) {
    let text = fs::read_to_string(&file).unwrap();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = declared(line).filter(|_| line.ends_with(';') && !is_test) {
            product(folder.join(format!("{name}.rs")), &folder.join(name), found);
        }
        is_test = line == "#[cfg(test)]" || (is_test && line.starts_with("#["));
    }
    found.push(file);
}

/// Lines that are compiled only for tests, or only without, except declarations of test modules.
fn switches(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_switch = |at: &usize| {
        let line = lines[*at].replace(NEXT_BUILD, "");
        let condition = ["cfg(", "cfg!(", "cfg_attr("].iter().find_map(|cfg| line.split_once(cfg));
        let names_tests =
            |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "test");
        if line.starts_with("//") || !condition.is_some_and(|(_, rest)| names_tests(rest)) {
            return false;
        }
        let item = lines[*at + 1..].iter().find(|line| !line.starts_with("#["));
        line != "#[cfg(test)]" || item.and_then(|line| declared(line)).is_none()
    };
    (0..lines.len()).filter(is_switch).map(|at| (at + 1, lines[at].to_owned())).collect()
}

#[test]
fn no_product_file_of_raft_has_a_switch_for_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    product(root.join(ROOT), &root.join("raft/src"), &mut files);
    assert!(files.len() > 80, "{} product files: the test follows modules no more", files.len());
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with(ROOT)) {
        for (line, code) in switches(&fs::read_to_string(file).unwrap()) {
            wrong.push(format!("{}:{line}: {code}", file.strip_prefix(root).unwrap().display()));
        }
    }
    assert!(wrong.is_empty(), "give it to the node by its Env instead:\n{}", wrong.join("\n"));
}

#[test]
fn a_switch_is_found_and_a_module_of_tests_is_none() {
    let modules =
        "#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;\n#[cfg(test)]\npub(crate) mod testing {\n";
    assert_eq!(switches(modules), []);
    assert_eq!(switches("#[cfg(any(test, feature = \"next-format\"))]\nlet x = 1;\n// cfg(test)\n"), []);
    let found = |text: &str| switches(text).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    assert_eq!(found("fn f() {\n    #[cfg(test)]\n    if g() {}\n}\n"), [2]);
    assert_eq!(
        found("#[cfg(test)]\nuse crate::sim;\n#[cfg(not(test))]\nmod x;\nif cfg!(test) {}\n"),
        [1, 3, 5]
    );
}
