//! A registry as the user names it, and what containerd does for it without a file.

use std::fs;
use std::io;

use super::FileError;
use super::folder::Folder;
use super::roots::DEFAULT;
use crate::hosts_toml::Upstream;
use crate::value;

/// Hosts of Docker Hub that no image name has: containerd reads the folder of `docker.io` for them.
const DOCKER_HUB: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// One registry of `--registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    /// The name as it is in image names.
    pub(super) name: String,
    /// The scheme, if the user gave one.
    pub(super) scheme: Option<&'static str>,
    /// The name that the user gave, if no image name has it.
    pub(super) given: Option<String>,
}

impl Registry {
    pub(super) fn parse(given: &str) -> value::Parsed<Self> {
        let (scheme, rest) = match given.split_once("://") {
            Some(("http", rest)) => (Some("http"), rest),
            Some(("https", rest)) => (Some("https"), rest),
            Some(_) => (None, ""),
            None => (None, given),
        };
        let name = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
        let host = name.strip_suffix(":443").unwrap_or(&name);
        let (name, given) = match DOCKER_HUB.contains(&host) {
            true => ("docker.io".to_owned(), Some(name)),
            false => (name, None),
        };
        let right = match name.as_str() {
            DEFAULT => scheme.is_none(),
            name => value::host(name).is_ok() || value::host_port(name).is_ok(),
        };
        if right {
            Ok(Self { name, scheme, given })
        } else {
            Err("registries like docker.io, 10.0.0.9:5000, http://10.0.0.9:5000 or _default".to_owned())
        }
    }

    /// Value of `server`, if the user gave a scheme. Without one containerd's default stays: https, and for
    /// registries on loopback https or http, whichever works; `server` would prevent that.
    pub(super) fn server(&self) -> Option<String> {
        let host = self.name.rsplit_once(':').map_or(self.name.as_str(), |(host, _)| host);
        let loopback =
            host == "localhost" || host.starts_with("127.") || host == "[::1]" || self.name == "::1";
        match (self.scheme, self.name.as_str()) {
            (None, DEFAULT) => None,
            (None | Some("https"), "docker.io") => Some("https://registry-1.docker.io".to_owned()),
            (None, _) if loopback => None,
            (scheme, name) => Some(format!("{}://{name}", scheme.unwrap_or("https"))),
        }
    }

    /// What containerd does for this registry without a file in `folder`.
    pub(super) fn upstream(&self, folder: &Folder) -> Result<Upstream, FileError> {
        let mut upstream = Upstream { server: self.server(), ..Upstream::default() };
        let names = files(folder).map_err(FileError::io("list its folder"))?;
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
}

/// Sorted names of the files in a folder; empty if there is no folder.
fn files(folder: &Folder) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let entries = entries.collect::<io::Result<Vec<_>>>()?;
    let files = entries.into_iter().filter(|entry| !entry.path().is_dir());
    let mut names: Vec<String> =
        files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_images_name_them() {
        for given in ["docker.io", "r:5000", "http://r:5000/", "_default", "[fd00::1]:5000", "GHCR.io"] {
            assert_eq!(Registry::parse(given).unwrap().given, None, "{given}");
        }
        for given in ["registry-1.docker.io", "https://index.docker.io", "Registry-1.docker.io:443"] {
            let registry = Registry::parse(given).unwrap();
            assert_eq!(registry.name, "docker.io", "{given}");
            assert!(registry.given.is_some(), "{given}");
        }
        for given in ["", "ftp://r", "r/x", "..", "a b", "http://_default", "http://", "r:0", "../etc"] {
            assert!(Registry::parse(given).is_err(), "{given}");
        }
    }

    #[test]
    fn containerds_own_idea_of_a_loopback_registry_is_kept() {
        let server_of = |given: &str| Registry::parse(given).unwrap().server();
        assert_eq!(server_of("localhost:5000"), None);
        assert_eq!(server_of("127.0.0.1:5000"), None);
        assert_eq!(server_of("http://127.0.0.1:5000").as_deref(), Some("http://127.0.0.1:5000"));
        assert_eq!(server_of("ghcr.io").as_deref(), Some("https://ghcr.io"));
        assert_eq!(server_of("_default"), None);
    }

    #[test]
    fn a_folder_with_the_name_of_a_certificate_is_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("old.crt")).unwrap();
        for name in ["ca.crt", "a.cert", "a.key", "b.cert"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let upstream =
            Registry::parse("r").unwrap().upstream(&Folder::new(folder.path().to_owned())).unwrap();
        assert_eq!(upstream.authorities, ["ca.crt"]);
        let clients = [("a.cert".to_owned(), Some("a.key".to_owned())), ("b.cert".to_owned(), None)];
        assert_eq!(upstream.clients, clients);
    }
}
