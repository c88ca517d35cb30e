//! A task that panicked was noticed by nobody: the node went on without purges, or without a look at its disk.
//! Now each task of a node has a name, and a node without one of its tasks ends.

use super::stopping::one;
use super::*;
use crate::cluster::lifetime::Ends;

async fn node() -> Node {
    let disk = Arc::new(MemoryDisk::default());
    Node::start(one("one:1"), system(disk), CancellationToken::new()).await.unwrap()
}

async fn failure(node: &Node) -> NodeFailure {
    tokio::time::timeout(SOON, node.failed()).await.expect("the node ends")
}

#[tokio::test]
async fn a_task_that_panics_ends_the_node_with_the_name_of_the_task() {
    let node = node().await;
    for (name, ends) in [("of work", Ends::WhenDone), ("for good", Ends::WithNode)] {
        node.inner.lifetime.watch_task(name, ends, async { panic!("as the test wants it") });
        let failure = failure(&node).await;
        assert!(matches!(failure, NodeFailure::TaskPanicked { name: ended } if ended == name), "{failure}");
        assert!(failure.to_string().contains(name), "{failure}");
        node.inner.lifetime.failure.set(None);
    }
    node.shutdown().await;
}

#[tokio::test]
async fn only_a_task_that_should_go_on_ends_the_node_by_ending() {
    let node = node().await;
    node.inner.lifetime.watch_task("of work", Ends::WhenDone, async { Ok(()) });
    node.inner.lifetime.watch_task("for good", Ends::WithNode, async { Ok(()) });
    let failure = failure(&node).await;
    assert!(matches!(failure, NodeFailure::TaskEnded { name: "for good" }), "{failure}");
    node.inner.lifetime.failure.set(None);
    node.shutdown().await;
    node.inner.lifetime.watch_task("for good", Ends::WithNode, async { Ok(()) });
    let after_the_stop =
        tokio::time::timeout(Duration::from_millis(200), node.inner.lifetime.tasks.wait()).await;
    after_the_stop.expect("the task ends");
    assert!(node.inner.lifetime.failure.get().is_none());
}

/// The tasks of a node that nothing is wrong with go on until it stops.
#[tokio::test]
async fn a_stopped_node_has_not_failed() {
    let node = node().await;
    node.wait_leader(SOON).await.unwrap();
    node.shutdown().await;
    assert!(node.inner.lifetime.failure.get().is_none());
}
