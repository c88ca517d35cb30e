//! Changes of a data folder while no server runs on it.

use std::path::Path;

pub use piccolo_raft::cluster::offline::{Addresses, Founded, OfflineError, restore, settle};

use crate::server::config::Config;
use crate::server::startup::addresses::{RAFT_PORT_DEFAULT, host_port};

/// Makes the server of this configuration the only one of a new cluster. Its addresses are those of the old
/// membership, or, if that has none, those that the flags say.
///
/// # Errors
/// If the data folder cannot be read or written, or if neither knows an address.
pub async fn force_new_cluster(config: &Config) -> Result<Founded, OfflineError> {
    let folder: &Path = &config.data_dir;
    piccolo_raft::cluster::offline::force_new_cluster(folder, |known| addresses(config, known)).await
}

/// The addresses of the server. Known ones count: `--advertise` is only the host of the API, and in a cluster
/// by list the list says the raft address. A server that has moved is moved with `piccolo members replace`.
fn addresses(config: &Config, known: Option<Addresses>) -> Option<Addresses> {
    let by_flags = || {
        let host = config.advertise.as_ref()?;
        let raft_port = config.raft_listen.map_or(RAFT_PORT_DEFAULT, |address| address.port());
        Some(Addresses { raft: host_port(host, raft_port), api: host_port(host, config.listen.port()) })
    };
    known.or_else(by_flags)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::identity::TlsMode;

    fn config(advertise: Option<&str>, raft_listen: Option<&str>) -> Config {
        Config {
            data_dir: PathBuf::from("data"),
            listen: "0.0.0.0:8000".parse().unwrap(),
            raft_listen: raft_listen.map(|address| address.parse().unwrap()),
            advertise: advertise.map(str::to_owned),
            cluster: Vec::new(),
            join: None,
            cluster_secret: None,
            tls: TlsMode::Off,
            insecure: false,
            disk_free_min: None,
            lease_default: Duration::from_secs(60),
            forget_after: Duration::from_secs(60),
            found_after: Duration::ZERO,
        }
    }

    #[test]
    fn the_addresses_stay_and_flags_count_where_none_are_known() {
        let of = |raft: &str, api: &str| Some(Addresses { raft: raft.to_owned(), api: api.to_owned() });
        let known = of("a:7000", "a:7001");
        assert_eq!(addresses(&config(None, Some("0.0.0.0:9")), known.clone()), known);
        assert_eq!(addresses(&config(None, None), None), None);
        assert_eq!(addresses(&config(Some("b"), None), known.clone()), known);
        assert_eq!(addresses(&config(Some("b"), Some("0.0.0.0:9")), known.clone()), known);
        assert_eq!(addresses(&config(Some("fd00::1"), None), None), of("[fd00::1]:7790", "[fd00::1]:8000"));
        assert_eq!(addresses(&config(Some("b"), Some("0.0.0.0:9")), None), of("b:9", "b:8000"));
    }
}
