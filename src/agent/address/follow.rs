//! Follows the address of this node while the agent runs. A look every [`ADDRESS_POLL_INTERVAL`] costs a few
//! system calls. While no address is known, the pause between two looks doubles.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use super::AdvertiseError;
use super::own::OwnAddress;
use crate::agent::backoff::Backoff;
use crate::agent::notices::{Notices, Topic};
use crate::limits::{ADDRESS_POLL_INTERVAL, ADDRESS_RETRY_PAUSE, ADDRESS_START_WAIT};
use crate::task::Stop;
use piccolo_raft::errors::chain;

/// Looks for the address of this node. A trait, so that tests can take the place of the network.
pub(crate) trait Look: Send + 'static {
    /// Finds the address under which peers reach this node now.
    fn look(&mut self) -> BoxFuture<'_, Result<SocketAddr, AdvertiseError>>;

    /// Whether this node has an address.
    fn is_here(&self, ip: IpAddr) -> bool;
}

/// The task that follows the address of this node.
pub(crate) struct Following {
    look: Box<dyn Look>,
    own: watch::Sender<Option<SocketAddr>>,
    notices: Notices,
    /// What the last look found, where that is another address than the one in use.
    seen: Option<SocketAddr>,
}

/// Looks for the address for up to [`ADDRESS_START_WAIT`], so that it is usually known when the agent starts.
pub(crate) async fn begin(mut look: Box<dyn Look>, notices: Notices) -> (OwnAddress, Following) {
    let first = match timeout(ADDRESS_START_WAIT, look.look()).await {
        Ok(found) => found,
        Err(_) => Err(AdvertiseError::Late),
    };
    let (own, address) = OwnAddress::channel(first.as_ref().ok().copied());
    let following = Following { look, own, notices, seen: None };
    if let Err(error) = first {
        following.notify(None, &error);
    }
    (address, following)
}

impl Following {
    /// Follows the address until `stop`.
    pub(crate) async fn run(mut self, stop: Stop) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(ADDRESS_RETRY_PAUSE.0, ADDRESS_RETRY_PAUSE.1);
        loop {
            let is_known = self.own.borrow().is_some();
            let pause = if is_known { ADDRESS_POLL_INTERVAL } else { backoff.next_pause() };
            let next = async {
                tokio::time::sleep(pause).await;
                self.look_once().await;
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn look_once(&mut self) {
        let own = *self.own.borrow();
        let found = match self.look.look().await {
            Ok(found) => found,
            Err(error) => {
                self.seen = None;
                // An address that this node still has may be reachable although no route leads to the
                // servers.
                if own.is_none_or(|own| !self.look.is_here(own.ip())) {
                    self.notify(own, &error);
                }
                return;
            }
        };
        let is_here = own.is_some_and(|own| self.look.is_here(own.ip()));
        if let Some(next) = next_address(own, is_here, found, self.seen) {
            tracing::info!(before = own.map(tracing::field::display), address = %next, "peers reach this node here");
            self.own.send_replace(Some(next));
        }
        self.seen = Some(found);
        self.notices.clear(Topic::Address, "");
    }

    fn notify(&self, own: Option<SocketAddr>, error: &AdvertiseError) {
        let what = own.map_or_else(
            || "the address under which peers reach this node is not known yet".to_owned(),
            |own| format!("{own} is no address of this node any more"),
        );
        let text = format!(
            "{what}: {}; it is looked for again, and until then peers do not find this node. If this lasts, \
             give the address with --advertise IP:PORT, or choose it with --advertise-interface NAME",
            chain(error)
        );
        self.notices.set(Topic::Address, "", text);
    }
}

/// The address to change to, if any. While this node still has the old address, two looks in a row must find
/// the new one: a route that comes and goes within seconds would else move all keys twice.
fn next_address(
    own: Option<SocketAddr>,
    own_is_here: bool,
    found: SocketAddr,
    seen: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let is_sure = own.is_none() || !own_is_here || seen == Some(found);
    (own != Some(found) && is_sure).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7781))
    }

    #[test]
    fn an_address_is_left_when_it_is_gone_or_when_another_stays() {
        let (one, two) = (address(1), address(2));
        for (own, is_here, found, seen, expected) in [
            (None, false, one, None, Some(one)),
            (Some(one), true, one, Some(one), None),
            (Some(one), true, two, Some(one), None),
            (Some(one), true, two, None, None),
            (Some(one), true, two, Some(two), Some(two)),
            (Some(one), false, two, None, Some(two)),
            (Some(one), false, one, None, None),
        ] {
            let next = next_address(own, is_here, found, seen);
            assert_eq!(next, expected, "{own:?}, here: {is_here}, found {found}, before {seen:?}");
        }
    }

    /// Addresses of a simulated node. The first one, if any, is the one that leads to the servers.
    #[derive(Clone, Default)]
    struct Network(Arc<Mutex<Vec<SocketAddr>>>);

    impl Network {
        fn set(&self, addresses: &[SocketAddr]) {
            *self.0.lock().unwrap() = addresses.to_vec();
        }
    }

    impl Look for Network {
        fn look(&mut self) -> BoxFuture<'_, Result<SocketAddr, AdvertiseError>> {
            let found = self.0.lock().unwrap().first().copied().ok_or(AdvertiseError::NoRoute);
            Box::pin(async move { found })
        }

        fn is_here(&self, ip: IpAddr) -> bool {
            self.0.lock().unwrap().iter().any(|address| address.ip() == ip)
        }
    }

    /// Regression: the address was looked for once, at the start. It stayed wrong, or its absence ended the
    /// agent.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_comes_late_or_changes_is_followed_and_said() {
        let (network, notices, stop) = (Network::default(), Notices::default(), Stop::new());
        let (mut own, following) = begin(Box::new(network.clone()), notices.clone()).await;
        assert_eq!(own.now(), None);
        let said = notices.texts().join("\n");
        assert!(said.contains("not known yet") && said.contains("--advertise"), "{said}");
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(following.run(stop.clone()));

        network.set(&[address(1)]);
        tokio::time::timeout(ADDRESS_RETRY_PAUSE.1 * 2, own.changed()).await.expect("found once it is there");
        assert_eq!(own.now(), Some(address(1)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(notices.texts(), [""; 0]);

        network.set(&[address(2)]);
        tokio::time::timeout(ADDRESS_POLL_INTERVAL * 2, own.changed()).await.expect("the old one is gone");
        assert_eq!(own.now(), Some(address(2)));

        network.set(&[]);
        tokio::time::sleep(ADDRESS_POLL_INTERVAL * 2).await;
        assert_eq!(own.now(), Some(address(2)), "nothing better is known");
        assert!(notices.texts().join("\n").contains("10.0.0.2:7781 is no address of this node any more"));
        network.set(&[address(3), address(2)]);
        tokio::time::timeout(ADDRESS_POLL_INTERVAL * 4, own.changed()).await.expect("a better one stays");
        assert_eq!(own.now(), Some(address(3)));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
