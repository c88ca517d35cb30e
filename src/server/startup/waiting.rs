//! What a start waits for instead of failing: an address that the host does not have yet, or a name that
//! cannot be resolved yet. Both come by themselves, and a service manager that starts the process again and
//! again would only make it slower. Meanwhile the log and `/readyz` say what is missing.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use piccolo_raft::cluster::NodeNames;
use piccolo_raft::network::names::Names;
use tokio::net::TcpListener;

use super::addresses::{self, AddressError, Stored};
use crate::http::{self, BindError};
use crate::limits::START_TRY_INTERVAL;
use crate::task::Stop;

/// What the start of a server waits for, if anything; clones share it.
#[derive(Clone, Debug, Default)]
pub struct WaitReason(Arc<Mutex<Option<String>>>);

impl WaitReason {
    /// Sets what the start waits for; `None` if it goes on. Each reason is logged once.
    pub fn set(&self, reason: Option<String>) {
        let mut current = self.lock();
        if *current != reason {
            match &reason {
                Some(reason) => tracing::warn!(reason, "the start waits"),
                None => tracing::info!("the start continues"),
            }
            *current = reason;
        }
    }

    /// What the start waits for.
    pub fn get(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// A step of the start that may fail now and succeed by itself later.
pub trait Attempt {
    /// The result of the step.
    type Done;
    /// Why the step failed.
    type Error: Display;

    /// Tries the step once.
    fn attempt(&self) -> impl Future<Output = Result<Self::Done, Self::Error>> + Send;

    /// Whether another attempt may succeed although nobody changes anything.
    fn may_pass(error: &Self::Error) -> bool;
}

/// The step that opens a port.
pub struct Binding {
    /// The address to listen on.
    pub address: SocketAddr,
    /// What is served there, for errors.
    pub what: &'static str,
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

/// The step that finds the names under which the others reach this server.
pub struct Naming {
    /// The list of `--cluster`.
    pub cluster: Vec<String>,
    /// The member of `--join`.
    pub join: Option<String>,
    /// The host of `--advertise`.
    pub advertise: Option<String>,
    /// The address on which the API listens.
    pub api: SocketAddr,
    /// The address on which raft listens.
    pub raft: SocketAddr,
    /// What the data of the server says.
    pub stored: Option<Stored>,
    /// Resolves names, and knows those that were resolved before.
    pub known: Names,
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

/// Waits for the steps of a start.
pub struct Waiting {
    /// Shows what the start waits for.
    pub reason: WaitReason,
    /// Ends the waiting when cancelled.
    pub stop: Stop,
}

impl Waiting {
    /// Tries until `attempt` succeeds; `None` if the server is stopped before.
    pub async fn until_done<A: Attempt>(&self, attempt: A) -> Result<Option<A::Done>, A::Error> {
        loop {
            match self.stop.run_until_cancelled(attempt.attempt()).await {
                None => return Ok(None),
                Some(Ok(done)) => {
                    self.reason.set(None);
                    return Ok(Some(done));
                }
                Some(Err(error)) if A::may_pass(&error) => self.reason.set(Some(error.to_string())),
                Some(Err(error)) => return Err(error),
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(START_TRY_INTERVAL)).await.is_none() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn waiting() -> Waiting {
        Waiting { reason: WaitReason::default(), stop: Stop::new() }
    }

    fn missing() -> AddressError {
        AddressError::NotInList { list: vec!["n-0:1".to_owned()], failures: vec![] }
    }

    /// Fails so many times, and checks the reason that is shown meanwhile.
    struct Later<'a>(&'a Waiting, AtomicUsize, usize);

    impl Attempt for Later<'_> {
        type Done = ();
        type Error = AddressError;

        async fn attempt(&self) -> Result<(), AddressError> {
            let before = self.1.fetch_add(1, Ordering::Relaxed);
            assert_eq!(self.0.reason.get(), (before > 0).then(|| missing().to_string()));
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
        assert_eq!((start.elapsed(), waiting.reason.get()), (60 * START_TRY_INTERVAL, None));
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
                if let Some(said) = waiting.reason.get() {
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
