//! Addresses of this node by interface, dumped over route netlink (`rtnetlink(7)`): /proc lists IPv4
//! addresses only without their interfaces.

use std::io;
use std::net::IpAddr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netdevice, recv, send, socket};

use crate::limits::NETLINK_BUFFER_BYTES;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// Flags of a dump request: `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const IFA_ADDRESS: u16 = 1;
/// Attribute with the address of this node where `IFA_ADDRESS` is the other end of a point-to-point link.
const IFA_LOCAL: u16 = 2;
/// Flags of addresses that are temporary, failed, deprecated or tentative: `IFA_F_TEMPORARY | IFA_F_DADFAILED
/// | IFA_F_DEPRECATED | IFA_F_TENTATIVE`.
const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;
const HEADER_BYTES: usize = 16;
const ADDRESS_HEADER_BYTES: usize = 8;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// A permanent address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    interface: u32,
    ip: IpAddr,
}

/// Lists the addresses of this node, or those of `interface` if it is given. Blocks for microseconds.
///
/// # Errors
/// If the kernel does not list them; `NODEV` where there is no such interface.
pub(super) fn addresses(interface: Option<&str>) -> io::Result<Vec<IpAddr>> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let index = interface.map(|name| netdevice::name_to_index(&socket, name)).transpose()?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut entries = Vec::new();
    let mut buffer = vec![0; NETLINK_BUFFER_BYTES];
    loop {
        let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if read(&buffer[..length.min(NETLINK_BUFFER_BYTES)], &mut entries)? {
            break;
        }
    }
    let of_interface = |entry: &&Entry| index.is_none_or(|index| entry.interface == index);
    Ok(entries.iter().filter(of_interface).map(|entry| entry.ip).collect())
}

fn request() -> Vec<u8> {
    let length = (HEADER_BYTES + ADDRESS_HEADER_BYTES) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(RTM_GETADDR.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    // Sequence number, port and an empty `ifaddrmsg`: all address families, all interfaces.
    request.resize(length as usize, 0);
    request
}

/// Reads the messages of one datagram. Returns whether the dump is complete.
fn read(mut datagram: &[u8], entries: &mut Vec<Entry>) -> io::Result<bool> {
    while let Some((length, kind)) = header(datagram) {
        let message = datagram.get(HEADER_BYTES..length).ok_or_else(malformed)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.first_chunk::<4>().ok_or_else(malformed)?;
                return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(*code).saturating_neg()));
            }
            RTM_NEWADDR => entries.extend(entry(message)),
            _ => {}
        }
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of netlink is cut short")
}

/// Length and type of the first message of a datagram; `None` at its end.
fn header(datagram: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    (length >= HEADER_BYTES).then_some((length, kind))
}

/// Reads an `ifaddrmsg` with its attributes.
fn entry(message: &[u8]) -> Option<Entry> {
    let (flags, interface) = (*message.get(2)?, u32::from_ne_bytes(message.get(4..8)?.try_into().ok()?));
    let (mut address, mut local) = (None, None);
    let mut attributes = message.get(ADDRESS_HEADER_BYTES..)?;
    while let Some(header) = attributes.first_chunk::<ATTRIBUTE_HEADER_BYTES>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        match u16::from_ne_bytes([header[2], header[3]]) {
            IFA_ADDRESS => address = ip(value),
            IFA_LOCAL => local = ip(value),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    (flags & PASSING == 0).then_some(Entry { interface, ip: local.or(address)? })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_loopback_interface_has_its_address_and_an_unknown_one_is_an_error() {
        assert!(addresses(Some("lo")).unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(addresses(None).unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(addresses(Some("no-such-if0")).is_err());
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER_BYTES, 0);
        message.extend(body);
        message.resize(aligned(message.len()), 0);
        message
    }

    fn address(flags: u8, interface: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![2, 24, flags, 0];
        body.extend(interface.to_ne_bytes());
        for (kind, value) in attributes {
            body.extend(((ATTRIBUTE_HEADER_BYTES + value.len()) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(aligned(body.len()), 0);
        }
        message(RTM_NEWADDR, &body)
    }

    #[test]
    fn own_addresses_that_stay_are_read_and_others_are_not() {
        let datagram = [
            address(0x80, 2, &[(IFA_ADDRESS, &[10, 0, 0, 7]), (3, b"eth0\0")]),
            address(0, 3, &[(IFA_ADDRESS, &[10, 9, 9, 9]), (IFA_LOCAL, &[10, 8, 8, 8])]),
            address(0x20, 2, &[(IFA_ADDRESS, &[10, 0, 0, 8])]),
            address(0, 2, &[(3, b"eth0\0")]),
        ]
        .concat();
        let mut entries = Vec::new();
        assert!(!read(&datagram, &mut entries).unwrap(), "there is more to come");
        assert!(read(&message(NLMSG_DONE, &[0; 4]), &mut entries).unwrap());
        let of = |interface, ip: [u8; 4]| Entry { interface, ip: ip.into() };
        assert_eq!(entries, [of(2, [10, 0, 0, 7]), of(3, [10, 8, 8, 8])]);
        let refused = message(NLMSG_ERROR, &(-1_i32).to_ne_bytes());
        assert_eq!(read(&refused, &mut entries).unwrap_err().raw_os_error(), Some(1));
        for length in 0..datagram.len() {
            // A truncated datagram is an error or has no entries, and never panics.
            _ = read(&datagram[..length], &mut Vec::new());
        }
    }
}
