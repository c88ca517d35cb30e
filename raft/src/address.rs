//! Addresses of servers as text: `host:port`, where the host is a name or an IP address.

use std::net::IpAddr;

use crate::limits::MEMBER_ADDRESS_BYTES_MAX;

/// Whether `text` is `host:port`.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_right = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c));
    host_right && text.len() <= MEMBER_ADDRESS_BYTES_MAX && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether `address` (`host:port`, or a host alone) leads each host to itself.
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let named = bare.trim_end_matches('.').eq_ignore_ascii_case("localhost");
    named || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}
