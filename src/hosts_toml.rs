//! containerd's `certs.d/<registry>/hosts.toml` as text: puts our entry in front, and takes it out again.
//! Pure; `piccolo mirror` handles the files.
//!
//! containerd asks the `[host."URL"]` tables in the order of the file, then `server`, or the registry itself
//! if there is no `server` (docs/hosts.md; `getSortedHosts` in core/remotes/docker/config/hosts.go). All
//! other text stays as it is, byte for byte.

mod asked;
mod ours;
pub mod upstreams;

use std::collections::BTreeSet;
use std::time::Duration;

use toml::Table as Values;
use toml_edit::{Document, Item, Table};

use crate::value::format_duration;

pub use asked::{Host, hosts_in_order};
pub use ours::{Before, before, first_line_is_of_k3s, our_urls};

/// Comment above our entry.
pub const MARK: &str = "# Written by `piccolo mirror install`; `piccolo mirror remove` takes it out.";

/// First line of a file that install made because there was none.
const FRESH: &str = "# `piccolo mirror install` made this file: there was none.";

/// Our entry in a `hosts.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Base URL of the mirror, without a path.
    pub url: String,
    /// Timeout for connections; only for containerd 2.1 and later, because earlier ones do not know the key.
    pub dial_timeout: Option<Duration>,
}

/// Content of a new file beside our entry: what containerd does without a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Value of `server`, such as `https://ghcr.io`; absent: containerd derives it.
    pub server: Option<String>,
    /// `*.crt` files in the folder, which containerd reads by itself only if there is no `hosts.toml`.
    pub authorities: Vec<String>,
    /// `*.cert` files in the folder, each with its `*.key` file if there is one; containerd reads them by
    /// itself only if there is no `hosts.toml`.
    pub clients: Vec<(String, Option<String>)>,
}

/// Why a file cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostsTomlError {
    /// The file is not TOML: containerd cannot read it either.
    #[error("could not parse it: {0}")]
    NotToml(ParseError),
    /// Hosts are written as `host = { … }` or the like, where no order can be kept.
    #[error("could not put an entry in front: its hosts are not written as [host.\"URL\"] tables")]
    HostsNotTables,
    /// The file has an entry for the same URL that somebody else wrote.
    #[error("could not put an entry in front: it has one for {url} already, which is not ours")]
    AlreadyThere {
        /// The URL.
        url: String,
    },
    /// One value makes containerd ignore the whole file.
    #[error("containerd ignores the whole file: its {key:?} has a value that containerd does not accept")]
    NotAccepted {
        /// Key of the value.
        key: String,
    },
    /// The change would alter the meaning of other hosts' entries.
    #[error("could not change it without changing what others wrote there")]
    NotSafe,
}

/// Why a text is not TOML: the parser's message, with line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The parser that keeps the layout failed.
    #[error(transparent)]
    Document(#[from] toml_edit::TomlError),
    /// The parser of values failed.
    #[error(transparent)]
    Values(#[from] toml::de::Error),
}

/// Text of a file of our own.
pub fn fresh(upstream: &Upstream, entry: &Entry) -> String {
    let mut text = String::new();
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    if let Some(server) = &upstream.server {
        text.push_str(&format!("server = {}\n", quoted(server)));
    }
    if !upstream.authorities.is_empty() {
        let names = upstream.authorities.iter().map(|name| quoted(name)).collect();
        text.push_str(&format!("ca = {}\n", list(names)));
    }
    if !upstream.clients.is_empty() {
        // A list of a list of one is an error to containerd, which then ignores the whole file. All versions
        // read a list of pairs; a certificate without a key file contains its key.
        let pair = |(certificate, key): &(String, Option<String>)| {
            list(vec![quoted(certificate), quoted(key.as_ref().unwrap_or(certificate))])
        };
        text.push_str(&format!("client = {}\n", list(upstream.clients.iter().map(pair).collect())));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    format!("{FRESH}\n{text}{}", block(entry))
}

/// `original` with our entry before all other hosts.
pub fn in_front(original: &str, entry: &Entry) -> Result<String, HostsTomlError> {
    let headers = headers(original)?;
    if headers.iter().any(|header| header.is_host(&entry.url)) {
        return Err(HostsTomlError::AlreadyThere { url: entry.url.clone() });
    }
    let first = headers.iter().find(|header| header.path[0] == "host");
    let place = first.map_or(original.len(), |header| start_with_comments(original, header.start));
    let (before, behind) = original.split_at(place);
    let mut text = before.to_owned();
    if !before.is_empty() && !before.ends_with('\n') {
        text.push('\n');
    }
    if !before.is_empty() && !text.ends_with("\n\n") {
        text.push('\n');
    }
    text.push_str(&block(entry));
    if !behind.is_empty() {
        text.push('\n');
        text.push_str(behind);
    }
    if values_without(&text, &entry.url)? != values(original)? {
        return Err(HostsTomlError::NotSafe);
    }
    Ok(text)
}

/// `current` without the entry for `url`; `None` if it has none.
pub fn without(current: &str, url: &str) -> Result<Option<String>, HostsTomlError> {
    without_all(current, &BTreeSet::from([url.to_owned()]))
}

fn without_all(current: &str, urls: &BTreeSet<String>) -> Result<Option<String>, HostsTomlError> {
    let headers = headers(current)?;
    let is_ours = |header: &Header| urls.iter().any(|url| header.is_host(url));
    if !headers.iter().any(is_ours) {
        return Ok(None);
    }
    let mut text = String::new();
    let mut copied = 0;
    for (position, header) in headers.iter().enumerate().filter(|(_, header)| is_ours(header)) {
        let next = headers.get(position + 1).map_or(current.len(), |next| next.start);
        let start = mark_above(current, header.start).unwrap_or(header.start);
        text.push_str(&current[copied..start.max(copied)]);
        copied = end_of_table(current, header.start, next);
    }
    text.push_str(&current[copied..]);
    if values(&text)? != values_without_all(current, urls)? {
        return Err(HostsTomlError::NotSafe);
    }
    Ok(Some(text))
}

/// Start of the line above the table at `start`, if that line is [`MARK`].
fn mark_above(text: &str, start: usize) -> Option<usize> {
    line_above(text, start).filter(|line| text[*line..start].trim_end() == MARK)
}

fn block(entry: &Entry) -> String {
    let mut text = format!("{MARK}\n[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n", entry.url);
    if let Some(timeout) = entry.dial_timeout {
        text.push_str(&format!("  dial_timeout = \"{}\"\n", format_duration(timeout)));
    }
    text
}

/// A `[table]` line: its start and its path.
struct Header {
    start: usize,
    path: Vec<String>,
}

impl Header {
    fn is_host(&self, url: &str) -> bool {
        self.path.len() >= 2 && self.path[0] == "host" && self.path[1] == url
    }
}

/// All `[table]` lines in the order of the file.
fn headers(text: &str) -> Result<Vec<Header>, HostsTomlError> {
    let document = Document::parse(text).map_err(|error| HostsTomlError::NotToml(error.into()))?;
    let root = document.as_table();
    match root.get("host") {
        None => {}
        Some(Item::Table(hosts)) if !hosts.is_dotted() => {
            let written = |host: &Item| host.as_table().is_some_and(|table| !table.is_dotted());
            if !hosts.iter().all(|(_, host)| written(host)) {
                return Err(HostsTomlError::HostsNotTables);
            }
        }
        Some(_) => return Err(HostsTomlError::HostsNotTables),
    }
    let mut headers = Vec::new();
    collect(root, &mut Vec::new(), &mut headers);
    headers.sort_by_key(|header| header.start);
    Ok(headers)
}

fn collect(table: &Table, path: &mut Vec<String>, headers: &mut Vec<Header>) {
    for (key, item) in table.iter() {
        path.push(key.to_owned());
        let tables: Vec<&Table> = match item {
            Item::Table(table) => vec![table],
            Item::ArrayOfTables(tables) => tables.iter().collect(),
            Item::None | Item::Value(_) => Vec::new(),
        };
        for table in tables {
            if let Some(span) = table.span().filter(|_| !table.is_implicit() && !table.is_dotted()) {
                headers.push(Header { start: span.start, path: path.clone() });
            }
            collect(table, path, headers);
        }
        path.pop();
    }
}

/// Start of the comment lines directly above the line at `start`.
fn start_with_comments(text: &str, start: usize) -> usize {
    let mut place = start - text[..start].len() + text[..start].rfind('\n').map_or(0, |end| end + 1);
    while let Some(line) = line_above(text, place).filter(|line| text[*line..].starts_with('#')) {
        place = line;
    }
    place
}

/// Start of the line above the one that starts at `start`.
fn line_above(text: &str, start: usize) -> Option<usize> {
    let above = text[..start].strip_suffix('\n')?;
    Some(above.rfind('\n').map_or(0, |end| end + 1))
}

/// End of the last line between `start` and `next` that is neither blank nor a comment, plus one blank line:
/// comments after it belong to the next table.
fn end_of_table(text: &str, start: usize, next: usize) -> usize {
    let mut end = start;
    let mut place = start;
    for line in text[start..next].split_inclusive('\n') {
        place += line.len();
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            end = place;
        }
    }
    let blank = text[end..next].split_inclusive('\n').next().filter(|line| line.trim().is_empty());
    end + blank.map_or(0, str::len)
}

fn values(text: &str) -> Result<Values, HostsTomlError> {
    let mut values: Values =
        text.parse().map_err(|error: toml::de::Error| HostsTomlError::NotToml(error.into()))?;
    // `[host]` without hosts has no meaning.
    if values.get("host").and_then(toml::Value::as_table).is_some_and(Values::is_empty) {
        values.remove("host");
    }
    Ok(values)
}

fn values_without(text: &str, url: &str) -> Result<Values, HostsTomlError> {
    values_without_all(text, &BTreeSet::from([url.to_owned()]))
}

fn values_without_all(text: &str, urls: &BTreeSet<String>) -> Result<Values, HostsTomlError> {
    let mut values = values(text)?;
    if let Some(hosts) = values.get_mut("host").and_then(toml::Value::as_table_mut) {
        hosts.retain(|url, _| !urls.contains(url));
        if hosts.is_empty() {
            values.remove("host");
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
