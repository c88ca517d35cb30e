//! Giving room back to the disk. redb reuses what is freed but keeps its file as long as anything lies at
//! its end, so after a hard purge the file is moved together and cut.

use std::io;

use redb::{Database, Durability, ReadableDatabase, ReadableTable};

use super::tables::ENTRIES;
use super::view::Shared;
use super::writer::delete_purged;

/// Purged entries that one commit deletes: bounds its memory.
const DELETE_STEP: usize = 4096;

impl Shared {
    /// On the writer's thread.
    pub(super) fn shrink(&self) -> io::Result<()> {
        if let (Some(purged), _) = self.state() {
            self.with_database(|database| delete_all(database, purged.index).map_err(io::Error::other))?;
        }
        self.with_database_alone(|database| database.compact().map(drop).map_err(io::Error::other))
    }
}

/// Without a sync a step: what a crash brings back is deleted again, and the compaction syncs.
fn delete_all(database: &Database, upto: u64) -> Result<(), redb::Error> {
    while has_entry_up_to(database, upto)? {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        delete_purged(&mut transaction.open_table(ENTRIES)?, upto, DELETE_STEP)?;
        transaction.commit()?;
    }
    Ok(())
}

fn has_entry_up_to(database: &Database, upto: u64) -> Result<bool, redb::Error> {
    let first = database.begin_read()?.open_table(ENTRIES)?.first()?.map(|(index, _)| index.value());
    Ok(first.is_some_and(|first| first <= upto))
}
