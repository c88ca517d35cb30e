//! A parser of as much Rust as is needed to find which module names which: it blanks comments, strings and
//! test items, follows modules from the root of a crate, and resolves paths through `use`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Path of a module in its crate; empty for the root.
pub(super) type Name = Vec<String>;

/// Longest chain of `use` declarations from a name to its definition.
const ALIASES_MAX: usize = 8;

/// A module in its own file.
pub(super) struct Module {
    pub(super) name: Name,
    pub(super) file: PathBuf,
    /// The text with comments, strings and test items blanked; lines are those of the file.
    text: String,
    /// Names from `use` declarations, with their full paths.
    aliases: BTreeMap<String, Vec<String>>,
    /// Modules that are imported with `*`.
    globs: Vec<Vec<String>>,
}

/// A place where a module names something of another one.
pub(super) struct Arrow {
    pub(super) from: Name,
    pub(super) to: Name,
    /// `file:line` of the place.
    pub(super) place: String,
}

/// The modules of one crate that are compiled without tests.
pub(super) struct Crate {
    pub(super) modules: BTreeMap<Name, Module>,
}

/// A path as it is written, and its position.
struct Written {
    path: Vec<String>,
    at: usize,
    alias: Option<String>,
    is_use: bool,
}

impl Crate {
    /// Reads the crate with the root file `root`.
    pub(super) fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut left = vec![(Name::new(), root.to_owned(), root.parent().expect("a folder").to_owned())];
        while let Some((name, file, folder)) = left.pop() {
            let text = blank(
                &fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())),
            );
            for child in declared(&text) {
                let (file, below) = (folder.join(format!("{child}.rs")), folder.join(&child));
                left.push(([&name[..], &[child]].concat(), file, below));
            }
            let module =
                Module { name: name.clone(), file, text, aliases: BTreeMap::new(), globs: Vec::new() };
            modules.insert(name, module);
        }
        let mut read = Self { modules };
        read.find_aliases();
        read
    }

    fn find_aliases(&mut self) {
        let names: Vec<Name> = self.modules.keys().cloned().collect();
        for name in names {
            let module = &self.modules[&name];
            let (mut aliases, mut globs) = (BTreeMap::new(), Vec::new());
            for written in self.written(module).into_iter().filter(|written| written.is_use) {
                let mut path = written.path;
                if path.last().is_some_and(|last| last == "*") {
                    path.pop();
                    globs.push(path);
                } else if let Some(alias) = written.alias.or_else(|| path.last().cloned()) {
                    aliases.insert(alias, path);
                }
            }
            let module = self.modules.get_mut(&name).expect("it was just read");
            (module.aliases, module.globs) = (aliases, globs);
        }
    }

    /// All arrows between modules.
    pub(super) fn arrows(&self, root: &Path) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for module in self.modules.values() {
            for written in self.written(module) {
                let to = self.resolve(written.path);
                if to == module.name {
                    continue;
                }
                let line = module.text[..written.at].matches('\n').count() + 1;
                let file = module.file.strip_prefix(root).unwrap_or(&module.file);
                let place = format!("{}:{line}", file.display());
                arrows.push(Arrow { from: module.name.clone(), to, place });
            }
        }
        arrows
    }

    /// The module that defines what `path` means. The path starts at the root of the crate.
    fn resolve(&self, mut path: Vec<String>) -> Name {
        for _ in 0..ALIASES_MAX {
            let mut at = 0;
            while at < path.len() && self.modules.contains_key(&path[..=at]) {
                at += 1;
            }
            let module = &self.modules[&path[..at]];
            let Some(next) = path.get(at) else { return path };
            if module.defines(next) {
                return path[..at].to_vec();
            }
            if let Some(target) = module.aliases.get(next) {
                path = [target, &path[at + 1..]].concat();
                continue;
            }
            let shown = module.globs.iter().map(|glob| self.resolve(glob.clone()));
            let from = shown.into_iter().find(|name| self.modules[name].defines(next));
            return from.unwrap_or_else(|| path[..at].to_vec());
        }
        panic!("a circle of use declarations: {path:?}");
    }

    /// Every path into this crate in `module`, from the root of the crate.
    fn written(&self, module: &Module) -> Vec<Written> {
        let text = &module.text;
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = next_word(text, from) {
            let end = word_end(text, at);
            let word = &text[at..end];
            from = end;
            let path_before = text[..at].trim_end().ends_with("::");
            if path_before || !text[end..].trim_start().starts_with("::") && !use_before(text, at) {
                continue;
            }
            let scope = module.scope(at);
            let Some(start) = self.start(&scope, word) else { continue };
            let is_use = use_before(text, at);
            let before = found.len();
            let rest = tree(text, end, &start, at, &mut found);
            for written in &mut found[before..] {
                written.is_use = is_use;
            }
            from = rest.max(end);
        }
        found
    }

    /// Start of a path whose first word is `word`; `None`: it is in another crate, or an item of this file.
    fn start(&self, scope: &Name, word: &str) -> Option<Vec<String>> {
        match word {
            "crate" => Some(Vec::new()),
            "self" => Some(scope.clone()),
            "super" => Some(scope[..scope.len().checked_sub(1)?].to_vec()),
            _ => {
                let child = [&scope[..], &[word.to_owned()]].concat();
                self.modules.contains_key(&child).then_some(child)
            }
        }
    }
}

impl Module {
    /// True if an item of this name is defined here.
    fn defines(&self, name: &str) -> bool {
        const ITEMS: [&str; 9] =
            ["fn", "struct", "enum", "const", "static", "type", "trait", "mod", "macro_rules!"];
        let mut from = 0;
        while let Some(at) = self.text[from..].find(name).map(|at| at + from) {
            from = at + name.len();
            let whole = word_end(&self.text, at) == from && !self.text[..at].ends_with(is_word);
            if whole && ITEMS.iter().any(|item| self.text[..at].trim_end().ends_with(item)) {
                return true;
            }
        }
        false
    }

    /// The module at offset `at`: this one, or an inline one in it.
    fn scope(&self, at: usize) -> Name {
        let mut scope = self.name.clone();
        let mut from = 0;
        while let Some(found) = self.text[from..at].find("mod ").map(|found| found + from) {
            from = found + 4;
            let name_end = word_end(&self.text, from);
            let is_word_start = !self.text[..found].ends_with(is_word);
            let body = self.text[name_end..].trim_start();
            if is_word_start && body.starts_with('{') {
                let open = self.text.len() - body.len();
                if open < at && at < closing(&self.text, open) {
                    scope.push(self.text[from..name_end].to_owned());
                }
            }
        }
        scope
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn next_word(text: &str, from: usize) -> Option<usize> {
    let at = from + text[from..].find(|c: char| c.is_alphabetic() || c == '_')?;
    Some(at)
}

fn word_end(text: &str, at: usize) -> usize {
    text[at..].find(|c| !is_word(c)).map_or(text.len(), |end| at + end)
}

/// True if the path at `at` belongs to a `use`.
fn use_before(text: &str, at: usize) -> bool {
    text[..at].trim_end().strip_suffix("use").is_some_and(|before| !before.ends_with(is_word))
}

/// Paths of a tree like `::a::{b, c as d}` at `at`, which continues `start`; returns its end.
fn tree(text: &str, at: usize, start: &[String], place: usize, found: &mut Vec<Written>) -> usize {
    let mut path = start.to_vec();
    let mut at = at;
    loop {
        let rest = text[at..].trim_start();
        let Some(behind) = rest.strip_prefix("::") else { break };
        let behind = behind.trim_start();
        let behind_at = text.len() - behind.len();
        if behind.starts_with('{') {
            let close = closing(text, behind_at);
            let mut inner = behind_at + 1;
            while inner < close {
                let skipped = text[inner..close].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                inner = close - skipped.len();
                if inner >= close {
                    break;
                }
                let end = if skipped.starts_with('*') { inner + 1 } else { word_end(text, inner) };
                let word = &text[inner..end];
                let mut branch = path.clone();
                if word == "super" {
                    branch.pop();
                } else if word != "self" {
                    branch.push(word.to_owned());
                }
                inner = tree(text, end, &branch, inner, found).max(end).max(inner + 1);
            }
            return close + 1;
        }
        if behind.starts_with('*') {
            path.push("*".to_owned());
            at = behind_at + 1;
            break;
        }
        if !behind.starts_with(is_word) {
            break;
        }
        at = word_end(text, behind_at);
        match &text[behind_at..at] {
            "super" => drop(path.pop()),
            word => path.push(word.to_owned()),
        }
    }
    let mut alias = None;
    if let Some(renamed) = text[at..].trim_start().strip_prefix("as ") {
        let from = text.len() - renamed.len();
        at = word_end(text, from);
        alias = Some(text[from..at].to_owned());
    }
    found.push(Written { path, at: place, alias, is_use: false });
    at
}

/// Names of `mod name;` declarations that are compiled without tests.
fn declared(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        let declaration = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) "));
        let declaration = declaration.or(line.strip_prefix("pub ")).unwrap_or(line);
        let name = declaration.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        names.extend(name.map(str::to_owned));
    }
    names
}

/// Offset of the brace that closes the one at `open`.
fn closing(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at;
        }
    }
    text.len()
}

/// The text without comments, strings and test-only items; line numbers stay the same.
pub(super) fn blank(text: &str) -> String {
    let mut code: Vec<u8> = text.bytes().collect();
    let mut at = 0;
    while at < code.len() {
        let rest = &text.as_bytes()[at..];
        let length = literal(rest, at > 0 && is_word(char::from(code[at - 1])));
        if length == 0 {
            at += 1;
            continue;
        }
        for byte in &mut code[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length;
    }
    let code = String::from_utf8_lossy(&code).replace(|c: char| !c.is_ascii(), " ");
    without_tests(code)
}

/// Length of the comment, string or character literal at the start of `text`, bytes.
fn literal(text: &[u8], in_word: bool) -> usize {
    let until = |from: usize, end: &[u8]| {
        let found = text[from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |at| from + at + end.len())
    };
    match text {
        [b'/', b'/', ..] => text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len()),
        [b'/', b'*', ..] => until(2, b"*/"),
        [b'r', b'"', ..] if !in_word => until(2, b"\""),
        [b'r', b'#', b'"', ..] if !in_word => until(3, b"\"#"),
        [b'"', ..] => {
            let mut at = 1;
            while at < text.len() && text[at] != b'"' {
                at += if text[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(text.len())
        }
        [b'\'', b'\\', ..] => until(3, b"'"),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

/// Blanks each item after `#[cfg(test)]`.
fn without_tests(mut code: String) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    while let Some(at) = code.find(ATTRIBUTE) {
        let mut end = at + ATTRIBUTE.len();
        loop {
            let rest = code[end..].trim_start();
            let start = code.len() - rest.len();
            if rest.starts_with("#[") {
                end = closing(&code, start + 1) + 1;
                continue;
            }
            let stop = rest.find(['{', ';', ',']).map_or(code.len(), |stop| start + stop);
            let brace = code[stop..].starts_with('{');
            end = if brace { closing(&code, stop) + 1 } else { stop + 1 };
            // `use a::{b};` ends after its braces.
            let is_use = rest.starts_with("use ") || rest.starts_with("pub");
            if brace && is_use && code[end..].starts_with(';') {
                end += 1;
            }
            break;
        }
        let end = end.min(code.len());
        let blanks: String = code[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(at..end, &blanks);
    }
    code
}
