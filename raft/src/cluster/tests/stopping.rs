//! Nodes that are asked to stop, at good and at bad moments.

use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::raft::VoteRequest;
use tokio::task::JoinSet;
use tracing::span;

use super::*;

/// Counts the errors that openraft logs on this thread.
#[derive(Default)]
struct RaftErrors(Arc<AtomicUsize>);

impl tracing::Subscriber for RaftErrors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR && metadata.target().starts_with("openraft")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        println!("{event:?}");
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

pub(super) fn one(raft_address: &str) -> NodeConfig {
    NodeConfig {
        members: vec![raft_address.to_owned()],
        raft_address: None,
        api_address: "one:2".to_owned(),
        disk_free_min: Some(0),
        found_after: Duration::ZERO,
        api_port: None,
    }
}

#[tokio::test]
async fn a_stopped_node_refuses_messages_before_openraft_calls_them_errors() {
    let subscriber = RaftErrors::default();
    let errors = subscriber.0.clone();
    let _scope = tracing::subscriber::set_default(subscriber);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let disk = Arc::new(MemoryDisk::default());
    let node = Node::start(one(&address), system(disk), CancellationToken::new()).await.unwrap();
    let mut serving = JoinSet::new();
    let router = node.router();
    serving.spawn(async move { axum::serve(listener, router).await });
    node.wait_leader(SOON).await.unwrap();

    let header = node.inner.contacts.identity.header(node.inner.contacts.identity.node_id).unwrap();
    let own = Vote::new(0, node.inner.contacts.identity.node_id);
    let vote = VoteRequest::<TypeConfig>::new(own, None).frame(&header, Level::FIRST);
    let client = lone_client();
    let post = |route| client.call(&address, route, vote.clone(), SOON);
    for route in ["vote", "pre-vote", "whoami"] {
        post(route).await.unwrap();
    }
    node.shutdown().await;
    for route in ["append", "vote", "pre-vote", "transfer", "whoami"] {
        match post(route).await {
            Err(CallError::Refused { status, reason, .. }) => {
                assert!(
                    status.as_u16() == 503 && reason.contains("is stopping"),
                    "{route}: {status} {reason}"
                );
            }
            other => panic!("{route}: {other:?}"),
        }
    }
    assert_eq!(errors.load(Ordering::Relaxed), 0);
}

/// The last of three servers to stop logged "raft stopped" as an error: as a new leader it had asked the others,
/// which were gone, whether it led.
#[tokio::test]
async fn a_leader_without_a_quorum_stops_without_an_error_of_openraft() {
    let subscriber = RaftErrors::default();
    let errors = subscriber.0.clone();
    let _scope = tracing::subscriber::set_default(subscriber);
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap().to_string();
    let members: Vec<String> = listeners.iter().map(address).collect();
    let (mut nodes, mut serving) = (Vec::new(), JoinSet::new());
    for listener in listeners {
        let config = NodeConfig {
            members: members.clone(),
            raft_address: Some(address(&listener)),
            ..one(&address(&listener))
        };
        let disk = Arc::new(MemoryDisk::default());
        let node = Node::start(config, system(disk), CancellationToken::new()).await.unwrap();
        let router = node.router();
        serving.spawn(async move { axum::serve(listener, router).await });
        nodes.push(node);
    }
    for node in &nodes {
        node.wait_leader(SOON).await.unwrap();
    }
    let leading = nodes.iter().position(Node::is_leader).unwrap();
    let last = nodes.swap_remove(leading);
    for other in &nodes {
        other.shutdown().await;
    }
    let mut waiting = JoinSet::new();
    let asking = last.clone();
    waiting.spawn(async move { asking.catch_up().await.map(drop) });
    let writing = last.clone();
    waiting.spawn(async move { writing.propose(Command::Tombstone { node_id: 77 }).await.map(drop) });
    tokio::time::sleep(crate::limits::POLL_INTERVAL).await;
    assert_eq!(waiting.try_join_next().map(|_| "an answer"), None, "they wait for a quorum");
    last.shutdown().await;
    while let Some(result) = waiting.join_next().await {
        let error = result.unwrap().unwrap_err();
        assert!(
            matches!(
                error,
                ProposeError::Stopping | ProposeError::Stopped { .. } | ProposeError::OutcomeUnknown
            ),
            "{error}"
        );
    }
    assert_eq!(errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_node_that_is_stopped_while_it_starts_founds_nothing() {
    let stop = CancellationToken::new();
    stop.cancel();
    let node = Node::start(one("one:1"), system(Arc::new(MemoryDisk::default())), stop).await.unwrap();
    node.inner.lifetime.tasks.close();
    tokio::time::timeout(SOON, node.inner.lifetime.tasks.wait()).await.expect("the tasks end");
    assert_eq!(node.status().cluster_id, None);
    assert!(!node.inner.leadership.raft.is_initialized().await.unwrap());
    node.shutdown().await;
}

#[test]
fn a_leader_that_cannot_hand_over_tries_once() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let silent: Vec<TcpListener> = [(leading + 1) % 3, (leading + 2) % 3]
        .into_iter()
        .map(|other| {
            servers[other].kill();
            TcpListener::bind(servers[other].address).unwrap()
        })
        .collect();
    let node = servers[leading].node().clone();
    assert!(!servers[leading].run(node.transfer_leader()));
    assert!(node.is_leader());
    let start = std::time::Instant::now();
    servers[leading].run(node.shutdown());
    assert!(start.elapsed() < crate::limits::TRANSFER_TIMEOUT, "{:?}", start.elapsed());
    drop(silent);
}
