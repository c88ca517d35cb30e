//! Registration like the sync of the Go server: selects the holder's keys, then inserts the missing ones in
//! batches of `INSERT IGNORE`, in one transaction for each host (gorm's `CreateInBatches`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, TxOpts, Value};
use tokio::task::JoinSet;

use super::{DATABASE, MariaDb, options, runtime};
use crate::fleet::{Fleet, GROUP};
use crate::names::KeyNames;

/// The Go Piccolo's `MaxBatch`.
pub(crate) const ROWS_PER_INSERT: usize = 100;

/// Result of a registration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    /// Number of rows that were added.
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
}

impl Registered {
    pub(crate) fn rows_per_second(self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

/// State that the tasks share.
struct RegistrationState {
    fleet: Fleet,
    names: Arc<KeyNames>,
    next: AtomicU32,
    end: u32,
    batch: usize,
}

impl MariaDb {
    /// Registers `hosts` over `connections` connections with `batch` rows for each insert, without the Go
    /// Piccolo's HTTP and JSON. Statements are prepared once for each connection, while gorm prepares each
    /// time.
    pub(crate) fn register(
        &self,
        fleet: Fleet,
        names: &Arc<KeyNames>,
        hosts: Range<u32>,
        connections: usize,
        batch: usize,
    ) -> Result<Registered> {
        let shared = Arc::new(RegistrationState {
            fleet,
            names: Arc::clone(names),
            next: AtomicU32::new(hosts.start),
            end: hosts.end,
            batch,
        });
        runtime()?.block_on(async {
            let mut open = Vec::new();
            for _ in 0..connections {
                let options = options(&self.socket(), Some(DATABASE));
                open.push(Conn::new(options).await.context("could not connect to MariaDB")?);
            }
            let started = Instant::now();
            let mut tasks = JoinSet::new();
            for connection in open {
                tasks.spawn(register_hosts(connection, Arc::clone(&shared)));
            }
            let mut rows = 0;
            while let Some(ended) = tasks.join_next().await {
                rows += ended.context("a registration panicked")??;
            }
            Ok(Registered { rows, seconds: started.elapsed().as_secs_f64() })
        })
    }
}

async fn register_hosts(mut connection: Conn, shared: Arc<RegistrationState>) -> Result<u64> {
    let mut rows = 0;
    loop {
        let host = shared.next.fetch_add(1, Ordering::Relaxed);
        if host >= shared.end {
            break;
        }
        rows += register_host(&mut connection, &shared, host).await.context("could not register a host")?;
    }
    connection.disconnect().await.context("could not disconnect from MariaDB")?;
    Ok(rows)
}

async fn register_host(connection: &mut Conn, shared: &RegistrationState, host: u32) -> Result<u64> {
    let holder = shared.fleet.address(host).to_string();
    let select = "SELECT `key` FROM distribution_tab WHERE `holder` = ? AND `group` = ?";
    let existing: Vec<String> = connection.exec(select, (&holder, GROUP)).await?;
    let existing: std::collections::HashSet<&str> = existing.iter().map(String::as_str).collect();
    let inventory = shared.fleet.inventory(host);
    let missing: Vec<&str> =
        inventory.iter().map(|key| shared.names.get(*key)).filter(|key| !existing.contains(key)).collect();
    let mut transaction = connection.start_transaction(TxOpts::default()).await?;
    let mut rows = 0;
    for keys in missing.chunks(shared.batch) {
        transaction.exec_drop(insert(keys.len()), values(keys, &holder)).await?;
        rows += transaction.affected_rows();
    }
    transaction.commit().await?;
    ensure!(rows == missing.len() as u64, "{holder}: {rows} rows of {} were added", missing.len());
    Ok(rows)
}

fn insert(rows: usize) -> String {
    let columns =
        "INSERT IGNORE INTO `distribution_tab` (`key`,`holder`,`group`,`created_at`,`updated_at`) VALUES ";
    columns.to_owned() + &vec!["(?,?,?,?,?)"; rows].join(",")
}

fn values(keys: &[&str], holder: &str) -> Params {
    let now = Value::Date(2026, 1, 1, 0, 0, 0, 0);
    let row = |key: &&str| [Value::from(*key), holder.into(), GROUP.into(), now.clone(), now.clone()];
    Params::Positional(keys.iter().flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_registered_once_and_a_kept_folder_is_filled_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Fleet::FULL.with_hosts(6);
        let names = Arc::new(KeyNames::of(fleet));
        let database = MariaDb::start(folder.path(), fleet).unwrap();
        let register = |hosts| database.register(fleet, &names, hosts, 3, ROWS_PER_INSERT).unwrap();
        assert_eq!(register(0..4).rows, 1600);
        assert_eq!(register(2..6).rows, 800, "two of them had been there");
        assert_eq!(database.rows().unwrap(), 2400);
        assert!(register(0..6).rows_per_second() < 1.0, "nothing was left");
        assert!(database.fill(&names).is_err(), "filled on top of it");
        database.stop().unwrap();

        let folder = tempfile::tempdir().unwrap();
        MariaDb::start(folder.path(), fleet).unwrap().fill(&names).unwrap();
        let again = MariaDb::start(folder.path(), fleet).unwrap();
        again.fill(&names).unwrap();
        assert_eq!(again.rows().unwrap(), 2400);
        assert_eq!(again.register(fleet, &names, 0..6, 1, ROWS_PER_INSERT).unwrap().rows, 0);
    }
}
