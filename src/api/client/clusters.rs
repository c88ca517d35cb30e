//! The cluster that a client belongs to. Its writes name that cluster, and answers of servers of another
//! cluster do not count: the next server is asked, as if that one were silent. A client without a cluster
//! (the command line, an agent that has just started) accepts every answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::header::HeaderValue;
use tokio::sync::Notify;

use super::answer::Answer;
use super::ask::Question;
use super::{Client, path};
use crate::api::Capabilities;
use crate::limits::CLUSTER_LOOKS_AT_A_LONE_ADDRESS;

/// What one server says about its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The server does not answer, or is still loading its index.
    Silent,
    /// The server answers and belongs to no cluster yet, or is of a kind that names none.
    Unnamed,
    /// The server belongs to a cluster.
    Of {
        /// Id of the cluster.
        cluster: String,
        /// Number of servers in that cluster, as far as this one knows; 0: it does not say.
        servers: usize,
    },
}

impl Sighting {
    fn of(answer: &Answer) -> Self {
        match &answer.cluster {
            Some(id) => {
                let servers = answer.parse::<Capabilities>().map_or(0, |capabilities| capabilities.servers);
                Self::Of { cluster: text(id), servers }
            }
            None if answer.status.is_server_error() => Self::Silent,
            None => Self::Unnamed,
        }
    }
}

/// The cluster of a client; `None` inside: none yet.
#[derive(Debug, Default)]
pub(super) struct Belonging {
    own: Mutex<Option<HeaderValue>>,
    strange: Notify,
}

impl Belonging {
    /// Cluster id for the header of a write.
    pub(super) fn own(&self) -> Option<HeaderValue> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks whether an answer that names this cluster counts; the error says why not.
    pub(super) fn check(&self, named: Option<&HeaderValue>) -> Result<(), String> {
        let Some(named) = named else { return Ok(()) };
        let own = self.own();
        if own.as_ref() == Some(named) {
            return Ok(());
        }
        self.strange.notify_one();
        match own {
            None => Ok(()),
            Some(own) => Err(format!("it belongs to cluster {}, not {}", text(named), text(&own))),
        }
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

impl Client {
    /// Accepts only servers of this cluster from now on; `None`: all servers.
    pub fn belong_to(&self, cluster: Option<&str>) {
        let own = cluster.and_then(|cluster| HeaderValue::from_str(cluster).ok());
        *self.shared.belonging.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// Id of the cluster that this client belongs to.
    pub fn cluster(&self) -> Option<String> {
        self.shared.belonging.own().as_ref().map(text)
    }

    /// Resolves after an answer has named another cluster than the client's.
    pub async fn strange(&self) {
        self.shared.belonging.strange.notified().await;
    }

    /// Asks each server for its cluster; returns the servers' labels and answers. A single address is asked
    /// on several connections, because several servers may be behind it.
    pub async fn clusters(&self, deadline: Duration) -> Vec<(String, Sighting)> {
        let servers = &self.shared.servers;
        servers.refresh();
        let endpoints = servers.order();
        let times = if servers.is_lone() { CLUSTER_LOOKS_AT_A_LONE_ADDRESS } else { 1 };
        let question = &Question::of_any(path::CAPABILITIES);
        let looks = endpoints.iter().flat_map(|endpoint| std::iter::repeat_n(endpoint, times));
        let looks = looks.map(|endpoint| async move {
            let asked = self.ask(endpoint, question, times > 1);
            let sighting = match tokio::time::timeout(deadline, asked).await {
                Ok(Ok(answer)) => Sighting::of(&answer),
                Ok(Err(_)) | Err(_) => Sighting::Silent,
            };
            (endpoint.label.clone(), sighting)
        });
        let unresolved = servers.unresolved(deadline).into_iter();
        let unresolved = unresolved.map(|attempt| (attempt.server, Sighting::Silent));
        join_all(looks).await.into_iter().chain(unresolved).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_of_another_cluster_does_not_count_once_a_client_belongs_to_one() {
        let client = Client::new(vec!["http://127.0.0.1:1".to_owned()]).unwrap();
        let check =
            |cluster: &'static str| client.shared.belonging.check(Some(&HeaderValue::from_static(cluster)));
        let is_strange = || client.strange().now_or_never().is_some();
        assert_eq!((check("y"), is_strange(), is_strange()), (Ok(()), true, false), "it belongs to none");
        client.belong_to(Some("x"));
        assert_eq!((check("x"), is_strange()), (Ok(()), false));
        let refused = check("y").unwrap_err();
        assert_eq!(refused, "it belongs to cluster y, not x");
        assert!(is_strange());
        assert_eq!(client.shared.belonging.check(None), Ok(()), "the Go Piccolo names none");
        assert_eq!(client.cluster().as_deref(), Some("x"));
        client.belong_to(None);
        assert_eq!((check("y"), client.cluster()), (Ok(()), None));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_silent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::new(vec![url.clone()]).unwrap();
        let seen = client.clusters(Duration::from_secs(5)).await;
        assert!(
            !seen.is_empty() && seen.iter().all(|one| *one == (url.clone(), Sighting::Silent)),
            "{seen:?}"
        );
    }
}
