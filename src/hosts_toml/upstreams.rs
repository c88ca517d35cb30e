//! The hosts that containerd asks for a registry, read from `certs.d` as containerd reads them
//! (docs/hosts.md; core/remotes/docker/config/hosts.go, from 1.6 to 2.4).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;
use toml_edit::{Document, Item, Table};

use crate::oci::registry::{DOCKER_HUB, DOCKER_HUB_API};

const FILE: &str = "hosts.toml";
/// Folder for all registries without their own.
pub const DEFAULT: &str = "_default";

/// One host that containerd asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// `http` or `https`.
    pub scheme: String,
    /// `host[:port]`.
    pub authority: String,
    /// Path of the API's root, such as `/v2`.
    pub path: String,
    /// True if containerd resolves tags at this host.
    pub resolves: bool,
    /// True if containerd tries https first, and http if TLS fails.
    pub falls_back_to_http: bool,
    /// True for the registry itself, which is derived from its name and not written in a file.
    pub is_implied: bool,
    /// TLS settings of this host.
    pub tls: Tls,
}

/// TLS settings of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tls {
    /// PEM files of CAs that are trusted in addition to those of the system.
    pub authorities: Vec<PathBuf>,
    /// PEM files of client certificates, each with its key file if that is separate.
    pub clients: Vec<(PathBuf, Option<PathBuf>)>,
    /// True if any certificate of the host is accepted.
    pub skip_verify: Option<bool>,
}

/// The folder of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Path of the folder.
    pub path: PathBuf,
    /// True for `_default`, which is for registries without their own folder.
    pub is_default: bool,
}

/// State of a file or folder that shows a change without reading it; `None`: it does not exist.
pub type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;

/// Why the hosts of a registry are not known.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsError {
    /// The file cannot be read by the agent; containerd runs as root and may be able to.
    #[error("could not read {}", path.display())]
    Unreadable {
        /// Path of the file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// The folder of `registry`, which is spelled as in the image's name. In each root containerd looks for
/// `host_port_`, `host:port` and `_default`, before it goes on to the next root (`hostDirFromRoots` in
/// internal/cri/server/images/image_pull.go, `hostPaths` in core/remotes/docker/config/config_unix.go).
///
/// # Errors
/// If a root cannot be read.
pub fn folder(roots: &[PathBuf], registry: &str) -> Result<Option<Folder>, UpstreamsError> {
    for root in roots {
        for name in names(registry) {
            let path = root.join(&name);
            match fs::metadata(&path) {
                Ok(_) => return Ok(Some(Folder { path, is_default: name == DEFAULT })),
                Err(error) if is_missing(&error) => {}
                Err(source) => return Err(UpstreamsError::Unreadable { path, source }),
            }
        }
    }
    Ok(None)
}

/// Names of a registry's folder, as in containerd's `hostPaths`.
fn names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(host, _)| !host.is_empty()) {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([registry.to_owned(), DEFAULT.to_owned()]);
    names
}

/// The hosts that containerd asks for `registry`, in its order, with the registry itself at the end.
///
/// # Errors
/// If a file or folder cannot be read.
pub fn hosts(folder: Option<&Folder>, registry: &str) -> Result<Vec<Host>, UpstreamsError> {
    let Some(folder) = folder else { return Ok(vec![implied(registry, Tls::default())]) };
    let path = folder.path.join(FILE);
    match fs::read_to_string(&path) {
        // containerd treats an empty file, and one that it cannot parse, like a missing one.
        Ok(text) if !text.is_empty() => match parse(&text, &folder.path, registry) {
            Ok(hosts) => return Ok(hosts),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "containerd cannot read this file")
            }
        },
        Ok(_) => {}
        Err(error) if is_missing(&error) || error.kind() == io::ErrorKind::InvalidData => {}
        Err(source) => return Err(UpstreamsError::Unreadable { path, source }),
    }
    let tls = cert_files(&folder.path)
        .map_err(|source| UpstreamsError::Unreadable { path: folder.path.clone(), source })?;
    Ok(vec![implied(registry, tls)])
}

/// The state of one file.
pub fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Why containerd ignores a whole file.
#[derive(Debug, thiserror::Error)]
enum IgnoredFile {
    #[error(transparent)]
    NotToml(#[from] toml_edit::TomlError),
    #[error("{url}: {error}")]
    BadUrl { url: String, error: <Url as FromStr>::Err },
    #[error("{url} has no host")]
    NoHost { url: Url },
    #[error("capabilities is not a list")]
    Capabilities,
    #[error("a capability is not a text")]
    Capability,
    #[error("ca is neither a text nor a list of texts")]
    Authorities,
    #[error("client is neither a text, a list of texts nor a list of pairs")]
    Clients,
}

/// Parses a file like containerd's `parseHostsFile`.
fn parse(text: &str, folder: &Path, registry: &str) -> Result<Vec<Host>, IgnoredFile> {
    let document = Document::parse(text)?;
    let root = document.as_table();
    let mut hosts = Vec::new();
    for (url, table) in in_order(root) {
        hosts.push(host(Some(url), table, folder, registry)?);
    }
    let server = root.get("server").and_then(Item::as_str).filter(|server| !server.is_empty());
    hosts.push(host(server, root, folder, registry)?);
    Ok(hosts)
}

/// The `[host."URL"]` tables in the order of the file, in which containerd asks them.
fn in_order(root: &Table) -> Vec<(&str, &Table)> {
    let Some(Item::Table(hosts)) = root.get("host") else { return Vec::new() };
    let mut found: Vec<(usize, &str, &Table)> = hosts
        .iter()
        .filter_map(|(url, item)| Some((first_line(item.as_table()?)?, url, item.as_table()?)))
        .collect();
    found.sort_by_key(|(start, ..)| *start);
    found.into_iter().map(|(_, url, table)| (url, table)).collect()
}

/// Position of the first header of a table or of one of its subtables.
fn first_line(table: &Table) -> Option<usize> {
    let own = table.span().filter(|_| !table.is_implicit() && !table.is_dotted()).map(|span| span.start);
    let below = table.iter().filter_map(|(_, item)| first_line(item.as_table()?));
    own.into_iter().chain(below).min()
}

fn host(url: Option<&str>, table: &Table, folder: &Path, registry: &str) -> Result<Host, IgnoredFile> {
    let tls = tls(table, folder)?;
    let resolves = resolves(table)?;
    let Some(url) = url else { return Ok(implied(registry, tls)) };
    let url = if url.starts_with("http") { url.to_owned() } else { format!("https://{url}") };
    let url = Url::parse(&url).map_err(|error| IgnoredFile::BadUrl { url, error })?;
    let name = url.host_str().ok_or_else(|| IgnoredFile::NoHost { url: url.clone() })?;
    let authority = match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let overrides = table.get("override_path").and_then(Item::as_bool) == Some(true);
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !overrides && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    let port_is_http = url.port_or_known_default() == Some(80);
    let falls_back_to_http = url.scheme() == "http" && tls != Tls::default() && !port_is_http;
    let scheme = url.scheme().to_owned();
    Ok(Host { scheme, authority, path, resolves, falls_back_to_http, is_implied: false, tls })
}

/// The registry itself, as containerd derives it from the name.
fn implied(registry: &str, tls: Tls) -> Host {
    let name = if registry == DOCKER_HUB { DOCKER_HUB_API } else { registry };
    let port = registry.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port);
    let is_ambiguous = is_localhost(registry) && !matches!(port, None | Some("443"));
    let is_http = is_ambiguous && port == Some("80");
    Host {
        scheme: if is_http { "http" } else { "https" }.to_owned(),
        authority: name.to_owned(),
        path: "/v2".to_owned(),
        resolves: true,
        falls_back_to_http: is_ambiguous && !is_http,
        is_implied: true,
        tls,
    }
}

/// True for a registry on this host, as in containerd's `IsLocalhost`.
fn is_localhost(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ipv6, _)) => ipv6,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// True if a tag may be resolved, which needs both `pull` and `resolve`.
fn resolves(table: &Table) -> Result<bool, IgnoredFile> {
    let Some(item) = table.get("capabilities") else { return Ok(true) };
    let list = item.as_array().ok_or(IgnoredFile::Capabilities)?;
    let (mut pull, mut resolve) = (list.is_empty(), list.is_empty());
    for capability in list {
        match capability.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("pull") => pull = true,
            Some("resolve") => resolve = true,
            // Some versions do not know this capability and refuse the file; reading it does no harm.
            Some(_) => {}
            None => return Err(IgnoredFile::Capability),
        }
    }
    Ok(pull && resolve)
}

fn tls(table: &Table, folder: &Path) -> Result<Tls, IgnoredFile> {
    let text = |value: &toml_edit::Value| value.as_str().map(|name| folder.join(name));
    let mut tls = Tls { skip_verify: table.get("skip_verify").and_then(Item::as_bool), ..Tls::default() };
    if let Some(ca) = table.get("ca").and_then(Item::as_value) {
        tls.authorities = match ca.as_array() {
            Some(list) => list.iter().map(text).collect::<Option<_>>(),
            None => text(ca).map(|path| vec![path]),
        }
        .ok_or(IgnoredFile::Authorities)?;
    }
    if let Some(client) = table.get("client").and_then(Item::as_value) {
        let pair = |value: &toml_edit::Value| match value.as_array() {
            Some(pair) if pair.len() == 2 => Some((text(pair.get(0)?)?, Some(text(pair.get(1)?)?))),
            Some(_) => None,
            None => Some((text(value)?, None)),
        };
        tls.clients = match client.as_array() {
            Some(list) => list.iter().map(pair).collect::<Option<_>>(),
            None => pair(client).map(|pair| vec![pair]),
        }
        .ok_or(IgnoredFile::Clients)?;
    }
    Ok(tls)
}

/// Certificates in the folder, in the layout of Docker, as in containerd's `loadCertFiles`.
fn cert_files(folder: &Path) -> io::Result<Tls> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    names.sort();
    let mut tls = Tls::default();
    for path in names {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.clients.push((path, key.exists().then_some(key)));
            }
            _ => {}
        }
    }
    Ok(tls)
}

#[cfg(test)]
mod tests;
