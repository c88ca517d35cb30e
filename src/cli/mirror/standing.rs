//! Position of our mirror among the hosts of one registry, by the files that containerd reads.

use std::fmt;
use std::path::PathBuf;

use piccolo_raft::errors::chain;

use super::roots::{Place, Roots};
use crate::hosts_toml::{hosts_in_order, our_urls};

/// Position of our mirror for one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// containerd asks our mirror first, for content and for tags.
    First { file: PathBuf },
    /// containerd asks other hosts before our mirror.
    Behind {
        file: PathBuf,
        /// Those other hosts.
        before: Vec<String>,
    },
    /// Our entry lacks a capability.
    Incapable { file: PathBuf, missing: &'static str },
    /// The file has an entry that install wrote for a mirror at another address.
    Elsewhere {
        file: PathBuf,
        /// URLs of such entries.
        urls: Vec<String>,
        /// URL of our mirror.
        url: String,
    },
    /// The file has no entry of ours.
    Absent { file: PathBuf },
    /// None of containerd's folders has a file for this registry.
    NoFile,
    /// containerd ignores the file.
    Ignored { file: PathBuf, reason: String },
}

/// Reads what containerd reads for `registry`. `url` is the URL of our mirror.
pub(super) fn of(roots: &Roots, registry: &str, url: &str) -> Standing {
    let folder = match roots.place(registry) {
        Place::Own(folder) | Place::Default(folder) => folder,
        Place::None => return Standing::NoFile,
    };
    let file = folder.hosts_path();
    let text = match folder.hosts() {
        Ok(None) => return Standing::NoFile,
        Ok(Some(text)) if text.is_empty() => return Standing::NoFile,
        Ok(Some(text)) => text,
        Err(error) => return Standing::Ignored { file, reason: chain(&error) },
    };
    let hosts = match hosts_in_order(&text) {
        Ok(hosts) => hosts,
        Err(error) => return Standing::Ignored { file, reason: chain(&error) },
    };
    let Some(position) = hosts.iter().position(|host| host.is(url)) else {
        let noted = folder.note().ok().flatten().map(|note| note.mirror);
        let urls = our_urls(&text, noted.as_deref()).unwrap_or_default();
        return match urls.is_empty() {
            true => Standing::Absent { file },
            false => Standing::Elsewhere { file, urls: urls.into_iter().collect(), url: url.to_owned() },
        };
    };
    let ours = &hosts[position];
    if position > 0 {
        let before = hosts[..position].iter().map(|host| host.url.clone()).collect();
        return Standing::Behind { file, before };
    }
    match (ours.pulls, ours.resolves) {
        (true, true) => Standing::First { file },
        (false, _) => Standing::Incapable { file, missing: "pull" },
        (true, false) => Standing::Incapable { file, missing: "resolve" },
    }
}

impl Standing {
    /// The file that this is about; `None` if there is none.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::First { file }
            | Self::Behind { file, .. }
            | Self::Incapable { file, .. }
            | Self::Elsewhere { file, .. }
            | Self::Absent { file }
            | Self::Ignored { file, .. } => Some(file),
            Self::NoFile => None,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First { .. } => f.write_str("our mirror is first"),
            Self::Behind { before, .. } => {
                write!(f, "our mirror is behind {}: run `piccolo mirror install` again", before.join(", "))
            }
            Self::Incapable { missing, .. } => write!(
                f,
                "our mirror is first, but its capabilities lack \"{missing}\": run `piccolo mirror install` again"
            ),
            Self::Elsewhere { urls, url, .. } => write!(
                f,
                "our mirror is in this file as {}, not as {url}: if the agent listens at the former, give that as \
                 --mirror; if not, run `piccolo mirror install` again",
                urls.join(" and ")
            ),
            Self::Absent { .. } => {
                f.write_str("our mirror is not in this file: run `piccolo mirror install` for this registry")
            }
            Self::NoFile => f.write_str(
                "containerd has no hosts.toml for it: run `piccolo mirror install` for this registry",
            ),
            Self::Ignored { reason, .. } => write!(f, "containerd does not use this file: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::hosts_toml::MARK;

    const URL: &str = "http://127.0.0.1:7780";

    fn standing(root: &Path, text: &str) -> Standing {
        fs::create_dir_all(root.join("r")).unwrap();
        fs::write(root.join("r/hosts.toml"), text).unwrap();
        of(&Roots::parse(root.to_str().unwrap()).unwrap(), "r", URL)
    }

    #[test]
    fn the_position_of_our_mirror_is_as_containerd_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let file = root.join("r/hosts.toml");
        let ours = format!("[host.\"{URL}/v2\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        let other = "[host.\"https://h\"]\n";
        assert_eq!(standing(root, &format!("{ours}{other}")), Standing::First { file: file.clone() });
        assert_eq!(
            standing(root, &format!("{other}{ours}")),
            Standing::Behind { file: file.clone(), before: vec!["https://h".to_owned()] }
        );
        assert_eq!(
            standing(root, &ours.replace(", \"resolve\"", "")),
            Standing::Incapable { file: file.clone(), missing: "resolve" }
        );
        assert_eq!(standing(root, other), Standing::Absent { file: file.clone() });
        let moved = format!("{MARK}\n{}", ours.replace("7780", "7777"));
        let elsewhere = standing(root, &moved);
        let (urls, url) = (vec!["http://127.0.0.1:7777/v2".to_owned()], URL.to_owned());
        assert_eq!(elsewhere, Standing::Elsewhere { file: file.clone(), urls, url });
        let message =
            "our mirror is in this file as http://127.0.0.1:7777/v2, not as http://127.0.0.1:7780: ";
        assert!(elsewhere.to_string().starts_with(message), "{elsewhere}");
        let spoilt = standing(root, &format!("client = [[\"a\"]]\n{ours}"));
        assert!(matches!(&spoilt, Standing::Ignored { reason, .. } if reason.contains("client")), "{spoilt}");
        assert_eq!(standing(root, ""), Standing::NoFile);
        let roots = Roots::parse(root.to_str().unwrap()).unwrap();
        assert_eq!(of(&roots, "other", URL), Standing::NoFile);
    }
}
