//! The proxy of containerd: found in the files of its systemd unit or given by the user, and recorded for the
//! agent.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::roots::Roots;
use super::units::{self, Unit};
use super::{FileError, k3s};
use crate::proxies::Proxies;
use crate::value;

/// Units that run a containerd for Kubernetes.
const CONTAINERD: [&str; 1] = ["containerd.service"];
const K3S: [&str; 2] = ["k3s.service", "k3s-agent.service"];
const RKE2: [&str; 2] = ["rke2-server.service", "rke2-agent.service"];

/// Source of the proxy settings.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// The value of `--containerd-proxy`.
    Given(Proxies),
    /// The files of the unit below the folder `system`, which is `/` except in tests.
    Find { system: PathBuf },
}

/// Parses the value of `--containerd-proxy`.
pub(super) fn given(text: &str) -> value::Parsed<Proxies> {
    if text == "none" {
        return Ok(Proxies::default());
    }
    let url = reqwest::Url::parse(text).ok();
    let is_proxy = url.is_some_and(|url| {
        matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h")
            && url.has_host()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
    });
    if !is_proxy {
        return Err("a proxy like http://10.0.0.3:3128, or none".to_owned());
    }
    let proxy = Some(text.to_owned());
    Ok(Proxies { http_proxy: proxy.clone(), https_proxy: proxy, no_proxy: None })
}

/// Writes the record into the first folder of `roots`; returns the message for the user. If nothing is found,
/// an earlier record stays.
pub(super) fn record(roots: &Roots, choice: &Choice) -> Result<String, FileError> {
    let path = Proxies::path(roots.first());
    let (proxies, from) = match choice {
        Choice::Given(proxies) => (proxies.clone(), "as --containerd-proxy says".to_owned()),
        Choice::Find { system } => {
            let program = roots.all().iter().find_map(|root| k3s::owner_of(root));
            let Some(unit) = find(system, program) else {
                return Ok(not_found(&path));
            };
            let (proxies, file) = of_unit(&unit, program.is_some());
            (proxies, format!("as {} says", file.display()))
        }
    };
    let text = proxies.render();
    write_private(roots.first(), &path, &text).map_err(FileError::io("record containerd's proxy"))?;
    Ok(format!("{}: recorded for the agent that containerd {}, {from}\n", path.display(), route(&proxies)))
}

fn not_found(path: &Path) -> String {
    let what = if path.exists() { "what was recorded earlier stays" } else { "nothing is recorded" };
    format!(
        "{}: {what}, because no systemd unit of containerd is here; if containerd goes through a proxy, name it \
         with --containerd-proxy URL\n",
        path.display()
    )
}

/// Removes the records in `roots`; returns the message for the user.
pub(super) fn forget(roots: &Roots) -> Result<String, FileError> {
    let mut message = String::new();
    for root in roots.all() {
        let path = Proxies::path(root);
        match fs::remove_file(&path) {
            Ok(()) => message.push_str(&format!("{}: removed\n", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::io("remove it")(error)),
        }
    }
    Ok(message)
}

/// The unit that runs containerd on this node. `program` is k3s or RKE2 if one of them does.
fn find(system: &Path, program: Option<&str>) -> Option<Unit> {
    let units: Vec<&str> = match program {
        Some("rke2") => RKE2.to_vec(),
        Some(_) => K3S.to_vec(),
        None => [CONTAINERD.as_slice(), &K3S, &RKE2].concat(),
    };
    units.iter().find_map(|unit| units::read(system, unit))
}

/// The proxy variables of the unit, as Go's HTTP client in containerd reads them: capitals win. k3s and RKE2
/// pass variables with the prefix CONTAINERD_ to containerd if there are any.
fn of_unit(unit: &Unit, is_k3s: bool) -> (Proxies, PathBuf) {
    let is_k3s = is_k3s || K3S.iter().chain(&RKE2).any(|name| unit.file.ends_with(name));
    let mut file = None;
    let mut of = |name: &str| {
        let own = is_k3s.then(|| format!("CONTAINERD_{name}"));
        let names = own.into_iter().chain([name.to_owned(), name.to_ascii_lowercase()]);
        let found = names.filter_map(|name| unit.environment.get(&name)).find(|(value, _)| !value.is_empty());
        let (value, from) = found?;
        file.get_or_insert_with(|| from.clone());
        Some(value.clone())
    };
    let https_proxy = of("HTTPS_PROXY");
    let http_proxy = of("HTTP_PROXY");
    let no_proxy = if https_proxy.is_some() || http_proxy.is_some() { of("NO_PROXY") } else { None };
    (Proxies { http_proxy, https_proxy, no_proxy }, file.unwrap_or_else(|| unit.file.clone()))
}

/// "goes through the proxy …", without passwords.
fn route(proxies: &Proxies) -> String {
    let mut urls: Vec<String> = [&proxies.https_proxy, &proxies.http_proxy]
        .into_iter()
        .flatten()
        .map(|url| without_user(url))
        .collect();
    urls.dedup();
    match (urls.is_empty(), &proxies.no_proxy) {
        (true, _) => "goes through no proxy".to_owned(),
        (false, None) => format!("goes through the proxy {}", urls.join(" and ")),
        (false, Some(but)) => format!("goes through the proxy {} (but not to {but})", urls.join(" and ")),
    }
}

/// Removes user name and password from a URL.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

/// Writes a file atomically, readable by its owner only.
fn write_private(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    // tempfile makes files that only their owner can read.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Site(tempfile::TempDir);

    impl Site {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> &Self {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn roots(&self, name: &str) -> Roots {
            let root = self.0.path().join(name);
            fs::create_dir_all(&root).unwrap();
            Roots::parse(root.to_str().unwrap()).unwrap()
        }

        fn found(&self, roots: &Roots) -> (String, Option<Proxies>) {
            let message = record(roots, &Choice::Find { system: self.0.path().to_owned() }).unwrap();
            let text = fs::read_to_string(Proxies::path(roots.first())).ok();
            (message, text.map(|text| Proxies::parse(&text).unwrap()))
        }
    }

    fn proxies(http: Option<&str>, https: Option<&str>, no: Option<&str>) -> Option<Proxies> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Proxies { http_proxy: own(http), https_proxy: own(https), no_proxy: own(no) })
    }

    #[test]
    fn the_proxy_of_containerds_unit_is_recorded_privately_and_shown_without_the_password() {
        let site = Site::new();
        let roots = site.roots("certs.d");
        let (message, recorded) = site.found(&roots);
        assert!(recorded.is_none() && message.contains("--containerd-proxy"), "{message}");
        site.write("lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd\n");
        let (message, recorded) = site.found(&roots);
        assert_eq!(recorded, Some(Proxies::default()));
        assert!(message.contains("goes through no proxy"), "{message}");
        site.write(
            "etc/systemd/system/containerd.service.d/proxy.conf",
            "[Service]\nEnvironment=\"HTTPS_PROXY=http://user:secret@10.0.0.3:3128\" https_proxy=http://low NO_PROXY=.svc\n",
        );
        let (message, recorded) = site.found(&roots);
        assert_eq!(recorded, proxies(None, Some("http://user:secret@10.0.0.3:3128"), Some(".svc")));
        assert!(message.contains("http://10.0.0.3:3128") && message.contains("proxy.conf"), "{message}");
        assert!(!message.contains("secret") && !message.contains("user"), "{message}");
        let path = Proxies::path(roots.first());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(forget(&roots).unwrap().contains("removed"));
        assert!(!path.exists());
        assert_eq!(forget(&roots).unwrap(), "");
    }

    #[test]
    fn what_k3s_gives_to_containerd_wins_over_what_it_has_itself() {
        let site = Site::new();
        site.write(
            "etc/systemd/system/k3s-agent.service",
            "[Service]\nEnvironmentFile=-/etc/systemd/system/%N.service.env\n",
        );
        site.write(
            "etc/systemd/system/k3s-agent.service.env",
            "HTTP_PROXY=http://a\nHTTPS_PROXY='http://a'\nCONTAINERD_HTTPS_PROXY=http://b\n",
        );
        // Docker's containerd on the same node.
        site.write("lib/systemd/system/containerd.service", "[Service]\n");
        let (_, recorded) = site.found(&site.roots("var/lib/rancher/k3s/agent/etc/containerd/certs.d"));
        assert_eq!(recorded, proxies(Some("http://a"), Some("http://b"), None));
        let (_, recorded) = site.found(&site.roots("etc/containerd/certs.d"));
        assert_eq!(recorded, Some(Proxies::default()));
    }

    #[test]
    fn the_flag_wins_and_none_is_direct() {
        let site = Site::new();
        let roots = site.roots("certs.d");
        let message = record(&roots, &Choice::Given(given("http://u:p@10.0.0.3:3128").unwrap())).unwrap();
        assert!(message.contains("http://10.0.0.3:3128") && !message.contains("u:p"), "{message}");
        let text = fs::read_to_string(Proxies::path(roots.first())).unwrap();
        let proxy = Some("http://u:p@10.0.0.3:3128");
        assert_eq!(Proxies::parse(&text).ok(), proxies(proxy, proxy, None));
        record(&roots, &Choice::Given(given("none").unwrap())).unwrap();
        let text = fs::read_to_string(Proxies::path(roots.first())).unwrap();
        assert_eq!(Proxies::parse(&text), Ok(Proxies::default()));
        for wrong in ["", "10.0.0.3:3128", "ftp://p", "http://p/path", "http://"] {
            assert!(given(wrong).is_err(), "{wrong}");
        }
    }
}
