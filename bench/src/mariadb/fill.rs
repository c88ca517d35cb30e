//! Loads the whole fleet with one `LOAD DATA`, unless a kept folder already has it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use anyhow::{Context, Result, ensure};

use super::{DATABASE, MariaDb};
use crate::fleet::{Fleet, GROUP};
use crate::names::KeyNames;

impl MariaDb {
    /// Loads the fleet, unless this folder has it from an earlier run. Then reads the index of lookups once,
    /// so that nothing has to come from the disk.
    pub(crate) fn fill(&self, names: &KeyNames) -> Result<()> {
        let marker = self.folder.join("filled");
        let what = format!("{:?}", self.fleet);
        match fs::read_to_string(&marker) {
            Ok(filled) => ensure!(
                filled == what,
                "{} holds {filled}, not {what}: take another folder",
                self.folder.display()
            ),
            Err(_) => {
                self.load(names)?;
                fs::write(&marker, what).context("could not mark the folder of MariaDB")?;
            }
        }
        let rows = self.rows()?;
        ensure!(rows == self.fleet.pairs(), "MariaDB has {rows} rows of {}", self.fleet.pairs());
        Ok(())
    }

    /// Loads the rows in the order in which hosts would have registered.
    fn load(&self, names: &KeyNames) -> Result<()> {
        let path = self.folder.join("rows.tsv");
        write_rows(self.fleet, names, &path).context("could not write the rows for MariaDB")?;
        // Without these checks the indexes of an empty table are sorted and written in one pass. They are set
        // for this connection only.
        let statement = format!(
            "SET STATEMENT unique_checks = 0, foreign_key_checks = 0 FOR \
             LOAD DATA INFILE '{}' INTO TABLE distribution_tab (`key`, holder, `group`) \
             SET created_at = NOW(3), updated_at = NOW(3)",
            path.display()
        );
        self.query(Some(DATABASE), &statement)?;
        fs::remove_file(&path).context("could not remove the rows for MariaDB")
    }
}

fn write_rows(fleet: Fleet, names: &KeyNames, path: &std::path::Path) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for host in 0..fleet.hosts {
        let holder = fleet.address(host);
        for key in fleet.inventory(host) {
            writeln!(file, "{}\t{holder}\t{GROUP}", names.get(key))?;
        }
    }
    file.flush()
}
