//! Giving room back to the disk, at the start. redb reuses what is freed, but keeps its file as long as anything
//! lies at its end: a fleet that was forgotten, or a first registration whose pages were written many times,
//! leaves a file that is larger than its content for good.

use redb::Database;
use tokio::time::Instant;

use crate::limits::{SHRINK_FREE_BYTES_MIN, SHRINK_FREE_SHARE_MIN};

use super::IndexError;

/// True if it was worth it: the file is as large as its content then.
pub(super) fn shrink_if_it_pays(database: &mut Database) -> Result<bool, IndexError> {
    shrink_if_free(database, SHRINK_FREE_BYTES_MIN)
}

fn shrink_if_free(database: &mut Database, free_bytes_min: u64) -> Result<bool, IndexError> {
    let (free, used) = free_and_used(database)?;
    if free < free_bytes_min || free < used * SHRINK_FREE_SHARE_MIN {
        return Ok(false);
    }
    let start = Instant::now();
    database.compact().map_err(IndexError::storage("compact"))?;
    tracing::info!(ms = start.elapsed().as_millis(), "the state file was compacted");
    Ok(true)
}

/// Bytes of pages in which nothing is, and of the others.
fn free_and_used(database: &Database) -> Result<(u64, u64), IndexError> {
    let transaction = database.begin_write().map_err(IndexError::storage("begin a write"))?;
    let stats = transaction.stats().map_err(IndexError::storage("count pages"))?;
    transaction.abort().map_err(IndexError::storage("end a look"))?;
    let used = stats.allocated_pages() * stats.page_size() as u64;
    // What is lost inside of used pages is counted as well, and cannot be had back.
    let all = stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
    Ok((all.saturating_sub(used), used))
}

#[cfg(test)]
mod tests {
    use redb::Builder;

    use super::super::{Index, STATE_FILE};
    use super::*;
    use crate::command::Command;
    use crate::disk::Disk;
    use crate::testing::sim_disk::SimDisk;
    use crate::testing::{entry, holder, write};

    #[tokio::test]
    async fn a_file_that_is_far_larger_than_its_content_is_compacted() {
        let disk = SimDisk::default();
        let index = Index::open(&disk).unwrap();
        let name = "x".repeat(200);
        let keys: Vec<String> = (0..8_000).map(|number| format!("{name}:{number}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        index.apply(&[entry(1, Command::Advertise(write(1, &keys)))]).await.unwrap();
        index.flush_durable().await.unwrap();
        let hide = Command::Hide { holder: holder(1), last_write_index: 1, unix_ms: 7 };
        let forget = Command::Forget { holder: holder(1), hidden_unix_ms: 7 };
        let kept = Command::Advertise(write(2, &["r/a:1"]));
        index.apply(&[entry(2, hide), entry(3, forget), entry(4, kept)]).await.unwrap();
        index.close().await.unwrap();
        let before = disk.bytes(STATE_FILE);
        let mut database = disk.database(STATE_FILE, Builder::new()).unwrap();
        assert!(!shrink_if_it_pays(&mut database).unwrap(), "it is small");
        assert!(shrink_if_free(&mut database, 1 << 20).unwrap());
        assert!(!shrink_if_free(&mut database, 1 << 20).unwrap(), "once is enough");
        drop(database);
        let after = disk.bytes(STATE_FILE);
        assert!(after < before / 4, "{before} bytes, then {after}");
        let index = Index::open(&disk).unwrap();
        assert_eq!(index.inventory(&holder(2)).unwrap().unwrap().len(), 1);
    }
}
