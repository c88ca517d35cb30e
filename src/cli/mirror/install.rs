//! `piccolo mirror install`. It reads and plans everything before it writes, so that one file that cannot be
//! changed leaves all others unchanged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use piccolo_raft::errors::chain;

use super::folder::{Folder, FolderState, Note};
use super::lock::Lock;
use super::registry::Registry;
use super::roots::{DEFAULT, Place, Roots};
use super::standing::{self, Standing};
use super::{CERTS_DIR, FileError, MirrorError, config_path, k3s, proxy};
use crate::cli::output::print;
use crate::cli::{CliError, Exit, Invocation, Subcommand};
use crate::config::{Fallback, Layers, Setting};
use crate::hosts_toml::{self, Before, Entry, Upstream};
use crate::limits::{DIAL_TIMEOUT_MAX, DIAL_TIMEOUT_MIN, MIRROR_LOCK_WAIT};
use crate::proxies::Proxies;
use crate::value;

/// The subcommand `piccolo mirror install`.
pub(in crate::cli) const INSTALL: Subcommand = Subcommand {
    name: "install",
    about: "Make containerd ask our mirror first for these registries",
    examples: "\
Examples:
  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry docker.io,ghcr.io
  piccolo mirror install --certs-dir /etc/containerd/certs.d:/etc/docker/certs.d --registry _default
  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry http://10.0.0.9:5000

The present text of hosts.toml stays, after our entry; `piccolo mirror remove` restores it. containerd reads \
the file at each pull, without a restart. Its configuration must name the folder once (config_path of its \
registry settings). Name a registry that speaks plain http with http://. If there are several folders, the \
one that containerd reads for the registry is changed.

The proxy of containerd is recorded for the agent, in piccolo-proxies.toml of the first folder. It is read \
from the files of containerd's systemd unit, unless --containerd-proxy names it.
`piccolo mirror check` tells whether containerd asks the mirror.",
    settings: &[("", CERTS_DIR), ("", SETTINGS), ("", config_path::SETTINGS)],
    words: &[],
    registries: false,
    run,
};

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
        "Time after which containerd asks the next host if the mirror accepts no connection; only containerd \
         2.1 and later know it [default: not written]",
    ),
    Setting::new(
        "containerd-proxy",
        "URL|none",
        "The proxy of containerd [default: the one in the files of its systemd unit]",
    ),
];

struct Options {
    roots: Roots,
    registries: Vec<Registry>,
    entry: Entry,
    proxy: proxy::Choice,
    containerd: config_path::Containerd,
}

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (options, _) = invocation.configure(read)?;
    print(&install(&options)?)?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<Options> {
    let roots = layers.required("certs-dir", Roots::parse);
    let registries = layers.required("registry", |text| value::list(text, Registry::parse));
    let url = layers.required("mirror", mirror_url);
    let names = registries.iter().flatten().map(|registry| registry.name.as_str());
    if names.clone().collect::<BTreeSet<_>>().len() < names.count() {
        layers.problem("registry", layers.given("registry"), "each registry only once");
    }
    let dial_timeout =
        layers.optional("dial-timeout", |text| value::duration(text, DIAL_TIMEOUT_MIN, DIAL_TIMEOUT_MAX));
    let proxy = match layers.optional("containerd-proxy", proxy::given) {
        Some(proxies) => proxy::Choice::Given(proxies),
        None => proxy::Choice::Find { system: PathBuf::from("/") },
    };
    let containerd = config_path::read(layers);
    Some(Options {
        roots: roots?,
        registries: registries?,
        entry: Entry { url: url?, dial_timeout },
        proxy,
        containerd: containerd?,
    })
}

/// Checks the URL of the mirror. containerd compares hosts by scheme and address; a path would come before
/// `/v2`.
pub(super) fn mirror_url(given: &str) -> value::Parsed<String> {
    let expected = || "a URL like http://127.0.0.1:7780, without a path".to_owned();
    let url = value::base_url(given).map_err(|_| expected())?;
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let plain = authority.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._:[]".contains(&c));
    if plain { Ok(url) } else { Err(expected()) }
}

/// The planned change of one folder.
struct Plan {
    folder: Folder,
    /// Text of `hosts.toml` when the plan was made.
    current: Option<String>,
    /// New text of `hosts.toml`.
    text: String,
    backup: Backup,
    /// Number of folders that an earlier install made, from its note.
    folders_made: usize,
    /// True if the file already has the new text.
    unchanged: bool,
}

enum Backup {
    /// The backup is the present `hosts.toml`.
    Take,
    /// Keep the backup of an earlier install.
    Keep,
    /// The file was edited since the install: the backup is its text without our entry.
    Write(String),
    /// There was no file before.
    None,
}

/// A step of install in one folder. Tests stop after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Folder,
    Backup,
    Note,
    Hosts,
}

/// Plans and writes; returns the message for the user.
fn install(options: &Options) -> Result<String, MirrorError> {
    let found = options.containerd.config_path(None);
    let roots = found.whole_list(&options.roots).unwrap_or_else(|| options.roots.clone());
    let owner = roots.all().iter().find_map(|root| k3s::owner_of(root).map(|owner| (root, owner)));
    if let Some((root, program)) = owner {
        return Err(generated(options, root, program));
    }
    let lock =
        Lock::take(&roots, true, MIRROR_LOCK_WAIT).map_err(|error| MirrorError::of(roots.first(), error))?;
    let mut plans = Vec::new();
    let mut refused = Vec::new();
    for registry in &options.registries {
        match plan(options, &roots, registry) {
            Ok(plan) => plans.push((registry, plan)),
            Err((hosts, error)) => refused.push((hosts, error)),
        }
    }
    if !refused.is_empty() {
        lock.unmake();
        return Err(MirrorError::Refused { refused });
    }
    let mut message = String::new();
    for (registry, plan) in &plans {
        let in_first_root = plan.folder.path().parent() == Some(roots.first());
        let folders_made = if in_first_root { lock.folders_made() } else { 0 };
        carry_out(plan, &options.entry, folders_made, &mut |_| Ok(()))
            .map_err(|error| MirrorError::of(&plan.folder.hosts_path(), error))?;
        message.push_str(&sentence(&roots, &options.entry, registry, plan));
    }
    let recorded = proxy::record(&roots, &options.proxy)
        .map_err(|error| MirrorError::of(&Proxies::path(roots.first()), error))?;
    message.push_str(&recorded);
    message.push_str(&config_path::sentence(&found, &roots));
    // Removes the first folder again if nothing was written there.
    lock.unmake();
    Ok(message)
}

/// The error for a folder that k3s or RKE2 generates. The proxy is recorded there all the same, in a file that
/// they leave alone.
fn generated(options: &Options, folder: &Path, program: &'static str) -> MirrorError {
    let snippet = k3s::snippet(program, &options.registries, &options.entry.url);
    let recorded = if options.roots.first().is_dir() {
        proxy::record(&options.roots, &options.proxy).unwrap_or_else(|error| format!("{}\n", chain(&error)))
    } else {
        String::new()
    };
    MirrorError::Generated { folder: folder.to_owned(), program, snippet, recorded }
}

/// Describes the result for one registry.
fn sentence(roots: &Roots, entry: &Entry, registry: &Registry, plan: &Plan) -> String {
    let standing = standing::of(roots, &registry.name, &entry.url);
    let what = match &standing {
        Standing::First { .. } if plan.unchanged => "unchanged, our mirror is first already".to_owned(),
        standing => standing.to_string(),
    };
    let mut message = format!("{}: {what}\n", plan.folder.hosts_path().display());
    if let Some(given) = &registry.given {
        message.push_str(&format!(
            "  no image name has {given}: images of Docker Hub are images of docker.io\n"
        ));
    }
    message
}

/// An error with the path that it is about.
type Refused = (PathBuf, FileError);

fn plan(options: &Options, roots: &Roots, registry: &Registry) -> Result<Plan, Refused> {
    let folder = match roots.place(&registry.name) {
        Place::Own(folder) => folder,
        Place::Default(default) => {
            // If `_default` is read now, the new folder goes into the first root, so that containerd finds it
            // before any `_default`.
            let new = roots.new_place(&registry.name, roots.first());
            hides(&default).map_err(|error| (new.hosts_path(), error))?;
            new
        }
        Place::None => roots.new_place(&registry.name, options.roots.first()),
    };
    let hosts = folder.hosts_path();
    plan_in(folder, registry, &options.entry).map_err(|error| (hosts, error))
}

fn plan_in(folder: Folder, registry: &Registry, entry: &Entry) -> Result<Plan, FileError> {
    let FolderState { current, note, before, .. } = folder.state()?;
    if let Some(program) = current.as_deref().and_then(hosts_toml::first_line_is_of_k3s) {
        return Err(FileError::Generated { program });
    }
    let (base, backup) = match before {
        Before::Nothing => (None, Backup::None),
        Before::Backup(text) => (Some(text), Backup::Keep),
        Before::Edited(text) => (Some(text.clone()), Backup::Write(text)),
        Before::NotOurs => (current.clone(), Backup::Take),
    };
    let text = match base {
        // containerd treats an empty file like a missing one.
        Some(original) if !original.is_empty() => hosts_toml::in_front(&original, entry)?,
        _ => hosts_toml::fresh(&registry.upstream(&folder)?, entry),
    };
    let folders_made = note.as_ref().map_or(0, |note| note.folders_made);
    let unchanged = note.is_some_and(|note| note.wrote(&text)) && current.as_ref() == Some(&text);
    Ok(Plan { folder, current, text, backup, folders_made, unchanged })
}

/// Refuses a folder for a registry that would hide files of others in `_default`: hosts or certificates.
fn hides(default: &Folder) -> Result<(), FileError> {
    let certificates = Registry::parse(DEFAULT).expect("it is one").upstream(default)?;
    let is_empty = match default.state()?.before {
        Before::Nothing => certificates == Upstream::default(),
        Before::Backup(text) => text.is_empty() && certificates == Upstream::default(),
        Before::Edited(_) | Before::NotOurs => false,
    };
    if is_empty { Ok(()) } else { Err(FileError::HidesDefault { default: default.path().to_owned() }) }
}

/// Writes backup, note and file in this order: if it is interrupted, remove and the next install can tell
/// from the file what was done.
fn carry_out(
    plan: &Plan,
    entry: &Entry,
    root_folders_made: usize,
    done: &mut dyn FnMut(Step) -> Result<(), FileError>,
) -> Result<(), FileError> {
    if plan.unchanged {
        return Ok(());
    }
    let folder = &plan.folder;
    let made = folder.make()?;
    // Folders above this one count as made for it only if it is new itself.
    let folders_made = made + plan.folders_made + if made > 0 { root_folders_made } else { 0 };
    done(Step::Folder)?;
    match &plan.backup {
        Backup::Take => folder.back_up(plan.current.as_deref())?,
        Backup::Keep => {}
        Backup::Write(text) => folder.write_backup(text)?,
        Backup::None => folder.forget_backup()?,
    }
    done(Step::Backup)?;
    folder.write_note(&Note::new(&entry.url, &plan.text, folders_made))?;
    done(Step::Note)?;
    folder.write_hosts(&plan.text, plan.current.as_deref())?;
    done(Step::Hosts)
}

#[cfg(test)]
mod tests;
