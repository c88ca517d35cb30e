//! The process that holds a TCP port: `/proc/net/tcp*` names its socket, `/proc/<pid>/fd` the process.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::OCCUPANT_COMMAND_CHARS_MAX;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The process that listens on a port that this process wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Process id, as this process sees it.
    pub pid: u32,
    /// Command line of the process.
    pub command: String,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// Finds the process that keeps this one from listening on `address`. `None` also if this process may not see
/// its descriptors: it belongs to another user or another container.
pub(super) fn of(address: SocketAddr) -> Option<Occupant> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(fs::read_to_string);
    let inodes: Vec<String> = tables.iter().flatten().flat_map(|table| listening(table, address)).collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pid = pids().find(|pid| holds(*pid, &sockets))?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    Some(Occupant { pid, command: command.chars().take(OCCUPANT_COMMAND_CHARS_MAX).collect() })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, sockets: &[String]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link)))
}

/// Inodes of the sockets in `table` that keep others from listening on `address`.
fn listening(table: &str, address: SocketAddr) -> Vec<String> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let (ip, port) = (parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
        let same = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
        (*state == LISTENING && port == address.port() && same).then(|| (*inode).to_owned())
    };
    table.lines().filter_map(inode).collect()
}

/// Reads an address from words of 32 bits, each in the byte order of this machine.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn this_process_is_found_behind_its_port() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let occupant = of(address).unwrap();
        assert_eq!(occupant.pid, std::process::id());
        assert!(!occupant.command.contains('\0') && !occupant.command.is_empty(), "{occupant}");
        drop(held);
        assert_eq!(of(address), None);
    }

    #[test]
    fn an_address_is_kept_busy_by_itself_and_by_all_addresses() {
        let line = |ip: [u8; 4], state: &str| {
            let ip = u32::from_ne_bytes(ip);
            format!(
                " 0: {ip:08X}:1E64 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 77 1 0\n"
            )
        };
        let wanted = "127.0.0.1:7780".parse().unwrap();
        for (table, found) in [
            (line([127, 0, 0, 1], "0A"), true),
            (line([0, 0, 0, 0], "0A"), true),
            (line([127, 0, 0, 2], "0A"), false),
            (line([127, 0, 0, 1], "01"), false),
            ("  sl  local_address rem_address\n".to_owned(), false),
        ] {
            assert_eq!(!listening(&table, wanted).is_empty(), found, "{table}");
        }
        assert!(listening(&line([127, 0, 0, 1], "0A"), "127.0.0.1:7781".parse().unwrap()).is_empty());
    }
}
