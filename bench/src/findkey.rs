//! Lookups in an index of the fleet's size, beside a constant answer from the same HTTP stack and the Go
//! Piccolo's query on MariaDB.

mod chart;
pub(crate) mod constant;
mod questions;
mod sides;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::Settings;
use crate::fleet::Fleet;
use crate::http_load::{Seen, Window, measure};
use crate::mariadb::MariaDb;
use crate::names::KeyNames;
use crate::piccolo::Piccolo;
use crate::report::Report;
use crate::usage::{Machine, cpu_seconds_of_tree};

use questions::{Form, Question, questions};
use sides::{Constants, Side};
use table::{Cell, Outcome};

/// Length of a measurement, in windows of the settings: CPU time has a resolution of 10 ms, too coarse for a
/// single window.
const WINDOWS: u32 = 4;

/// Options of this scenario only.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Hosts of the fleet, with 400 keys each; keys and rates follow.
    #[arg(long, global = true, default_value_t = Fleet::FULL.hosts)]
    pub(crate) hosts: u32,
    /// Concurrent connections (`findkey`).
    #[arg(long, global = true, default_value_t = 32)]
    askers: usize,
    /// Folder in which MariaDB's data is kept for the next run (`findkey`).
    #[arg(long, global = true, value_name = "DIR")]
    mariadb_data: Option<PathBuf>,
    /// Leaves MariaDB out (`findkey`), to tune the other sides.
    #[arg(long, global = true)]
    without_mariadb: bool,
}

/// One window of one side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    seen: Seen,
    /// CPU time of the serving processes for each request, microseconds.
    cpu_us: f64,
    /// CPU time of the process behind the answering one, the database, for each request, microseconds.
    behind_us: f64,
    /// Share of the machine that was idle.
    idle: f64,
    /// Share of the machine used by processes other than the sides and the client.
    others: f64,
}

impl Sample {
    fn rate(&self) -> f64 {
        self.seen.requests as f64 / self.seen.seconds
    }
}

/// Runs the scenario and writes its section.
pub(crate) fn findkey(settings: &Settings, report: &Report, folder: &Path) -> Result<()> {
    let options = &settings.findkey;
    let fleet = settings.fleet();
    eprintln!("findkey among {} pairs", fleet.pairs());
    ensure!(
        fleet.hosts > 1 && options.askers > 0,
        "nobody would ask anybody: --hosts 2, --askers 1 at least"
    );
    let names = Arc::new(KeyNames::of(fleet));
    let questions = questions(fleet, &names);
    let database =
        (!options.without_mariadb).then(|| database(options, fleet, &names, folder)).transpose()?;
    let (piccolo, filled) = sides::piccolo(&Piccolo::new(&settings.binary, folder)?, fleet, &names)?;
    let mut constants = Constants::new(folder);
    let mariadb = database.as_ref().map(|database| sides::mariadb(database, folder)).transpose()?;

    let mut cells = Vec::new();
    for question in &questions {
        let answer = sides::typical_answer(&piccolo, question)?;
        let constant = constants.side(&answer)?;
        let mut sides = vec![&piccolo, &constant];
        sides.extend(mariadb.as_ref().filter(|_| question.form == Form::Go));
        let cell = compare(settings, question, &sides)?;
        eprintln!("  {}", cell.summary());
        cells.push(cell);
    }
    let outcome = Outcome {
        fleet,
        askers: options.askers,
        cells,
        resident_mib: sides::resident_mib(&piccolo, mariadb.as_ref(), database.as_ref())?,
        filled,
        mariadb: database.as_ref().map(MariaDb::what).transpose()?,
    };
    drop((piccolo, constants, mariadb));
    if let Some(database) = database {
        database.stop()?;
    }
    let body = format!(
        "{}\n{}\n{}\n{}",
        outcome.ratios(),
        report.plot("findkey-rate", &chart::rates(&outcome))?,
        report.plot("findkey-p99", &chart::tails(&outcome))?,
        outcome.all_sides(),
    );
    report.section("findkey", "Lookups beside a constant answer and MariaDB", &body)
}

fn database(options: &Options, fleet: Fleet, names: &KeyNames, folder: &Path) -> Result<MariaDb> {
    let kept = options.mariadb_data.clone().unwrap_or_else(|| folder.join("mariadb"));
    let database = MariaDb::start(&kept, fleet)?;
    let started = std::time::Instant::now();
    database.fill(names).context("could not fill MariaDB")?;
    eprintln!("  MariaDB has its rows after {:.0?}", started.elapsed());
    Ok(database)
}

/// Measures all sides with one question in turns: A B C, B C A, C A B.
fn compare(settings: &Settings, question: &Question, sides: &[&Side]) -> Result<Cell> {
    let length = settings.window * WINDOWS;
    let window = Window { connections: settings.findkey.askers, warm_up: length / 4, length };
    let rounds = settings.rounds as usize;
    let mut samples = vec![Vec::with_capacity(rounds); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let index = (turn + round) % sides.len();
            samples[index].push(sample(sides[index], question, window)?);
        }
    }
    let named = sides.iter().zip(samples).map(|(side, samples)| (side.name, samples)).collect();
    Ok(Cell { class: question.class.clone(), form: question.form, sides: named })
}

fn sample(side: &Side, question: &Question, window: Window) -> Result<Sample> {
    let mut clocks = Vec::with_capacity(2);
    let seen = measure(side.address, &question.requests, window, || {
        let ours = cpu_seconds_of_tree(std::process::id())?;
        clocks.push((side.cpu_seconds()?, ours, Machine::now()?));
        Ok(())
    })
    .with_context(|| format!("{} failed at {:?}", side.name, question.class))?;
    let [(side_before, ours_before, before), (side_after, ours_after, after)] = clocks[..] else {
        anyhow::bail!("a window has two ends");
    };
    let total = (after.total - before.total).max(1e-9);
    let idle = after.idle - before.idle;
    // All sides are children of this process, so that its tree contains both.
    let known = ours_after - ours_before;
    let of_request = |seconds: f64| seconds * 1e6 / seen.requests as f64;
    Ok(Sample {
        seen,
        cpu_us: of_request(side_after.0 + side_after.1 - side_before.0 - side_before.1),
        behind_us: of_request(side_after.1 - side_before.1),
        idle: idle / total,
        others: ((total - idle - known) / total).max(0.0),
    })
}
