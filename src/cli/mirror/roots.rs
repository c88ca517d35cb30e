//! containerd's `config_path`: one folder or several separated by colons, and where containerd looks there
//! for a registry.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::hosts_toml::upstreams;
pub(super) use crate::hosts_toml::upstreams::DEFAULT;
use crate::value;

/// One or more folders, in containerd's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roots(Vec<PathBuf>);

/// The folder that containerd reads for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The registry's own folder.
    Own(Folder),
    /// The folder `_default`, for registries without their own.
    Default(Folder),
    /// No folder.
    None,
}

impl Roots {
    /// Parses `a:b` as containerd does. The folders need not exist.
    pub(super) fn parse(given: &str) -> value::Parsed<Self> {
        let roots: Vec<PathBuf> =
            given.split(':').filter(|root| !root.is_empty()).map(PathBuf::from).collect();
        if roots.is_empty() || roots.iter().any(|root| root.exists() && !root.is_dir()) {
            return Err("a folder, or several separated by colons".to_owned());
        }
        Ok(Self(roots))
    }

    pub(super) fn all(&self) -> &[PathBuf] {
        &self.0
    }

    pub(super) fn first(&self) -> &Path {
        self.0.first().expect("parse refuses an empty list")
    }

    /// Where containerd looks for `registry`. A folder that cannot be read counts as missing.
    pub(super) fn place(&self, registry: &str) -> Place {
        match upstreams::folder(&self.0, registry) {
            Ok(Some(found)) if found.is_default && registry != DEFAULT => {
                Place::Default(Folder::new(found.path))
            }
            Ok(Some(found)) => Place::Own(Folder::new(found.path)),
            Ok(None) | Err(_) => Place::None,
        }
    }

    /// Path for the new folder of `registry`: in `root`, but `_default` in the last folder, because in the
    /// first one it would hide all registries of the others.
    pub(super) fn new_place(&self, registry: &str, root: &Path) -> Folder {
        let last = || self.0.last().expect("parse refuses an empty list").as_path();
        let root = if registry == DEFAULT { last() } else { root };
        Folder::new(root.join(registry))
    }

    /// All folders of registries, sorted within each root. A root that does not exist has none.
    pub(super) fn folders(&self) -> Result<Vec<Folder>, (PathBuf, std::io::Error)> {
        let mut folders = Vec::new();
        for root in &self.0 {
            let entries = match fs::read_dir(root) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                result => result.map_err(|error| (root.clone(), error))?,
            };
            let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|error| (root.clone(), error))?;
            let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
            paths.retain(|path| path.is_dir());
            paths.sort();
            folders.extend(paths.into_iter().map(Folder::new));
        }
        Ok(folders)
    }

    /// The folders as text in the form of `config_path`.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(":")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_is_looked_through_with_its_default_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a/ghcr.io", "b/ghcr.io", "b/quay.io", "b/r_5000_", "b/r:5000"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let roots = format!("{}:{}::", at("a").display(), at("b").display());
        let roots = Roots::parse(&roots).unwrap();
        assert_eq!(roots.all(), [at("a"), at("b")]);
        let own = |name: &str| Place::Own(Folder::new(at(name)));
        assert_eq!(roots.place("ghcr.io"), own("a/ghcr.io"));
        assert_eq!(roots.place("quay.io"), own("b/quay.io"));
        assert_eq!(roots.place("r:5000"), own("b/r_5000_"));
        assert_eq!(roots.place("docker.io"), Place::None);
        assert_eq!(roots.new_place("docker.io", &at("a")).path(), at("a/docker.io"));
        assert_eq!(roots.new_place(DEFAULT, &at("a")).path(), at("b/_default"));
        fs::create_dir(at("a/_default")).unwrap();
        assert_eq!(roots.place("quay.io"), Place::Default(Folder::new(at("a/_default"))));
    }

    #[test]
    fn no_folder_and_a_file_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for given in ["", ":", &format!("/nowhere:{}", file.path().display())] {
            assert!(Roots::parse(given).is_err(), "{given}");
        }
    }
}
