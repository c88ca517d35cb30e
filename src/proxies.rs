//! The proxy of containerd, as `piccolo mirror install` recorded it in `certs.d`. The agent needs it to judge
//! a registry as containerd sees it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the record's file, in the first folder of `--certs-dir`, where containerd reads only folders.
pub const FILE: &str = "piccolo-proxies.toml";
const FORMAT: u32 = 1;

/// Proxies in the form of the environment variables. If all are absent, containerd connects directly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Proxies {
    /// `HTTP_PROXY`, for registries that speak plain http.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// `HTTPS_PROXY`, for all other registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<String>,
    /// `NO_PROXY`: hosts that are asked directly, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Record {
    format: u32,
    #[serde(flatten)]
    proxies: Proxies,
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxiesError {
    /// Not what install writes.
    #[error("could not parse it: {}", .0.to_string().trim_end())]
    NotRecord(toml::de::Error),
    /// A later version wrote it.
    #[error("format {format} is newer than this version's {FORMAT}")]
    Newer {
        /// Format of the record.
        format: u32,
    },
}

impl Proxies {
    /// Path of the record below a folder of `--certs-dir`.
    pub fn path(certs_dir: &Path) -> PathBuf {
        certs_dir.join(FILE)
    }

    /// Parses what [`Self::render`] wrote.
    ///
    /// # Errors
    /// If the text is not a record, or of a newer format.
    pub fn parse(text: &str) -> Result<Self, ProxiesError> {
        let record: Record = toml::from_str(text).map_err(ProxiesError::NotRecord)?;
        if record.format > FORMAT {
            return Err(ProxiesError::Newer { format: record.format });
        }
        Ok(record.proxies)
    }

    /// Text of the record. A proxy's URL may contain a password, so the file must be readable by its owner
    /// only.
    pub fn render(&self) -> String {
        let record = Record { format: FORMAT, proxies: self.clone() };
        let body = toml::to_string(&record).expect("a record is a flat table");
        format!(
            "# containerd's proxies, as `piccolo mirror install` found them; `piccolo agent` reads this.\n{body}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_read_back() {
        let some = Proxies {
            http_proxy: None,
            https_proxy: Some("http://user:secret@10.0.0.3:3128".to_owned()),
            no_proxy: Some("10.0.0.0/8,.svc".to_owned()),
        };
        for proxies in [Proxies::default(), some] {
            assert_eq!(Proxies::parse(&proxies.render()), Ok(proxies));
        }
    }

    #[test]
    fn another_text_and_a_newer_format_are_told_apart() {
        assert!(matches!(Proxies::parse("https-proxy = 1"), Err(ProxiesError::NotRecord { .. })));
        assert_eq!(Proxies::parse("format = 9"), Err(ProxiesError::Newer { format: 9 }));
    }
}
