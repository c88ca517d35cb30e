//! Decides which hosts containerd asks for a registry after the mirror, and how, from its `certs.d`, the
//! tables of the configuration, and its proxies.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use piccolo_raft::errors::chain;
use reqwest::Url;

use super::outcome::Trust;
use crate::agent::RegistryPolicy;
use crate::hosts_toml::upstreams::{self, Host, UpstreamsError};
use crate::oci::registry::{DOCKER_HUB, DOCKER_HUB_API, canonical};
use crate::proxies::Proxies;

/// What is probed for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Hosts in the order in which containerd asks them. A host has several URLs if it is not known whether
    /// it speaks TLS.
    pub(super) hosts: Vec<Vec<Target>>,
    /// The ways that containerd may go: its proxies, or every possible way.
    pub(super) ways: Vec<Proxies>,
    /// Why this may differ from what containerd does.
    pub(super) problem: Option<String>,
}

/// One URL to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Root of the API, without a slash at its end.
    pub(super) base: String,
    pub(super) trust: Trust,
    pub(super) tls: TlsSpec,
    /// The value of `ns`, where containerd sends one.
    pub(super) ns: Option<String>,
}

/// Which certificates are accepted, and which are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TlsSpec {
    pub(super) verify: Verify,
    /// Client certificates with their keys.
    pub(super) clients: Vec<(PathBuf, Option<PathBuf>)>,
}

/// Which certificates of a host are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verify {
    /// Any certificate: containerd may know CAs that this process does not.
    #[default]
    Any,
    /// Certificates of these CAs and of the system's.
    With(Vec<PathBuf>),
    /// Certificates of this CA alone, as a table requires it.
    Only(PathBuf),
}

/// The sources of a plan.
pub(super) struct Sources<'a> {
    pub(super) policy: &'a RegistryPolicy,
    pub(super) roots: &'a [PathBuf],
    /// Address of the mirror: containerd's entry for it is left out.
    pub(super) own: Option<SocketAddr>,
    /// Proxies of this process, used where containerd's are not known.
    pub(super) environment: Option<&'a Proxies>,
}

/// Whether a table or a folder of its own names `registry`. A client can make up any name that `_default`
/// covers, so that `_default` does not count.
pub(super) fn is_named(roots: &[PathBuf], registry: &str) -> bool {
    matches!(upstreams::folder(roots, registry), Ok(Some(folder)) if !folder.is_default)
}

/// Reads the files and makes the plan for `registry`.
pub(super) fn plan(registry: &str, sources: &Sources<'_>) -> Plan {
    let mut plan = Plan::default();
    match ways(sources) {
        Ok(ways) => plan.ways = ways,
        Err(problem) => {
            plan.problem = Some(problem);
            plan.ways = possible_ways(sources.environment);
        }
    }
    let ca = sources.policy.ca.as_ref();
    if let Some(origin) = &sources.policy.origin {
        plan.hosts = vec![vec![of_table(origin, ca)]];
        return plan;
    }
    match hosts(registry, sources) {
        Ok(Some(hosts)) => {
            let resolving = hosts.iter().filter(|host| host.resolves && !is_own(host, sources.own));
            plan.hosts = resolving.map(|host| targets(host, registry, ca)).collect();
        }
        Ok(None) => plan.hosts = vec![guessed(registry, ca)],
        Err(error) => {
            plan.problem = Some(format!("{}; the registry is judged by its name alone", chain(&error)));
            plan.hosts = vec![guessed(registry, ca)];
        }
    }
    plan
}

/// The hosts that containerd reads; `None` if they are not known.
fn hosts(registry: &str, sources: &Sources<'_>) -> Result<Option<Vec<Host>>, UpstreamsError> {
    let Some(folder) = upstreams::folder(sources.roots, registry)? else { return Ok(None) };
    upstreams::hosts(Some(&folder), registry).map(Some)
}

fn of_table(origin: &str, ca: Option<&PathBuf>) -> Target {
    let base = format!("{}/v2", origin.trim_end_matches('/'));
    Target { base, trust: Trust::Named, tls: table_tls(ca), ns: None }
}

fn table_tls(ca: Option<&PathBuf>) -> TlsSpec {
    TlsSpec { verify: ca.map_or(Verify::Any, |ca| Verify::Only(ca.clone())), clients: Vec::new() }
}

/// The registry by its name alone. Nothing says whether it speaks TLS, unless it has a CA.
fn guessed(registry: &str, ca: Option<&PathBuf>) -> Vec<Target> {
    let host = api_host(registry);
    let target = |scheme: &str, trust| Target {
        base: format!("{scheme}://{host}/v2"),
        trust,
        tls: table_tls(ca),
        ns: None,
    };
    let mut targets = vec![target("https", Trust::Named)];
    if ca.is_none() {
        targets.push(target("http", Trust::Guessed));
    }
    targets
}

fn targets(host: &Host, registry: &str, ca: Option<&PathBuf>) -> Vec<Target> {
    let is_registry = host.is_implied || canonical(&host.authority) == canonical(registry);
    let tls = match ca.filter(|_| is_registry && host.tls.authorities.is_empty()) {
        Some(ca) => TlsSpec { verify: Verify::Only(ca.clone()), clients: host.tls.clients.clone() },
        None if host.tls.authorities.is_empty() || host.tls.skip_verify == Some(true) => {
            TlsSpec { verify: Verify::Any, clients: host.tls.clients.clone() }
        }
        None => {
            let verify = Verify::With(host.tls.authorities.clone());
            TlsSpec { verify, clients: host.tls.clients.clone() }
        }
    };
    let is_hub = registry == DOCKER_HUB && host.authority == DOCKER_HUB_API;
    let ns = (host.authority != registry && !is_hub).then(|| registry.to_owned());
    let schemes: &[&str] =
        if host.falls_back_to_http { &["https", "http"] } else { std::slice::from_ref(&"https") };
    let schemes = if host.scheme == "http" && !host.falls_back_to_http { &["http"][..] } else { schemes };
    let target = |scheme: &&str| Target {
        base: format!("{scheme}://{}{}", host.authority, host.path),
        trust: Trust::Named,
        tls: tls.clone(),
        ns: ns.clone(),
    };
    schemes.iter().map(target).collect()
}

fn api_host(registry: &str) -> &str {
    if canonical(registry) == DOCKER_HUB { DOCKER_HUB_API } else { registry }
}

/// Whether a host of a file is this agent's own mirror.
fn is_own(host: &Host, own: Option<SocketAddr>) -> bool {
    let Some(own) = own else { return false };
    let Ok(url) = Url::parse(&format!("{}://{}", host.scheme, host.authority)) else { return false };
    if url.port_or_known_default() != Some(own.port()) {
        return false;
    }
    let name = url.host_str().unwrap_or_default();
    match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => ip == own.ip() || ip.is_loopback() || ip.is_unspecified() || is_address_of_this_host(ip),
        Err(_) => name == "localhost",
    }
}

/// Whether an address belongs to this host: only then can a socket be bound to it.
fn is_address_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// containerd's proxies where they are recorded, else every possible way.
fn ways(sources: &Sources<'_>) -> Result<Vec<Proxies>, String> {
    let Some(first) = sources.roots.first() else { return Ok(possible_ways(sources.environment)) };
    let path = Proxies::path(first);
    let problem = |reason: &dyn Display, advice: &str| {
        format!("could not read containerd's proxies from {}: {reason}; {advice}", path.display())
    };
    match read(&path) {
        Ok(Some(text)) => Proxies::parse(&text)
            .map(|known| vec![known])
            .map_err(|error| problem(&error, "run `piccolo mirror install` again")),
        Ok(None) => Ok(possible_ways(sources.environment)),
        // The file may hold a password, so that install creates it for its owner alone.
        Err(error) => Err(problem(
            &error,
            "let the agent's user read this file: it belongs to whoever ran mirror install",
        )),
    }
}

/// A direct connection, and the way of this process's environment. If containerd's way is one of them and
/// gives an answer, the registry is there; nodes may answer only if no way gives one.
fn possible_ways(environment: Option<&Proxies>) -> Vec<Proxies> {
    std::iter::once(Proxies::default()).chain(environment.cloned()).collect()
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Site {
        root: tempfile::TempDir,
        policy: RegistryPolicy,
        environment: Option<Proxies>,
    }

    impl Site {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            Self { root, policy: RegistryPolicy::default(), environment: None }
        }

        fn hosts_toml(self, registry: &str, text: &str) -> Self {
            let folder = self.root.path().join(registry);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("hosts.toml"), text).unwrap();
            self
        }

        fn plan(&self, registry: &str) -> Plan {
            let sources = Sources {
                policy: &self.policy,
                roots: &[self.root.path().to_owned()],
                own: Some("127.0.0.1:7780".parse().unwrap()),
                environment: self.environment.as_ref(),
            };
            super::plan(registry, &sources)
        }

        fn bases(&self, registry: &str) -> Vec<Vec<String>> {
            let plan = self.plan(registry);
            plan.hosts.iter().map(|host| host.iter().map(|target| target.base.clone()).collect()).collect()
        }
    }

    const OURS: &str = "[host.\"http://127.0.0.1:7780\"]\n";

    #[test]
    fn the_hosts_behind_us_are_asked_in_the_order_of_the_file() {
        let text = format!(
            "server = \"https://registry-1.docker.io\"\n{OURS}[host.\"https://harbor.example/hub\"]\n"
        );
        let site = Site::new().hosts_toml("docker.io", &text);
        assert_eq!(
            site.bases("docker.io"),
            [["https://harbor.example/hub/v2"], ["https://registry-1.docker.io/v2"]]
        );
        let plan = site.plan("docker.io");
        assert_eq!(plan.hosts[0][0].ns.as_deref(), Some("docker.io"));
        assert_eq!(plan.hosts[1][0].ns, None, "containerd knows Docker Hub by both names");
    }

    #[test]
    fn our_own_entry_is_left_out_however_it_is_written() {
        for (url, is_own) in [
            ("http://127.0.0.1:7780", true),
            ("http://localhost:7780", true),
            ("http://[::1]:7780", true),
            ("http://127.0.0.2:7780", true),
            ("http://127.0.0.1:5000", false),
            ("http://mirror.example:7780", false),
            ("http://192.0.2.1:7780", false),
        ] {
            let site = Site::new().hosts_toml("r.example", &format!("[host.\"{url}\"]\n"));
            assert_eq!(site.bases("r.example").len() == 1, is_own, "{url}");
        }
    }

    #[test]
    fn a_host_that_does_not_resolve_is_not_asked() {
        let text = "[host.\"https://a.example\"]\ncapabilities = [\"pull\"]\n";
        assert_eq!(Site::new().hosts_toml("r.example", text).bases("r.example"), [["https://r.example/v2"]]);
    }

    #[test]
    fn without_a_folder_the_registry_is_guessed_by_its_name() {
        let site = Site::new();
        assert_eq!(site.bases("r.example:5000"), [["https://r.example:5000/v2", "http://r.example:5000/v2"]]);
        assert_eq!(site.bases("docker.io")[0][0], "https://registry-1.docker.io/v2");
        assert_eq!(site.plan("r.example").hosts[0][1].trust, Trust::Guessed);
    }

    #[test]
    fn a_table_comes_before_the_file_and_its_ca_holds_for_the_registry_itself() {
        let mut site =
            Site::new().hosts_toml("r.example", &format!("{OURS}[host.\"https://harbor.example\"]\n"));
        site.policy.ca = Some("/ca.pem".into());
        let plan = site.plan("r.example");
        assert_eq!(plan.hosts[0][0].tls.verify, Verify::Any, "of Harbor nothing is said");
        assert_eq!(plan.hosts[1][0].tls.verify, Verify::Only("/ca.pem".into()));
        site.policy.origin = Some("http://10.0.0.9:5000/".to_owned());
        assert_eq!(site.bases("r.example"), [["http://10.0.0.9:5000/v2"]]);
    }

    #[test]
    fn default_covers_a_registry_but_does_not_name_it() {
        let site = Site::new()
            .hosts_toml("_default", "server = \"https://harbor.example\"\n")
            .hosts_toml("a.example", "");
        let roots = [site.root.path().to_owned()];
        assert_eq!(site.bases("any.example"), [["https://harbor.example/v2"]]);
        assert!(is_named(&roots, "a.example") && !is_named(&roots, "any.example"));
    }

    #[test]
    fn a_recorded_proxy_is_the_only_way_and_without_a_record_both_are_tried() {
        let environment = Proxies { https_proxy: Some("agent:1".to_owned()), ..Proxies::default() };
        let mut site = Site::new();
        assert_eq!(site.plan("r.example").ways, [Proxies::default()]);
        site.environment = Some(environment.clone());
        assert_eq!(site.plan("r.example").ways, [Proxies::default(), environment.clone()]);
        for recorded in
            [Proxies::default(), Proxies { https_proxy: Some("c:2".to_owned()), ..Proxies::default() }]
        {
            std::fs::write(Proxies::path(site.root.path()), recorded.render()).unwrap();
            assert_eq!(site.plan("r.example").ways, [recorded]);
        }
        std::fs::write(Proxies::path(site.root.path()), "format = 9").unwrap();
        let plan = site.plan("r.example");
        assert_eq!(plan.ways, [Proxies::default(), environment]);
        assert!(plan.problem.unwrap().contains("newer"));
        // Another install would not help an agent that may not read the file.
        std::fs::remove_file(Proxies::path(site.root.path())).unwrap();
        std::fs::create_dir(Proxies::path(site.root.path())).unwrap();
        let problem = site.plan("r.example").problem.unwrap();
        assert!(
            problem.contains("let the agent's user read") && !problem.contains("install` again"),
            "{problem}"
        );
    }
}
