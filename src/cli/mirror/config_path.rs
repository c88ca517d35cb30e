//! Finds out whether containerd reads the folders of `--certs-dir`: its `config_path`, from `containerd
//! config dump` or from its configuration file.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::roots::Roots;
use crate::config::{Fallback, Layers, Setting};
use crate::limits::CONTAINERD_DUMP_TIMEOUT;
use crate::value;

pub(super) const SETTINGS: &[Setting] = &[Setting::new(
    "containerd-config",
    "FILE",
    "containerd's configuration file, to see whether its config_path names the folders of --certs-dir",
)
.or(Fallback::Text("/etc/containerd/config.toml"))];

/// Advice for the case that containerd uses another configuration file than the one that was read.
const OTHER_FILE: &str =
    "; if containerd uses another configuration file, name it with --containerd-config FILE";
/// Default `config_path` of containerd 2.2 and later.
const LIST_OF_2_2: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

/// Plugins that have the registry settings of CRI, in configurations of version 3, 2 and 1.
const CRI_PLUGINS: [&str; 3] = ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "cri"];

/// The containerd of this node.
#[derive(Clone, Debug)]
pub(super) struct Containerd {
    /// Path of its configuration file.
    pub(super) config: PathBuf,
    /// Name of its binary; `None`: only the file is read.
    pub(super) binary: Option<&'static str>,
}

/// What containerd's configuration says about pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConfigPath {
    /// The configuration was read.
    Found {
        /// The value of `config_path`. If it is empty, containerd reads no `hosts.toml`.
        value: String,
        /// True if CRI pulls without the transfer service.
        local_pull: bool,
        /// The file or command that it was read from.
        from: String,
    },
    /// The configuration could not be read.
    Unknown {
        /// The reason, for the message.
        reason: String,
    },
}

/// Reads [`SETTINGS`] from the layers.
pub(super) fn read(layers: &mut Layers) -> Option<Containerd> {
    let config = layers.required("containerd-config", value::path)?;
    Some(Containerd { config, binary: Some("containerd") })
}

impl Containerd {
    /// Major and minor version of the binary.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        version_in(&output(self.binary?, &["--version"])?)
    }

    /// Reads the configuration. `version` is that of the daemon, if it is known.
    pub(super) fn config_path(&self, version: Option<(u32, u32)>) -> ConfigPath {
        let config = self.config.display().to_string();
        let dump = self.binary.and_then(|binary| output(binary, &["--config", &config, "config", "dump"]));
        if let Some(dump) = dump {
            return of_text(
                &dump,
                version.or_else(|| self.version()),
                format!("`containerd --config {config} config dump`"),
            );
        }
        match fs::read_to_string(&self.config) {
            Ok(text) => of_text(&text, version, config),
            Err(error) => ConfigPath::Unknown { reason: format!("could not read {config}: {error}") },
        }
    }
}

fn of_text(text: &str, version: Option<(u32, u32)>, from: String) -> ConfigPath {
    let Ok(values) = text.parse::<toml::Table>() else {
        return ConfigPath::Unknown { reason: format!("{from} is no TOML") };
    };
    let disabled = values.get("disabled_plugins").and_then(toml::Value::as_array);
    let is_cri =
        |name: &toml::Value| name.as_str().is_some_and(|name| name == "cri" || CRI_PLUGINS.contains(&name));
    if disabled.is_some_and(|disabled| disabled.iter().any(is_cri)) {
        return ConfigPath::Unknown { reason: format!("{from} disables its CRI plugin") };
    }
    let plugin = |name: &str| values.get("plugins").and_then(|plugins| plugins.get(name));
    let names = CRI_PLUGINS;
    let registry = |name: &str| plugin(name).and_then(|plugin| plugin.get("registry"));
    let path = names.iter().find_map(|name| registry(name)?.get("config_path")?.as_str()).unwrap_or_default();
    let has_mirrors = names.iter().any(|name| {
        let mirrors = registry(name).and_then(|registry| registry.get("mirrors")?.as_table());
        mirrors.is_some_and(|mirrors| !mirrors.is_empty())
    });
    if path.is_empty() && !has_mirrors && version.is_none() {
        let reason = format!("{from} sets none, and its default depends on containerd's version");
        return ConfigPath::Unknown { reason };
    }
    let is_default = path.is_empty() && !has_mirrors && version.is_some_and(|version| version >= (2, 2));
    let local_pull = plugin(names[0]).and_then(|plugin| plugin.get("use_local_image_pull")?.as_bool());
    let value = if is_default { LIST_OF_2_2.to_owned() } else { path.to_owned() };
    ConfigPath::Found { value, local_pull: local_pull.unwrap_or(false), from }
}

/// Reads `1.6` from `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1`.
pub(super) fn version_in(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.strip_prefix('v').unwrap_or(word).split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

/// Output of a command; `None` if it fails, does not exist, or takes too long.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + CONTAINERD_DUMP_TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    reader.join().ok()?.ok().filter(|_| status.success())
}

impl ConfigPath {
    /// The folders of `config_path`, if it names `roots` and others; otherwise `None`.
    pub(super) fn whole_list(&self, roots: &Roots) -> Option<Roots> {
        let Self::Found { value, .. } = self else { return None };
        let list = Roots::parse(value).ok()?;
        let is_part = roots.all().iter().all(|root| list.all().contains(root));
        (is_part && list.all().len() > roots.all().len()).then_some(list)
    }

    /// True if containerd reads all of `roots`; `None`: unknown.
    pub(super) fn names(&self, roots: &Roots) -> Option<bool> {
        let Self::Found { value, .. } = self else { return None };
        let bare = |path: &Path| path.components().collect::<PathBuf>();
        let list: Vec<PathBuf> = value.split(':').map(|root| bare(Path::new(root))).collect();
        Some(roots.all().iter().all(|root| list.contains(&bare(root))))
    }

    /// True if `config_path` is a list of several folders.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Found { value, .. } if value.contains(':'))
    }
}

/// One line that says whether containerd reads these folders, and what to do if it does not.
pub(super) fn sentence(found: &ConfigPath, roots: &Roots) -> String {
    let folders = roots.text();
    match (found, found.names(roots)) {
        (ConfigPath::Found { from, .. }, Some(true)) => {
            format!("containerd reads {folders} at each pull: its config_path names it ({from})\n")
        }
        (ConfigPath::Found { value, from, .. }, _) => {
            let value = if value.is_empty() { "is empty".to_owned() } else { format!("is \"{value}\"") };
            format!(
                "containerd does NOT read {folders}: its config_path {value} ({from}). Set config_path = \
                 \"{folders}\" in the registry settings of its CRI plugin and restart containerd, or give its \
                 folder as --certs-dir{OTHER_FILE}\n"
            )
        }
        (ConfigPath::Unknown { reason }, _) => format!(
            "could not find out whether containerd reads {folders} ({reason}); its config_path must name it: \
             see `containerd config dump | grep config_path` on the node{OTHER_FILE}\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3: &str = "version = 3\n[plugins.'io.containerd.cri.v1.images']\nuse_local_image_pull = true\n\
                      [plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/a:/b'\n";

    fn found(text: &str, version: Option<(u32, u32)>) -> (String, bool) {
        match of_text(text, version, "here".to_owned()) {
            ConfigPath::Found { value, local_pull, .. } => (value, local_pull),
            ConfigPath::Unknown { reason } => (reason, false),
        }
    }

    #[test]
    fn config_path_is_found_in_every_version_of_the_configuration() {
        assert_eq!(found(V3, Some((2, 1))), ("/a:/b".to_owned(), true));
        let v2 = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a\"\n";
        assert_eq!(found(v2, None).0, "/a");
        assert_eq!(found("[plugins.cri.registry]\nconfig_path = \"/a\"\n", None).0, "/a");
        assert!(found("", None).0.contains("depends on containerd's version"));
        assert_eq!(found("", Some((2, 1))).0, "");
        assert_eq!(found("", Some((2, 2))).0, LIST_OF_2_2);
        let mirrors = "[plugins.'io.containerd.cri.v1.images'.registry.mirrors.x]\nendpoint = []\n";
        assert_eq!(found(mirrors, Some((2, 2))).0, "");
        assert!(found("disabled_plugins = ['cri']", Some((2, 2))).0.contains("disables"));
        assert_eq!(found("x = ", None).0, "here is no TOML");
        assert_eq!(
            version_in("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b71"),
            Some((2, 1))
        );
        assert_eq!(version_in("containerd containerd.io 1.6.20~ds1 1.6.20~ds1-1+deb12u3"), Some((1, 6)));
    }

    #[test]
    fn the_sentence_says_what_is_true() {
        let roots = |given: &str| Roots::parse(given).unwrap();
        let config_path = of_text(V3, None, "config.toml".to_owned());
        let read = sentence(&config_path, &roots("/b/"));
        assert!(read.starts_with("containerd reads /b/") && !read.contains(OTHER_FILE), "{read}");
        let other = sentence(&config_path, &roots("/c"));
        assert!(
            other.contains("NOT") && other.contains("\"/a:/b\"") && other.contains("config.toml"),
            "{other}"
        );
        assert!(other.ends_with("--containerd-config FILE\n"), "{other}");
        let unknown = ConfigPath::Unknown { reason: "no file".to_owned() };
        let unknown = sentence(&unknown, &roots("/c"));
        assert!(unknown.contains("could not find out") && unknown.contains(OTHER_FILE), "{unknown}");
        assert_eq!(config_path.whole_list(&roots("/b")), Some(roots("/a:/b")));
        assert_eq!(config_path.whole_list(&roots("/a:/b")), None);
        assert_eq!(config_path.whole_list(&roots("/c")), None);
    }
}
