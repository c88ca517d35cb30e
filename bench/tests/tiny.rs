//! A few megabytes through every scenario, so that the bench cannot rot. Speed is no test: only what
//! it writes is looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BENCH: &str = env!("CARGO_BIN_EXE_piccolo-bench");

/// The product's binary of the same profile. Cargo names only binaries of the same package, and
/// builds the product's only when the whole workspace is tested.
fn piccolo() -> PathBuf {
    let binary = Path::new(BENCH).with_file_name("piccolo");
    assert!(
        binary.is_file(),
        "there is no {}: run `cargo test --workspace`, or `cargo build` before `cargo test -p piccolo-bench`",
        binary.display()
    );
    binary
}

/// Runs one scenario; returns RESULTS.md and the names of the plots.
fn run(scenario: &str, arguments: &[&str]) -> (String, Vec<String>) {
    let out = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(BENCH)
        .arg(scenario)
        .arg("--out")
        .arg(out.path())
        .args(["--rounds", "2", "--window", "60", "--connections", "1,4"])
        .args(arguments)
        .output()
        .expect("the bench starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {error}");
    let plots = fs::read_dir(out.path().join("plots")).expect("a folder of plots");
    let mut plots: Vec<String> =
        plots.map(|plot| plot.expect("a plot").file_name().into_string().expect("a plain name")).collect();
    plots.sort();
    (fs::read_to_string(out.path().join("RESULTS.md")).expect("results"), plots)
}

fn with_piccolo(scenario: &str, arguments: &[&str]) -> (String, Vec<String>) {
    let binary = piccolo();
    run(scenario, &[&["--binary", binary.to_str().expect("a path that is text")], arguments].concat())
}

const SMALL: [&str; 4] = ["--sizes", "100KiB,2MiB", "--only", "1 worker"];

#[test]
fn nginx_alone_is_measured_in_every_cell() {
    let (results, plots) = run("loopback", &[&["--without-piccolo"], &SMALL[..]].concat());
    for cell in ["100 KiB × 1", "100 KiB × 4", "2 MiB × 1", "2 MiB × 4"] {
        assert!(results.contains(cell), "{cell} is missing:\n{results}");
    }
    assert!(results.contains("| nginx default |") && results.contains("| sendfile, 1 worker |"), "{results}");
    assert_eq!(plots, ["loopback-cpu.svg", "loopback-rate.svg"]);
}

#[test]
fn blobs_on_loopback_are_compared_with_nginx() {
    let (results, plots) = with_piccolo("loopback", &SMALL);
    assert!(results.contains("| 2 MiB | 4 |"), "{results}");
    assert_eq!(plots, ["loopback-cpu.svg", "loopback-rate.svg"]);
}

#[test]
fn blobs_over_a_veth_are_compared_with_nginx_and_no_namespace_is_left() {
    let (results, _) = with_piccolo("veth", &SMALL);
    assert!(results.contains("| 100 KiB | 1 |"), "{results}");
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert_nothing_is_left(&String::from_utf8_lossy(&namespaces.stdout));
}

#[test]
fn a_relay_is_compared_with_proxy_pass() {
    let (results, plots) = with_piccolo("relay", &["--sizes", "100KiB,17MiB", "--only", "off, 256k"]);
    assert!(results.contains("| 17 MiB | 4 |") && results.contains("SHA-256 of a GiB"), "{results}");
    assert_eq!(plots, ["relay-cpu.svg", "relay-rate.svg"]);
}

#[test]
fn a_capped_relay_is_compared_with_proxy_pass() {
    let (results, _) = with_piccolo("relay-capped", &["--sizes", "17MiB", "--only", "off, 256k"]);
    assert!(results.contains("| 17 MiB | 1 |"), "{results}");
}

#[test]
fn the_heartbeats_of_a_fleet_are_plotted() {
    let (results, plots) = run("jitter", &["--without-piccolo", "--agents", "2000"]);
    assert!(results.contains("| started in the same second | 0–300 |"), "{results}");
    assert_eq!(plots, ["jitter-outage.svg", "jitter.svg"]);
}

#[test]
fn a_site_that_pulls_a_new_blob_is_simulated() {
    let (results, _) = run("flights", &["--without-piccolo", "--nodes", "8,40", "--mib", "1024"]);
    assert!(
        results.contains("write at most 1000 MB/s") && results.contains("as fast as they receive"),
        "{results}"
    );
    for scene in ["all within a second", "1 % fail, and the fetcher", "1 % are ten times slower"] {
        assert_eq!(results.matches(&format!("| {scene} | 40 |")).count(), 2, "{results}");
    }
}

#[test]
fn a_pull_from_a_neighbour_is_timed_beside_the_registry() {
    let (results, _) = with_piccolo("pull", &["--layers", "1MiB,17MiB"]);
    assert!(results.contains("| `ctr content fetch` |") && results.contains("| agent 2 |"), "{results}");
}

#[test]
fn a_new_image_is_pulled_by_all_nodes_at_once_and_nothing_is_left_behind() {
    let arguments = ["--nodes", "3", "--image", "1MiB,300KiB", "--registry-mbit", "40", "--node-mbit", "80"];
    let (results, plots) = with_piccolo("new-image", &arguments);
    for row in [
        "| one node, straight from the registry |",
        "| 3 nodes, straight from the registry |",
        "| 3 nodes, new image, flights off |",
        "| 3 nodes, new image, flights on |",
        "| one node, from one holder |",
        "| 2 nodes, from one holder, flights off |",
        "| 2 nodes, from one holder, flights on |",
    ] {
        assert!(results.contains(row), "{row} is missing:\n{results}");
    }
    assert_eq!(plots, ["new-image-3-1.svg"]);
    assert_nothing_is_left(&fs::read_to_string("/proc/mounts").unwrap());
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert_nothing_is_left(&String::from_utf8_lossy(&namespaces.stdout));
}

/// Fails if one of `names` is that of a bench that does not run any more.
fn assert_nothing_is_left(names: &str) {
    for process in names.split_whitespace().filter_map(|name| name.strip_prefix("piccolo-bench-")) {
        let pid = process.split('-').next().expect("a name has parts");
        assert!(Path::new("/proc").join(pid).exists(), "{process} was left behind");
    }
}

#[test]
fn one_agent_is_measured_idle_and_under_many_requests() {
    let arguments = ["--images", "5", "--settle-seconds", "0", "--seconds", "1", "--requests", "40"];
    let (results, _) = with_piccolo("agent", &arguments);
    assert!(results.contains("| supervisor |") && results.contains("| worker |"), "{results}");
    assert!(results.contains("40 requests at once for 20 blobs of 700 KiB"), "{results}");
}

#[test]
fn a_whole_fleet_registers_in_three_servers() {
    let (results, plots) =
        with_piccolo("register", &["--hosts", "100", "--repeats", "1", "--mariadb-hosts", "10"]);
    assert!(results.contains("100 hosts × 400 keys = 40000 pairs"), "{results}");
    assert!(results.contains("| last round: answers | 201: 100"), "{results}");
    assert!(results.contains("| rows a second into MariaDB, 10 hosts a round |"), "{results}");
    assert_eq!(plots, ["register.svg"]);
}

#[test]
fn a_server_is_measured_by_its_number_of_pairs() {
    let (results, plots) = with_piccolo("sizes", &["--millions", "0.01,0.02", "--open", "50"]);
    assert!(results.contains("10000 pairs, 25 hosts | 20000 pairs, 50 hosts |"), "{results}");
    assert!(
        results.contains("| the same over an equal state |") && results.contains("(50 open)"),
        "{results}"
    );
    assert_eq!(plots, ["sizes-memory.svg"]);
}

#[test]
fn a_crowd_pulls_one_image() {
    let arguments =
        ["--hosts", "40", "--seconds", "2", "--pull-seconds", "1", "--coalesced", "3", "--whole-only"];
    let (results, plots) = with_piccolo("crowd", &arguments);
    assert!(results.contains("| 3 | 3 | 100 % |") && results.contains("| 1 | 3 | 100 % |"), "{results}");
    assert_eq!(plots, ["crowd-1-3.svg", "crowd-3-3.svg"]);
}

#[test]
fn a_fleet_lives_from_day_to_day() {
    let arguments = ["--hosts", "60", "--seconds", "3", "--warm-up-seconds", "1"];
    let (results, plots) = with_piccolo("steady", &arguments);
    assert!(results.contains("| leader |") && results.contains("asked for a sync: 0."), "{results}");
    assert_eq!(plots, ["steady.svg"]);
}

#[test]
fn lookups_are_compared_with_a_constant_answer_and_mariadb() {
    let (results, plots) = with_piccolo("findkey", &["--hosts", "60", "--askers", "4"]);
    for row in
        ["| 60 holders (all) | native | Piccolo |", "| mix | Go | MariaDB |", "| mix | native | constant |"]
    {
        assert!(results.contains(row), "{row} is missing:\n{results}");
    }
    assert!(results.contains("24000 pairs: 60 hosts × 400 keys"), "{results}");
    assert_eq!(plots, ["findkey-p99.svg", "findkey-rate.svg"]);
}

#[test]
fn the_index_itself_is_compared_with_sorted_sets_and_vectors() {
    let (results, plots) = run("micro", &["--without-piccolo", "--hosts", "60"]);
    for row in ["| add a pair, 60 whole inventories", "| nearest 16 of a key with 40 holders |"] {
        assert!(results.contains(row), "{row} is missing:\n{results}");
    }
    assert_eq!(plots, ["micro.svg"]);
}

#[test]
fn a_herd_is_answered_after_an_outage() {
    let (results, plots) = with_piccolo("herd", &["--hosts", "60"]);
    assert!(results.contains("| half / 99 % / all answered 201 within | "), "{results}");
    assert!(results.contains("| answers that ask for a sync | 0 |"), "{results}");
    assert_eq!(plots, ["herd-latency.svg", "herd.svg"]);
}

#[test]
fn a_server_that_was_away_catches_up_under_load() {
    let arguments = ["--hosts", "60", "--away", "1", "--around", "1", "--cases", "away"];
    let (results, plots) = with_piccolo("catch-up", &arguments);
    assert!(results.contains("| away | lookups |"), "{results}");
    assert_eq!(plots, ["catch-up-away.svg"]);
}

#[test]
fn a_fleet_gives_everything_back_to_servers_that_start_empty() {
    let arguments = ["--nodes", "60", "--interval", "2", "--before", "1", "--away", "1"];
    let (results, plots) = with_piccolo("rebuild", &arguments);
    assert!(results.contains("60 nodes × 400 keys = 24000 pairs"), "{results}");
    // On a busy machine some are refused first, and come again.
    let syncs = results.lines().find_map(|line| line.strip_prefix("| syncs | ")).unwrap_or_default();
    let answers: Vec<&str> = syncs.split('|').next().unwrap_or_default().split(',').map(str::trim).collect();
    assert!(answers.contains(&"201: 60"), "{results}");
    assert!(results.contains("| hosts hidden in the end | 0 |"), "{results}");
    assert_eq!(plots, ["rebuild-answers.svg", "rebuild.svg"]);
}
