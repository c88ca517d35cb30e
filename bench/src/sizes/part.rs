//! Snapshots made and installed by the index, in a separate process whose memory can be measured.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use piccolo_raft::disk::FolderDisk;
use piccolo_raft::index::Index;
use piccolo_raft::limits::CHUNK_BYTES;
use piccolo_raft::snapshot::{Receiver, SnapshotData};
use serde_json::{Value, json};

use crate::process::run as run_command;
use crate::usage::process::{Memory, forget_peak, peak_resident};

/// Arguments of the process.
#[derive(Args)]
pub(crate) struct Part {
    /// Direction of the transfer.
    way: Way,
    /// Data folder of a server that does not run.
    data: PathBuf,
    /// File of the snapshot.
    file: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Save,
    Install,
}

/// Measurements; times in seconds, memory in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    /// Time to open the index of the data folder.
    pub(crate) open: f64,
    /// Time to write or to read the snapshot.
    pub(crate) transfer: f64,
    /// Time to install the snapshot that was read.
    pub(crate) install: f64,
    pub(crate) bytes: f64,
    /// Resident memory before.
    pub(crate) before: f64,
    /// Peak of resident memory during the transfer.
    pub(crate) peak: f64,
}

/// Saves a snapshot of `data` to `file`.
pub(crate) fn save(data: &Path, file: &Path) -> Result<Took> {
    start("save", data, file)
}

/// Installs the snapshot in `file` over what is in `data`.
pub(crate) fn install(data: &Path, file: &Path) -> Result<Took> {
    start("install", data, file)
}

fn start(way: &str, data: &Path, file: &Path) -> Result<Took> {
    let this = std::env::current_exe().context("could not find this program")?;
    let text = run_command(Command::new(this).args(["snapshot-part", way]).arg(data).arg(file))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("could not read {text:?}"))?;
    let number = |name: &str| value[name].as_f64().with_context(|| format!("no {name} in {text:?}"));
    Ok(Took {
        open: number("open")?,
        transfer: number("transfer")?,
        install: number("install")?,
        bytes: number("bytes")?,
        before: number("before")?,
        peak: number("peak")?,
    })
}

/// Main function of the separate process.
pub(crate) fn run(part: &Part) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("could not start a runtime")?.block_on(async {
        let started = Instant::now();
        let disk = FolderDisk::open(&part.data).context("could not open the data folder")?;
        let index = Index::open(&disk)?;
        let open = started.elapsed().as_secs_f64();
        let pid = std::process::id();
        let before = Memory::of(pid)?.resident;
        forget_peak(pid)?;
        let started = Instant::now();
        let (bytes, transfer) = match part.way {
            Way::Save => (save_from(&index, &part.file).await?, started.elapsed().as_secs_f64()),
            Way::Install => {
                let (receiver, bytes) = receive(&part.file)?;
                let (meta, data) = receiver.finish()?;
                let transfer = started.elapsed().as_secs_f64();
                index.install(data.into_whole(&meta)?).await?;
                (bytes, transfer)
            }
        };
        let install = started.elapsed().as_secs_f64() - transfer;
        let peak = peak_resident(pid)?;
        index.close().await?;
        let took = json!({"open": open, "transfer": transfer, "install": install, "bytes": bytes,
            "before": before, "peak": peak});
        println!("{took}");
        Ok(())
    })
}

async fn save_from(index: &Index, path: &Path) -> Result<u64> {
    let (_, snapshot) = SnapshotData::of(index).await?;
    let mut file = BufWriter::new(File::create(path).context("could not create a snapshot file")?);
    let mut bytes = 0;
    for chunk in snapshot.into_chunks()? {
        let chunk = chunk?;
        bytes += chunk.len() as u64;
        file.write_all(&chunk).context("could not write a snapshot")?;
    }
    file.flush().context("could not write a snapshot")?;
    Ok(bytes)
}

fn receive(path: &Path) -> Result<(Receiver, u64)> {
    let mut file = File::open(path).context("could not open a snapshot file")?;
    let (mut receiver, mut bytes) = (Receiver::default(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).context("could not read a snapshot")? {
            0 if bytes == 0 => bail!("{} is empty", path.display()),
            0 => return Ok((receiver, bytes)),
            read => {
                receiver.push(&chunk[..read])?;
                bytes += read as u64;
            }
        }
    }
}
