//! libFuzzer on one target: `PICCOLO_FUZZ_TARGET=<name> guided [libFuzzer's flags] FOLDER…`.
//! `tests/fuzz/soak` builds it with instrumented code. Without a name it lists the targets.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use piccolo_fuzz::targets::{self, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("PICCOLO_FUZZ_TARGET").unwrap_or_default();
    match targets::find(&name) {
        Some(target) => TARGET.set(target).unwrap_or_else(|_| unreachable!("libFuzzer begins once")),
        None => {
            targets::TARGETS.iter().for_each(|target| println!("{}", target.name));
            std::process::exit(if name.is_empty() { 0 } else { 2 });
        }
    }
}

fuzz_target!(init: choose(), |input: &[u8]| {
    let target = TARGET.get().expect("chosen before the first input");
    (target.run)(input);
});
