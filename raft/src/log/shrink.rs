//! Giving room back to the disk. redb reuses what is freed but keeps its file as long as anything lies at
//! its end, so after a hard purge the file is moved together and cut.

use std::io;

use redb::{Database, Durability};

use crate::format::Level;
use crate::limits::SHRINK_DELETE_STEP;

use super::stored::StoredEntries;
use super::view::SharedLog;

impl SharedLog {
    /// Deletes all purged entries and compacts the file; called on the writer's thread.
    pub(super) fn shrink(&self) -> io::Result<()> {
        if let (Some(purged), _) = self.state() {
            self.with_database(|database| {
                delete_all(database, self.level(), purged.index).map_err(io::Error::other)
            })?;
        }
        self.with_database_alone(|database| database.compact().map(drop).map_err(io::Error::other))
    }
}

/// Without a sync a step: what a crash brings back is deleted again, and the compaction syncs.
fn delete_all(database: &Database, level: Level, upto: u64) -> Result<(), redb::Error> {
    loop {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let mut entries = StoredEntries::open(&transaction, level)?;
        let deleted = entries.delete_purged(upto, SHRINK_DELETE_STEP)?;
        entries.finish(None)?;
        transaction.commit()?;
        if deleted < SHRINK_DELETE_STEP {
            return Ok(());
        }
    }
}
