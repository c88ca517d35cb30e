//! Debian's MariaDB with the Go Piccolo's table, to compare lookups and registration with.
//!
//! The set-up favours MariaDB: a buffer pool that holds everything, a local socket, prepared statements, no
//! replica. All other settings are Debian's.

mod fill;
mod lookups;
mod register;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::fleet::Fleet;
use crate::process::{Process, run};

pub(crate) use lookups::{Options, serve};
pub(crate) use register::ROWS_PER_INSERT;

const DATABASE: &str = "piccolo";
/// Buffer pool for each row, bytes: table and both indexes, with room for half-full pages.
const POOL_BYTES_PER_ROW: u64 = 480;
const POOL_BYTES_MIN: u64 = 256 << 20;
/// Time to stop: a pool of gigabytes must be written.
const STOP_MAX: Duration = Duration::from_secs(600);
/// The table as gorm makes it for the Go Piccolo's model (v0.0.36), see `docs/go-piccolo.md`.
const TABLE: &str = "CREATE TABLE distribution_tab (
    id bigint unsigned AUTO_INCREMENT, `key` varchar(255), holder varchar(24), `group` varchar(64),
    created_at datetime(3) NULL, updated_at datetime(3) NULL, PRIMARY KEY (id),
    UNIQUE INDEX idx_group_key_holder_uniq (`group`, `key`, holder), INDEX idx_distribution_tab_holder (holder))";

/// A running mariadbd with the table.
pub(crate) struct MariaDb {
    /// Folder of its data, socket and log.
    folder: PathBuf,
    fleet: Fleet,
    process: Process,
}

impl MariaDb {
    /// Starts one on `folder`, with a buffer pool for all of `fleet`. Existing data in the folder is kept.
    pub(crate) fn start(folder: &Path, fleet: Fleet) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        let folder = folder.canonicalize().context("could not find the folder of MariaDB")?;
        let is_new = !folder.join("data").exists();
        if is_new {
            install(&folder)?;
        }
        let mut command = Command::new("mariadbd");
        command.args(common_arguments(&folder));
        command.arg(format!("--innodb-buffer-pool-size={}", pool_bytes(fleet)));
        let mut process = Process::start(&folder, "mariadbd", command)?;
        let socket = folder.join("socket");
        process.wait_until("mariadbd listens", || std::os::unix::net::UnixStream::connect(&socket).ok())?;
        let database = Self { folder, fleet, process };
        if is_new {
            database.query(None, &format!("CREATE DATABASE {DATABASE}"))?;
            database.query(Some(DATABASE), TABLE)?;
        }
        Ok(database)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Its configuration in one line.
    pub(crate) fn what(&self) -> Result<String> {
        let version = run(Command::new("mariadbd").arg("--version"))?;
        let version = version.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        Ok(format!(
            "mariadbd {version}, innodb_buffer_pool_size {} MiB (enough for all {} MiB on disk), \
             skip_networking, the rest as Debian ships it (innodb_flush_log_at_trx_commit 1, no binary log)",
            pool_bytes(self.fleet) >> 20,
            self.disk_bytes()? >> 20
        ))
    }

    /// Size of its data folder, bytes.
    fn disk_bytes(&self) -> Result<u64> {
        let listed = run(Command::new("du").args(["-s", "-B1"]).arg(self.folder.join("data")))?;
        listed.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).context("du said nothing")
    }

    /// Stops it and waits until everything is in its files.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait_end(STOP_MAX)
    }

    /// Runs a statement; returns the first column of its rows as numbers, if it has one.
    fn query(&self, database: Option<&str>, statement: &str) -> Result<Vec<Option<u64>>> {
        let options = options(&self.socket(), database);
        runtime()?.block_on(async {
            let mut connection = Conn::new(options).await.context("could not connect to MariaDB")?;
            let rows = connection.query(statement).await.with_context(|| statement.to_owned())?;
            connection.disconnect().await.context("could not disconnect from MariaDB")?;
            Ok(rows)
        })
    }

    /// Number of rows in the table.
    pub(crate) fn rows(&self) -> Result<u64> {
        let count = "SELECT COUNT(*) FROM distribution_tab FORCE INDEX (idx_group_key_holder_uniq)";
        self.query(Some(DATABASE), count)?.into_iter().flatten().next().context("COUNT(*) gave no number")
    }
}

fn pool_bytes(fleet: Fleet) -> u64 {
    (fleet.pairs() * POOL_BYTES_PER_ROW).max(POOL_BYTES_MIN).next_multiple_of(128 << 20)
}

fn common_arguments(folder: &Path) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--datadir={}", at("data")),
        format!("--socket={}", at("socket")),
        format!("--pid-file={}", at("pid")),
        format!("--tmpdir={}", folder.display()),
        "--skip-networking".to_owned(),
        // mariadbd needs it if run by root, and ignores it otherwise.
        "--user=root".to_owned(),
    ]
}

/// Makes the system tables, with a root user that needs no password on the socket.
fn install(folder: &Path) -> Result<()> {
    let mut command = Command::new("mariadb-install-db");
    command.args(common_arguments(folder).iter().take(1));
    command.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--user=root"]);
    run(&mut command).context("could not make MariaDB's system tables (Debian's mariadb-server)")?;
    ensure!(folder.join("data").is_dir(), "mariadb-install-db made no data folder");
    Ok(())
}

fn options(socket: &Path, database: Option<&str>) -> Opts {
    OptsBuilder::default()
        .socket(Some(socket.display().to_string()))
        .prefer_socket(true)
        .user(Some("root"))
        .db_name(database)
        .into()
}

/// A pool of exactly `connections` connections that are neither reset nor closed between uses: a reset would
/// drop the prepared statements.
fn pool(socket: &Path, connections: usize) -> Result<Pool> {
    let constraints = PoolConstraints::new(connections, connections).context("a pool of no connections")?;
    let pool = PoolOpts::default().with_constraints(constraints).with_reset_connection(false);
    Ok(Pool::new(OptsBuilder::from_opts(options(socket, Some(DATABASE))).pool_opts(pool)))
}

/// Runtime for the client, which mostly waits.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start a runtime")
}
