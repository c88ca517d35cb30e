//! What the holder of a certificate is: one URI among its alternative names, such as
//! `piccolo://server/00000000000000ab`. It names no cluster: a server has its certificate before it belongs to
//! one, and the CA says which.

use super::facts::Facts;

/// Scheme of the URIs that name a role.
const SCHEME: &str = "piccolo://";
/// Hex digits of a node id.
const NODE_ID_DIGITS: usize = 16;

/// What the holder of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A discovery server.
    Server {
        /// Its node id, as in the membership.
        node_id: u64,
    },
}

impl Role {
    /// The URI of this role.
    pub fn uri(self) -> String {
        match self {
            Role::Server { node_id } => format!("{SCHEME}server/{node_id:016x}"),
        }
    }

    /// The role with this URI; `None` if this version knows none.
    pub fn parse(uri: &str) -> Option<Self> {
        let (kind, of) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let digits = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        match kind {
            "server" if of.len() == NODE_ID_DIGITS && of.bytes().all(digits) => {
                Some(Role::Server { node_id: u64::from_str_radix(of, 16).ok()? })
            }
            _ => None,
        }
    }

    /// The role in a certificate; `None` if it has none or several.
    pub fn of(facts: &Facts) -> Option<Self> {
        match &facts.uris[..] {
            [uri] => Self::parse(uri),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_it_is_written_and_nothing_else_is_one() {
        for node_id in [0, 0xab, u64::MAX] {
            let role = Role::Server { node_id };
            assert_eq!(Role::parse(&role.uri()), Some(role));
        }
        assert_eq!(Role::Server { node_id: 0xab }.uri(), "piccolo://server/00000000000000ab");
        for other in [
            "",
            "piccolo://server",
            "piccolo://server/",
            "piccolo://server/ab",
            "piccolo://server/00000000000000AB",
            "piccolo://server/+0000000000000ab",
            "piccolo://server/00000000000000ab/",
            "piccolo://agent/00000000000000ab",
            "https://server/00000000000000ab",
        ] {
            assert_eq!(Role::parse(other), None, "{other}");
        }
    }
}
