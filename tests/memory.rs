//! An agent that holds 1,000 images and is idle needs little memory beside them, and does nothing. The real
//! binary over an image layout, with a real server. Also the memory of a server for one request.
//!
//! The bounds are at least twice what a debug build needs on a busy machine: they find an inventory that is
//! kept several times, or a task that runs all the time. The budgets of docs/budgets.md, for a release build,
//! are measured by `piccolo-bench agent`.
//!
//! Anonymous memory is bounded. The pages of the binary are only printed: both processes share them, the
//! kernel can take them back, and a debug build has many.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/site.rs"]
mod site;

use std::fs;
use std::time::Duration;

use piccolo::api::path;
use piccolo::limits::API_BODY_BYTES_MAX;
use serde_json::json;
use site::{Agent, Layout, Server, Setup, Wire};

const IMAGES: usize = 1_000;
const LAYERS: usize = 12;
/// Anonymous memory of the supervisor and of the worker, KiB: 2,400 and 7,300 were seen.
const SUPERVISOR_ANONYMOUS_KIB_MAX: u64 = 6_000;
const WORKER_ANONYMOUS_KIB_MAX: u64 = 16_000;
/// Length of the idle period.
const IDLE: Duration = Duration::from_secs(20);
/// 2 % of a core over [`IDLE`], in ticks, 100 a second. 2 to 6 ticks were seen.
const IDLE_TICKS_MAX: u64 = 40;

#[tokio::test]
async fn an_idle_agent_of_1000_images_is_small_and_does_nothing() {
    let layout = images();
    let server = Server::start().await;
    let setup = Setup { servers: vec![server.url.clone()], layout: Some(layout.path()), ..Setup::default() };
    let agent = Agent::start(setup).await;
    agent.synced().await;
    let pids = agent.process.pids();
    let [supervisor, worker] = pids[..] else { panic!("two processes, not {pids:?}") };
    // The start leaves garbage; the memory that remains is measured.
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

/// As a tree of values, a body of 16 MiB without content took 190 MB before any limit applied: 541 MiB with
/// eight of them at once.
#[tokio::test]
async fn a_body_of_millions_of_texts_takes_little_more_memory_than_its_bytes() {
    let server = Server::start().await;
    let before = server.process.own_memory_peak_bytes();
    let head = r#"{"holder":"10.0.0.1:7781","group":"default","keys":["#;
    let texts = r#""","#.repeat((API_BODY_BYTES_MAX - head.len() - 4) / 3);
    let body = format!(r#"{head}{texts}""]}}"#);
    assert!(body.len() > API_BODY_BYTES_MAX - 8 && body.len() <= API_BODY_BYTES_MAX);
    let mut wire = Wire::connect(server.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    let length = body.len().to_string();
    let request = site::head("POST", path::ADVERTISE, &[("Content-Length", &length)]);
    wire.send(&[request, body.into_bytes()].concat()).await.unwrap();
    let answer = wire.answer(false).await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    let took = server.process.own_memory_peak_bytes() - before;
    println!("{took} bytes");
    // The body, a second copy while its buffer grows, and as much again in spare capacity.
    assert!(took <= 3 * API_BODY_BYTES_MAX as u64, "{took} bytes for a body of {API_BODY_BYTES_MAX}");
}

/// A layout of different images of tiny layers, each with a name.
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

/// User and system CPU time, in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat[stat.rfind(')').unwrap()..].split_whitespace();
    fields.skip(12).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// A field of `/proc/<pid>/smaps_rollup`, KiB.
fn rollup_kib(pid: u32, field: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let value = rollup.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}
