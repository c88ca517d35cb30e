//! Where the connections of the other servers come from: the addresses that they are reached at, for API or
//! raft. Their connections have places of their own ([`Known`]), and what they report is passed on. A server
//! behind address translation is not known by these, and is a client like any other.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use piccolo_raft::network::names::{Names, split};
use piccolo_raft::types::Member;

use crate::http::Known;
use crate::server::app::App;
use crate::task::Stop;

/// How often the membership is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The other servers of the cluster.
#[derive(Debug, Default)]
pub struct Servers {
    known: Known,
}

impl Servers {
    /// Keeps `known` up to date.
    pub fn new(known: Known) -> Self {
        Self { known }
    }

    /// Whether one of them has this address.
    pub fn has(&self, app: &App, address: IpAddr) -> bool {
        self.refresh(app);
        self.known.has(address)
    }

    fn refresh(&self, app: &App) {
        let status = app.node.status();
        let others = status.members.into_iter().filter(|info| info.node_id != status.node_id);
        self.known.set(addresses(others.map(|info| info.member), app.node.names()));
    }
}

/// Where `members` are, as far as raft has looked their names up.
fn addresses(members: impl Iterator<Item = Member>, names: &Names) -> HashSet<IpAddr> {
    let places = members.flat_map(|member| [member.api_address, member.raft_address]);
    let known = |place: String| split(&place).map(|(host, _)| names.known_addresses(host));
    places.filter_map(known).flatten().map(|ip| ip.to_canonical()).collect()
}

/// Until `stop`.
pub async fn upkeep(app: Arc<App>, stop: Stop) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        app.servers.refresh(&app);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::future::BoxFuture;
    use piccolo_raft::network::names::Resolve;

    use super::*;
    use crate::server::endpoints::tests::leading_app;

    /// Knows one name.
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

    /// Its own address is that of the clients on its host.
    #[tokio::test]
    async fn a_server_alone_knows_no_other() {
        let app = leading_app().await;
        assert!(!app.servers.has(&app, IpAddr::from([127, 0, 0, 1])));
        app.node.shutdown().await;
    }
}
