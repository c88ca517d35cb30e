//! The data folder of `piccolo up`: its lock, the ports of its servers, and their cluster secret.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{PortsError, UpError};
use crate::clock::SystemClock;
use crate::identity::credentials::unix_seconds;
use crate::identity::{SecretError, file};

/// Number of servers.
pub(super) const SERVERS: u16 = 3;
/// Number of ports: two for each server.
pub(super) const COUNT: u16 = 2 * SERVERS;
/// Default of the first port: the API and raft ports of the three servers are 7789 to 7794.
const BASE_PORT_DEFAULT: u16 = 7789;

const LOCK_FILE: &str = "up.lock";
const PORTS_FILE: &str = "ports.toml";
const SECRET_FILE: &str = "cluster-secret.pem";

/// The data folder, locked for this process.
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    /// The lock lasts as long as this descriptor, which children do not inherit.
    _lock: File,
}

/// Content of [`PORTS_FILE`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Stored {
    base_port: u16,
}

/// API and raft address of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) api: SocketAddr,
    pub(super) raft: SocketAddr,
}

impl DataFolder {
    /// Makes the folder if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, UpError> {
        let failed = |action: &'static str| {
            let what = path.display().to_string();
            move |source: io::Error| UpError::Io { action, what, source }
        };
        fs::create_dir_all(path).map_err(failed("make folder"))?;
        let path = path.canonicalize().map_err(failed("find folder"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(failed("open the lock file in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let pid = lock.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
                return Err(UpError::FolderInUse { folder: path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let pid = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(failed("write the lock file in"))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the cluster secret, made by the first start.
    pub(super) fn secret(&self) -> Result<PathBuf, SecretError> {
        let path = self.path.join(SECRET_FILE);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                file::create(&path, unix_seconds(&SystemClock::shared()))?
            }
            _ => file::read(&path)?,
        };
        Ok(path)
    }

    /// The addresses of all servers: those of the first start, of `given`, or the default ones. Fails if one
    /// of them is in use now.
    pub(super) fn addresses(&self, given: Option<u16>) -> Result<Vec<Addresses>, UpError> {
        let stored = self.stored()?;
        let base = match (stored, given) {
            (Some(stored), Some(given)) if stored != given => {
                return Err(UpError::OtherPorts { folder: self.path.clone(), stored, given });
            }
            (stored, given) => stored.or(given).unwrap_or(BASE_PORT_DEFAULT),
        };
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let addresses: Vec<Addresses> = (0..SERVERS)
            .map(|server| Addresses {
                api: loopback(base + 2 * server),
                raft: loopback(base + 2 * server + 1),
            })
            .collect();
        check_free(&addresses)?;
        if stored.is_none() {
            self.store(base)?;
        }
        Ok(addresses)
    }

    fn stored(&self) -> Result<Option<u16>, UpError> {
        let file = self.path.join(PORTS_FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(UpError::Io { action: "read", what: file.display().to_string(), source });
            }
        };
        match toml::from_str::<Stored>(&text) {
            Ok(Stored { base_port }) if (1..=u16::MAX - COUNT + 1).contains(&base_port) => {
                Ok(Some(base_port))
            }
            Ok(Stored { base_port }) => {
                Err(UpError::BadPorts { file, source: PortsError::NoRoom { base_port } })
            }
            Err(error) => Err(UpError::BadPorts { file, source: error.into() }),
        }
    }

    fn store(&self, base_port: u16) -> Result<(), UpError> {
        let body = toml::to_string(&Stored { base_port }).expect("one number");
        let text = format!(
            "# Chosen at the first `piccolo up`; the servers know each other by these ports.\n{body}"
        );
        let file = self.path.join(PORTS_FILE);
        let write = || {
            let mut temporary = tempfile::NamedTempFile::new_in(&self.path)?;
            temporary.write_all(text.as_bytes())?;
            temporary.as_file().sync_all()?;
            temporary.persist(&file)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| UpError::Io { action: "write", what: file.display().to_string(), source })
    }
}

/// Name of the server at this position.
pub(super) fn server_name(place: usize) -> String {
    format!("server-{}", place + 1)
}

fn check_free(addresses: &[Addresses]) -> Result<(), UpError> {
    let mut occupied = Vec::new();
    for (place, server) in addresses.iter().enumerate() {
        for (port, address) in [("API", server.api), ("raft", server.raft)] {
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    occupied.push((format!("{port} of {}", server_name(place)), address));
                }
                Err(source) => {
                    return Err(UpError::Io { action: "listen on", what: address.to_string(), source });
                }
            }
        }
    }
    if occupied.is_empty() { Ok(()) } else { Err(UpError::Occupied { addresses: occupied }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of six consecutive ports that are free now.
    fn base_port() -> u16 {
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        (20_000..30_000).step_by(6).find(|base| (*base..base + COUNT).all(free)).unwrap()
    }

    #[test]
    fn ports_of_the_first_start_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let base = base_port();
        let open = || DataFolder::open(folder.path()).unwrap();
        let first = open().addresses(Some(base)).unwrap();
        assert_eq!(first[2].raft.port(), base + 5);
        assert_eq!(open().addresses(None).unwrap(), first);
        let error = open().addresses(Some(base + 1)).unwrap_err();
        assert!(matches!(error, UpError::OtherPorts { stored, .. } if stored == base), "{error}");
    }

    #[test]
    fn an_occupied_port_is_named_and_nothing_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let base = base_port();
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, base + 3)).unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let error = data.addresses(Some(base)).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{} (raft of server-2)", base + 3)), "{error}");
        assert_eq!(data.stored().unwrap(), None);
    }

    #[test]
    fn a_folder_has_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let held = DataFolder::open(folder.path()).unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(held);
        DataFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_damaged_ports_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        for text in ["base-port = 65531\n", "base-port = 0\n", "base-port = \"x\"\n", "port = 1\n", "?"] {
            fs::write(folder.path().join(PORTS_FILE), text).unwrap();
            assert!(matches!(data.stored(), Err(UpError::BadPorts { .. })), "{text}");
        }
        fs::write(folder.path().join(PORTS_FILE), "base-port = 65530\n").unwrap();
        assert_eq!(data.stored().unwrap(), Some(65_530));
    }
}
