//! Writes the seeds from golden files and hand-written ones into the corpus, each under its name.

use std::fs;

use piccolo_fuzz::{corpus, seeds};

fn main() -> std::io::Result<()> {
    for (target, name, input) in seeds::all() {
        let folder = corpus::folder(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), input)?;
    }
    Ok(())
}
