//! `piccolo mirror install`. First everything is read and planned, then written: a file that cannot be
//! changed leaves all others as they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder::{Folder, Note};
use super::{CERTS_DIR, FileError, MirrorError};
use crate::cli::output::print;
use crate::cli::{CliError, Exit, Invocation, Subcommand};
use crate::config::{Fallback, Layers, Setting, value};
use crate::hosts_toml::{self, Entry, MARK, Upstream};

/// The subcommand.
pub(in crate::cli) const INSTALL: Subcommand = Subcommand {
    name: "install",
    about: "Let containerd ask our mirror first for these registries",
    examples: "\
Examples:
  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry docker.io,ghcr.io
  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry _default
  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry http://10.0.0.9:5000

What is in hosts.toml stays behind our entry, and `piccolo mirror remove` gives it back. containerd reads \
the file at each pull: no restart. It must be told once where the folder is (config_path of its registry \
settings). A registry that speaks plain http is given with http://.",
    settings: &[("", CERTS_DIR), ("", SETTINGS)],
    words: &[],
    registries: false,
    run,
};

const DIAL_TIMEOUT_LEAST: Duration = Duration::from_millis(10);
const DIAL_TIMEOUT_MOST: Duration = Duration::from_secs(30);

const SETTINGS: &[Setting] = &[
    Setting::new(
        "registry",
        "HOST,…",
        "Registries as in image names: docker.io, ghcr.io, 10.0.0.9:5000; _default for all others",
    ),
    Setting::new("mirror", "URL", "Our mirror: the --mirror-listen of this node's agent")
        .or(Fallback::Text("http://127.0.0.1:7780")),
    Setting::new(
        "dial-timeout",
        "TIME",
        "After how long containerd goes on without us when nothing answers; only containerd 2.1 and later \
         know it [default: not written]",
    ),
];

/// One registry to install for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registry {
    /// As in image names.
    name: String,
    /// Scheme, where the user gave one.
    scheme: Option<&'static str>,
}

struct Options {
    certs_dir: PathBuf,
    registries: Vec<Registry>,
    entry: Entry,
}

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (options, _) = invocation.configure(read)?;
    print(&install(&options)?)?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<Options> {
    let certs_dir = layers.required("certs-dir", folder);
    let registries = layers.required("registry", |text| value::list(text, registry));
    let url = layers.required("mirror", mirror_url);
    let names = registries.iter().flatten().map(|registry| registry.name.as_str());
    if names.clone().collect::<BTreeSet<_>>().len() < names.count() {
        layers.problem("registry", layers.given("registry"), "every registry once");
    }
    let dial_timeout =
        layers.optional("dial-timeout", |text| value::duration(text, DIAL_TIMEOUT_LEAST, DIAL_TIMEOUT_MOST));
    Some(Options { certs_dir: certs_dir?, registries: registries?, entry: Entry { url: url?, dial_timeout } })
}

/// A folder, or what may become one.
fn folder(given: &str) -> value::Parsed<PathBuf> {
    let path = value::path(given)?;
    if path.exists() && !path.is_dir() { Err("a folder".to_owned()) } else { Ok(path) }
}

fn registry(given: &str) -> value::Parsed<Registry> {
    let (scheme, rest) = match given.split_once("://") {
        Some(("http", rest)) => (Some("http"), rest),
        Some(("https", rest)) => (Some("https"), rest),
        Some(_) => (None, ""),
        None => (None, given),
    };
    let name = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
    // The same registry; containerd looks for the folder of the name that images have.
    let name = if name == "index.docker.io" { "docker.io".to_owned() } else { name };
    let right = match name.as_str() {
        "_default" => scheme.is_none(),
        name => value::host(name).is_ok() || value::host_port(name).is_ok(),
    };
    if right {
        Ok(Registry { name, scheme })
    } else {
        Err("registries like docker.io, 10.0.0.9:5000, http://10.0.0.9:5000 or _default".to_owned())
    }
}

/// containerd compares hosts by scheme and address; a path would be in front of `/v2`.
fn mirror_url(given: &str) -> value::Parsed<String> {
    let expected = || "a URL like http://127.0.0.1:7780, without a path".to_owned();
    let url = value::base_url(given).map_err(|_| expected())?;
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let plain = authority.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._:[]".contains(&c));
    if plain { Ok(url) } else { Err(expected()) }
}

/// What will happen in one folder.
struct Plan {
    folder: Folder,
    /// The new `hosts.toml`.
    text: String,
    backup: Backup,
    /// From the note of an earlier install.
    folders_made: usize,
    /// Nothing to do.
    unchanged: bool,
}

enum Backup {
    /// `hosts.toml` as it is now.
    Take,
    /// An earlier install has taken it.
    Keep,
    /// Somebody edited the file since: what they have, without our entry.
    Write(String),
    /// There was none.
    None,
}

/// Plans and does it all; answers what to tell.
fn install(options: &Options) -> Result<String, MirrorError> {
    let mut plans = Vec::new();
    let mut refused = Vec::new();
    for registry in &options.registries {
        let folder = place(&options.certs_dir, &registry.name);
        let hosts = folder.hosts_path();
        match plan(options, registry, folder) {
            Ok(plan) => plans.push(plan),
            Err(error) => refused.push((hosts, error)),
        }
    }
    if !refused.is_empty() {
        return Err(MirrorError::Refused { refused });
    }
    let mut told = String::new();
    for plan in plans {
        let hosts = plan.folder.hosts_path();
        let what = if plan.unchanged { "as it should be already" } else { "our mirror is first" };
        carry_out(&plan, &options.entry)
            .map_err(|error| MirrorError::Refused { refused: vec![(hosts.clone(), error)] })?;
        told.push_str(&format!("{}: {what}\n", hosts.display()));
    }
    told.push_str("containerd asks ");
    told.push_str(&options.entry.url);
    told.push_str(" first from its next pull on, if its config_path names this folder\n");
    Ok(told)
}

/// containerd looks for `host_port_` before `host:port` (`hostPaths` in
/// core/remotes/docker/config/config_unix.go).
fn place(certs_dir: &Path, name: &str) -> Folder {
    let preferred = name.rsplit_once(':').map(|(host, port)| certs_dir.join(format!("{host}_{port}_")));
    Folder::new(preferred.filter(|folder| folder.is_dir()).unwrap_or_else(|| certs_dir.join(name)))
}

fn plan(options: &Options, registry: &Registry, folder: Folder) -> Result<Plan, FileError> {
    let entry = &options.entry;
    let note = folder.note()?;
    let current = folder.hosts()?;
    let folders_made = note.as_ref().map_or(0, |note| note.folders_made);
    // What others have there, and how it is kept.
    let (base, backup) = match (&note, current.clone()) {
        (_, None) => (None, Backup::None),
        (Some(note), Some(text)) if note.wrote(&text) => match folder.backup()? {
            Some(original) => (Some(original), Backup::Keep),
            None => (None, Backup::None),
        },
        (Some(note), Some(text)) => match hosts_toml::without(&text, &note.mirror)? {
            Some(theirs) => (Some(theirs.clone()), Backup::Write(theirs)),
            None => (Some(text), Backup::Take),
        },
        // Ours, but the note is lost: what is not ours is what others have.
        (None, Some(text)) if text.contains(MARK) => match hosts_toml::without(&text, &entry.url)? {
            Some(theirs) => (Some(theirs.clone()), Backup::Write(theirs)),
            None => (Some(text), Backup::Take),
        },
        (None, Some(text)) => (Some(text), Backup::Take),
    };
    if base.is_none() && current.is_none() && !folder.path().exists() {
        hides_default(&options.certs_dir, &registry.name)?;
    }
    let text = match base {
        // containerd takes an empty file for none.
        Some(original) if !original.is_empty() => hosts_toml::in_front(&original, entry)?,
        _ => hosts_toml::fresh(&upstream(registry, &folder)?, entry),
    };
    let unchanged = note.is_some_and(|note| note.wrote(&text)) && current.as_ref() == Some(&text);
    Ok(Plan { folder, text, backup, folders_made, unchanged })
}

/// A folder for this registry takes it away from `_default`.
fn hides_default(certs_dir: &Path, name: &str) -> Result<(), FileError> {
    let default = Folder::new(certs_dir.join("_default"));
    let Some(text) = default.hosts()?.filter(|_| name != "_default") else { return Ok(()) };
    let ours_alone = default.backup()?.is_none() && default.note()?.is_some_and(|note| note.wrote(&text));
    if ours_alone { Ok(()) } else { Err(FileError::HidesDefault { default: default.hosts_path() }) }
}

/// What containerd does for this registry without a file.
fn upstream(registry: &Registry, folder: &Folder) -> Result<Upstream, FileError> {
    let mut upstream = Upstream { server: server(registry), ..Upstream::default() };
    let mut names: Vec<String> = match fs::read_dir(folder.path()) {
        Err(_) => Vec::new(),
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()
            .map_err(FileError::io("list its folder"))?,
    };
    names.sort();
    for name in &names {
        if name.ends_with(".crt") {
            upstream.authorities.push(name.clone());
        } else if let Some(stem) = name.strip_suffix(".cert") {
            let key = format!("{stem}.key");
            let key = names.contains(&key).then_some(key);
            upstream.clients.push((name.clone(), key));
        }
    }
    Ok(upstream)
}

/// Without a scheme from the user, containerd's own default is kept: https, and for registries on
/// loopback http or https as it finds out, which `server` would take away.
fn server(registry: &Registry) -> Option<String> {
    let host = registry.name.rsplit_once(':').map_or(registry.name.as_str(), |(host, _)| host);
    let loopback =
        host == "localhost" || host.starts_with("127.") || host == "[::1]" || registry.name == "::1";
    match (registry.scheme, registry.name.as_str()) {
        (None, "_default") => None,
        (None | Some("https"), "docker.io") => Some("https://registry-1.docker.io".to_owned()),
        (None, _) if loopback => None,
        (scheme, name) => Some(format!("{}://{name}", scheme.unwrap_or("https"))),
    }
}

/// Backup, note, file, in this order: whatever is cut short, remove and another install find out by
/// the file itself what is true.
fn carry_out(plan: &Plan, entry: &Entry) -> Result<(), FileError> {
    if plan.unchanged {
        return Ok(());
    }
    let folder = &plan.folder;
    let folders_made = folder.make()? + plan.folders_made;
    match &plan.backup {
        Backup::Take => folder.back_up()?,
        Backup::Keep => {}
        Backup::Write(text) => folder.write_backup(text)?,
        Backup::None => folder.forget_backup()?,
    }
    folder.write_note(&Note::new(&entry.url, &plan.text, folders_made))?;
    folder.write_hosts(&plan.text)
}

#[cfg(test)]
mod tests;
