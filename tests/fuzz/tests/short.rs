//! Fuzzing in `make test`: every kept input, and some seconds of mutations of them.
//!
//! `PICCOLO_FUZZ_SECONDS` and `PICCOLO_FUZZ_SEED` are for longer and other runs, `PICCOLO_FUZZ_TARGET` for a
//! single target.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use piccolo_fuzz::mutate::Mutator;
use piccolo_fuzz::targets::{TARGETS, Target};
use piccolo_fuzz::watch::Watch;
use piccolo_fuzz::{corpus, watch};

/// Time for mutations of all targets together, seconds.
const SECONDS: u64 = 8;
const SEED: u64 = 0x0070_6963_636f_6c6f;

fn environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

fn chosen() -> Vec<&'static Target> {
    let name = std::env::var("PICCOLO_FUZZ_TARGET").ok();
    let chosen: Vec<_> =
        TARGETS.iter().filter(|target| name.as_deref().is_none_or(|name| name == target.name)).collect();
    assert!(!chosen.is_empty(), "no target {name:?}");
    chosen
}

/// Folder for inputs that fail.
fn folder() -> PathBuf {
    let shared_memory = PathBuf::from("/dev/shm");
    let root = if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() };
    root.join(format!("piccolo-fuzz-{}", std::process::id()))
}

/// One test for all targets, so that panics on other threads belong to the running input.
#[test]
fn no_kept_or_mutated_input_is_a_finding() {
    let (seconds, seed) = (environment("PICCOLO_FUZZ_SECONDS"), environment("PICCOLO_FUZZ_SEED"));
    let (seconds, seed) = (seconds.unwrap_or(SECONDS), seed.unwrap_or(SEED));
    let folder = folder();
    let watch = Watch::new(&folder).unwrap();
    println!("seed {seed}; the input that runs is in {}", watch.current().display());
    let targets = chosen();
    let share = Duration::from_secs(seconds) / targets.len() as u32;
    let mut findings = Vec::new();
    for target in targets {
        findings.extend(run(target, &watch, share, seed));
    }
    // Panics are recorded instead of printed.
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    assert!(findings.is_empty(), "{} findings", findings.len());
    std::fs::remove_dir_all(folder).unwrap();
}

fn run(target: &Target, watch: &Watch, share: Duration, seed: u64) -> Vec<String> {
    let kept =
        corpus::read(target.name).unwrap_or_else(|error| panic!("no corpus of {}: {error}", target.name));
    let mut findings = Vec::new();
    let start = Instant::now();
    for (path, input) in &kept {
        assert!(input.len() <= corpus::INPUT_BYTES_MAX, "{} is too long", path.display());
        if let Err(watch::Finding { what }) = watch.run(target, input) {
            findings.push(format!("{}: {what}", path.display()));
        }
    }
    let of_corpus = start.elapsed();
    let inputs = kept.into_iter().map(|(_, input)| input).collect();
    let mutator = Mutator::new(inputs, corpus::dictionary(), corpus::INPUT_BYTES_MAX);
    let start = Instant::now();
    let mut made = 0;
    while start.elapsed() < share {
        let input = mutator.input(seed.wrapping_add(made));
        if let Err(watch::Finding { what }) = watch.run(target, &input) {
            let path = watch.current().with_file_name(format!("{}-{made}", target.name));
            std::fs::write(&path, &input).expect("the folder takes a small file");
            findings.push(format!("{}, seed {seed}, input {made}: {}\n{what}", target.name, path.display()));
            break;
        }
        made += 1;
    }
    println!("{}: corpus {of_corpus:?}, {made} mutations", target.name);
    findings
}

/// The drivers detect panics.
#[test]
fn a_panic_is_a_finding_wherever_it_happens() {
    if std::env::var_os("PICCOLO_FUZZ_CHILD").is_none() {
        // Panics are recorded for the whole process, so that this needs another one.
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_panic_is_a_finding_wherever_it_happens"]).env("PICCOLO_FUZZ_CHILD", "1");
        assert!(child.status().unwrap().success());
        return;
    }
    let watch = Watch::new(&folder()).unwrap();
    let here = Target { name: "here", run: |input| assert_eq!(input, b"good") };
    let elsewhere = Target {
        name: "elsewhere",
        run: |_| std::thread::spawn(|| panic!("on another thread")).join().unwrap_or(()),
    };
    let large = Target { name: "large", run: |_| drop(std::hint::black_box(vec![1_u8; 300 << 20])) };
    assert!(watch.run(&here, b"good").is_ok());
    assert!(watch.run(&here, b"bad").unwrap_err().what.contains("assertion"));
    assert!(watch.run(&elsewhere, b"").unwrap_err().what.contains("on another thread"));
    assert!(watch.run(&large, b"").unwrap_err().what.contains("MiB"));
    std::fs::remove_dir_all(folder()).unwrap();
}
