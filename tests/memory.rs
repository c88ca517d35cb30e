//! What an agent takes up that holds 1,000 images and has nothing to do: memory and CPU of both of its
//! processes. The real binary over an image layout, with a real server.
//!
//! What a process has of its own is bounded here. The pages of its binary are printed only: both
//! processes share them, the kernel takes them back when it wants them, and a debug build has many.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/site.rs"]
mod site;

use std::fs;
use std::time::Duration;

use serde_json::json;
use site::{Agent, Layout, Server, Setup};

const IMAGES: usize = 1_000;
const LAYERS: usize = 12;
/// Of each process's own, KiB: a fifth above what a debug build was seen to need.
const SUPERVISOR_ANONYMOUS_KIB_MAX: u64 = 2_700;
const WORKER_ANONYMOUS_KIB_MAX: u64 = 8_400;
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(20);
/// 0.1 % of a core over [`IDLE`], and one for each process for where a tick falls; 100 ticks are a second.
const IDLE_TICKS_MAX: u64 = 2 + 2;

#[tokio::test]
async fn an_idle_agent_of_1000_images_is_small_and_takes_no_cpu() {
    let layout = images();
    let server = Server::start().await;
    let setup = Setup { servers: vec![server.url.clone()], layout: Some(layout.path()), ..Setup::default() };
    let agent = Agent::start(setup).await;
    agent.synced().await;
    let pids = agent.process.pids();
    let [supervisor, worker] = pids[..] else { panic!("two processes, not {pids:?}") };
    // A start has its own garbage; what is measured is what stays.
    let before = ticks(supervisor) + ticks(worker);
    tokio::time::sleep(IDLE).await;
    let idle_ticks = ticks(supervisor) + ticks(worker) - before;
    for (name, pid, max_kib) in [
        ("supervisor", supervisor, SUPERVISOR_ANONYMOUS_KIB_MAX),
        ("worker", worker, WORKER_ANONYMOUS_KIB_MAX),
    ] {
        let [rss, pss, anonymous] = ["Rss", "Pss", "Anonymous"].map(|field| rollup_kib(pid, field));
        println!("{name}: resident {rss} KiB, of these anonymous {anonymous}; proportional {pss} KiB");
        assert!((1..=max_kib).contains(&anonymous), "{name}: {anonymous} KiB anonymous, at most {max_kib}");
    }
    println!("CPU in {} s without work: {idle_ticks} ticks", IDLE.as_secs());
    assert!(idle_ticks <= IDLE_TICKS_MAX, "{idle_ticks} ticks in {IDLE:?}, at most {IDLE_TICKS_MAX}");
}

/// Images of tiny layers, all different, each with a name.
fn images() -> Layout {
    let layout = Layout::empty();
    let descriptor = |media_type: &str, bytes: &[u8]| {
        let digest = layout.put(bytes).to_string();
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": bytes.len()})
    };
    let image = |number: usize| {
        let layer = |layer| descriptor("layer.v1.tar", format!("layer {layer} of {number}").as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", format!("{{\"image\":{number}}}").as_bytes()),
            "layers": (0..LAYERS).map(layer).collect::<Vec<_>>(),
        });
        let mut entry = descriptor("manifest.v1+json", manifest.to_string().as_bytes());
        let name = format!("registry.example.com/team/app-{number}:v1");
        entry["annotations"] = json!({"io.containerd.image.name": name});
        entry
    };
    let manifests: Vec<_> = (0..IMAGES).map(image).collect();
    layout.index(&json!({"schemaVersion": 2, "manifests": manifests}).to_string());
    layout
}

/// CPU time, user and system.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat[stat.rfind(')').unwrap()..].split_whitespace();
    fields.skip(12).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// A field of the sums over all of a process's mappings, KiB.
fn rollup_kib(pid: u32, field: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let value = rollup.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}
