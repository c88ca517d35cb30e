//! What a start waits for instead of failing: an address that the host does not have yet, a name that cannot
//! be looked up yet. It passes by itself, and a service manager that starts the process again and again would
//! only make it slower. Meanwhile the log and `/readyz` say what is missing.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use piccolo_raft::cluster::NodeNames;
use piccolo_raft::network::names::Names;
use tokio::net::TcpListener;

use crate::http::{self, BindError};
use crate::server::app::Shared;
use crate::server::startup::addresses::{self, AddressError, Stored};
use crate::task::Stop;

/// Between two attempts.
const TRY_INTERVAL: Duration = Duration::from_secs(1);

/// Something that may fail today and succeed by itself later.
pub(in crate::server) trait Attempt {
    /// What comes of it.
    type Done;
    /// Why nothing does.
    type Error: Display;

    /// Tries once.
    fn attempt(&self) -> impl Future<Output = Result<Self::Done, Self::Error>> + Send;

    /// Whether another attempt may succeed without anybody's doing.
    fn may_pass(error: &Self::Error) -> bool;
}

/// Listens on an address.
pub(in crate::server) struct Binding {
    pub(in crate::server) address: SocketAddr,
    /// What is served there.
    pub(in crate::server) what: &'static str,
}

impl Attempt for Binding {
    type Done = TcpListener;
    type Error = BindError;

    async fn attempt(&self) -> Result<TcpListener, BindError> {
        http::bind(self.address, self.what).await
    }

    fn may_pass(error: &BindError) -> bool {
        error.source.kind() == io::ErrorKind::AddrNotAvailable
    }
}

/// Tells what a server is called.
pub(in crate::server) struct Naming {
    pub(in crate::server) cluster: Vec<String>,
    pub(in crate::server) join: Option<String>,
    pub(in crate::server) advertise: Option<String>,
    /// Where it listens.
    pub(in crate::server) api: SocketAddr,
    pub(in crate::server) raft: SocketAddr,
    /// What its data says.
    pub(in crate::server) stored: Option<Stored>,
    /// What is known of names.
    pub(in crate::server) known: Names,
}

impl Attempt for Naming {
    type Done = NodeNames;
    type Error = AddressError;

    async fn attempt(&self) -> Result<NodeNames, AddressError> {
        let (advertise, stored) = (self.advertise.as_deref(), self.stored.as_ref());
        let (api, raft, known) = (self.api, self.raft, &self.known);
        match &self.join {
            Some(member) => addresses::joining_names(member, advertise, api, raft, stored, known).await,
            None => addresses::names(&self.cluster, advertise, api, raft, stored, known).await,
        }
    }

    fn may_pass(error: &AddressError) -> bool {
        error.may_pass()
    }
}

/// A server that starts.
pub(in crate::server) struct Waiting {
    /// Where it says what it waits for.
    pub(in crate::server) shared: Shared,
    /// Ends the waiting.
    pub(in crate::server) stop: Stop,
}

impl Waiting {
    /// What comes of `attempt`, as soon as it does; `None`: stopped before.
    pub(in crate::server) async fn until_done<A: Attempt>(
        &self,
        attempt: A,
    ) -> Result<Option<A::Done>, A::Error> {
        loop {
            match self.stop.run_until_cancelled(attempt.attempt()).await {
                None => return Ok(None),
                Some(Ok(done)) => {
                    self.shared.set_waits(None);
                    return Ok(Some(done));
                }
                Some(Err(error)) if A::may_pass(&error) => self.shared.set_waits(Some(error.to_string())),
                Some(Err(error)) => return Err(error),
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(TRY_INTERVAL)).await.is_none() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn waiting() -> Waiting {
        Waiting { shared: Shared::default(), stop: Stop::new() }
    }

    fn missing() -> AddressError {
        AddressError::NotInList { list: vec!["n-0:1".to_owned()], failures: vec![] }
    }

    /// Fails so many times, and looks at what is said meanwhile.
    struct Later<'a>(&'a Waiting, AtomicUsize, usize);

    impl Attempt for Later<'_> {
        type Done = ();
        type Error = AddressError;

        async fn attempt(&self) -> Result<(), AddressError> {
            let before = self.1.fetch_add(1, Ordering::Relaxed);
            assert_eq!(self.0.shared.waits_for(), (before > 0).then(|| missing().to_string()));
            if before < self.2 { Err(missing()) } else { Ok(()) }
        }

        fn may_pass(error: &AddressError) -> bool {
            error.may_pass()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_by_itself_is_waited_for_and_said() {
        let waiting = waiting();
        let later = |times| Later(&waiting, AtomicUsize::new(0), times);
        let start = tokio::time::Instant::now();
        assert_eq!(waiting.until_done(later(60)).await.unwrap(), Some(()));
        assert_eq!((start.elapsed(), waiting.shared.waits_for()), (60 * TRY_INTERVAL, None));
        let wrong = Naming {
            cluster: vec!["127.0.0.1".to_owned()],
            join: None,
            advertise: None,
            api: "127.0.0.1:1".parse().unwrap(),
            raft: "127.0.0.1:2".parse().unwrap(),
            stored: None,
            known: Names::new(std::sync::Arc::new(piccolo_raft::network::names::SystemResolver)),
        };
        assert!(waiting.until_done(wrong).await.is_err(), "what does not pass ends the start");
        waiting.stop.cancel();
        assert_eq!(waiting.until_done(later(usize::MAX)).await.unwrap(), None, "it is stopped");
    }

    #[tokio::test]
    async fn an_address_that_the_host_does_not_have_yet_is_waited_for() {
        let waiting = waiting();
        let listen = waiting.until_done(Binding { address: "240.0.0.1:7790".parse().unwrap(), what: "raft" });
        let said = async {
            loop {
                if let Some(said) = waiting.shared.waits_for() {
                    break said;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let said = tokio::select! {
            bound = listen => panic!("{bound:?}"),
            said = said => said,
        };
        assert!(said.contains("240.0.0.1:7790") && said.contains("which this host does not have"), "{said}");
    }
}
