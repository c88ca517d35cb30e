//! The addresses from which the other servers connect: those at which raft reaches their raft port and their
//! API. Their connections have slots of their own ([`KnownAddresses`]). A server behind address translation
//! comes from another address, and is a client like any other.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;

use piccolo_raft::cluster::Node;
use piccolo_raft::network::names::{Names, split};
use piccolo_raft::types::Member;

use crate::http::KnownAddresses;
use crate::limits::SERVER_ADDRESSES_LOOK_INTERVAL;
use crate::task::Stop;

/// The addresses of the other servers; clones share them.
#[derive(Clone)]
pub struct ServerAddresses {
    node: Node,
    known: KnownAddresses,
}

impl ServerAddresses {
    /// Keeps `known` up to the membership of `node`.
    pub fn new(node: Node, known: KnownAddresses) -> Self {
        Self { node, known }
    }

    /// Whether another server has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.refresh();
        self.known.has(address)
    }

    /// Refreshes the addresses until `stop`.
    pub async fn watch(self, stop: Stop) -> Result<(), Infallible> {
        let mut ticks = tokio::time::interval(SERVER_ADDRESSES_LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.refresh();
        }
        Ok(())
    }

    fn refresh(&self) {
        let status = self.node.status();
        let others = status.members.into_iter().filter(|info| info.node_id != status.node_id);
        self.known.set(addresses(others.map(|info| info.member), self.node.names()));
    }
}

/// The addresses of `members`, as far as raft has resolved their names.
fn addresses(members: impl Iterator<Item = Member>, names: &Names) -> HashSet<IpAddr> {
    let places = members.flat_map(|member| [member.api_address, member.raft_address]);
    let known = |place: String| split(&place).map(|(host, _)| names.known_addresses(host));
    places.filter_map(known).flatten().map(|ip| ip.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use piccolo_raft::network::names::Resolve;

    use super::*;
    use crate::server::testing::leading_app;

    /// A resolver that knows one name.
    #[derive(Debug)]
    struct Resolver;

    impl Resolve for Resolver {
        fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let known =
                if host == "b.example" { Ok(vec![[10, 0, 0, 2].into()]) } else { Err(io::Error::other("?")) };
            Box::pin(async { known })
        }
    }

    #[tokio::test]
    async fn members_are_known_by_their_addresses_and_by_those_of_their_names() {
        let names = Names::new(Arc::new(Resolver));
        for host in ["b.example", "c.example"] {
            names.addresses(host).await.ok();
        }
        let member = |api: &str, raft: &str| {
            let (raft_address, api_address) = (format!("{raft}:7790"), format!("{api}:7789"));
            Member { raft_address, api_address }
        };
        let members = [member("10.0.0.1", "[::ffff:10.0.1.1]"), member("b.example", "c.example")];
        let expected: [IpAddr; 3] = [[10, 0, 0, 1].into(), [10, 0, 1, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(addresses(members.into_iter(), &names), expected.into());
    }

    /// The own address of a server is that of the clients on its host.
    #[tokio::test]
    async fn a_server_alone_knows_no_other() {
        let app = leading_app().await;
        assert!(!app.cluster.servers.has(IpAddr::from([127, 0, 0, 1])));
        app.node.shutdown().await;
    }
}
