//! openraft's own storage suite on our log store and state machine, on real files.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use piccolo_raft::disk::FolderDisk;
use piccolo_raft::index::Index;
use piccolo_raft::log::LogStore;
use piccolo_raft::state_machine::StateMachine;
use piccolo_raft::types::TypeConfig;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = FolderDisk::open(folder.path()).expect("its folder is there");
        let log = LogStore::open(&disk).expect("a new log");
        let index = Index::open(&disk).expect("a new index");
        Ok((folder, log, StateMachine::new(index)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_our_log_and_state_machine() {
    Suite::test_all(Builder).await.expect("the whole suite");
}
