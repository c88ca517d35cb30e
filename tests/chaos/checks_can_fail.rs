//! The checks can fail: a promise that is broken on purpose is found by the checker that ends each scenario.
//! For I3: a store whose partial scan counts as complete, and keys that are deleted when a lease ends. (For
//! I1, I2, and a lease whose end deletes: `raft/src/sim/faults.rs`.)

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use piccolo::agent::content::store::{
    Content, Fetched, Ingest, LayoutStore, Scan, Source, Store, StoreError, Tag, WatchEvent,
};
use piccolo::agent::counters::Counters;
use piccolo::agent::inventory::{Config, Inventory};
use piccolo::api::client::Client;
use piccolo::api::path;
use piccolo::clock::SystemClock;
use piccolo::limits::LEASE_SECONDS_MIN;
use piccolo::oci::Digest;
use piccolo::task::Stop;
use rustix::process::Signal;
use serde_json::json;

use crate::checker::{findings, findings_within};
use crate::history::{Alive, Expected, History, unix_ms};
use crate::load::{GROUP, Load, Mix, keys};
use crate::node::Node;
use crate::server::here;
use crate::site::{Site, rng};
use crate::support::{SOON, noise, within};
use crate::wire::{ask, hosts, status};

const PATIENCE: Duration = Duration::from_secs(5);
/// Short, because a deliberate fault does not heal by waiting.
const NO_LONGER: Duration = Duration::from_secs(3);
const BLOBS: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_an_invented_one_a_wrong_hide_and_a_second_leader_are_found() {
    let (seed, _) = rng();
    let mut site = Site::of_three_unhurried().await;
    let mut load = Load::on(site.apis(), seed, Mix { raw: 2, go: 1, ..Mix::SOME });
    let history = load.history();
    within("some writes", SOON, async || (history.writes() > 20).then_some(())).await;
    let (history, expected) = load.end().await;
    assert_eq!(findings(&mut site, &history, &expected).await, Vec::<String>::new(), "nothing is wrong yet");
    let found = async |site: &mut Site, history: &History, words: &str, times: usize| {
        let findings = findings(site, history, &expected).await;
        let hits = findings.iter().filter(|finding| finding.contains(words)).count();
        assert_eq!(hits, times, "{words}: {findings:#?}");
    };

    // An acknowledged key is missing, and one exists that nobody has.
    let holder = &expected.iter().find(|one| !one.keys.is_empty()).unwrap();
    let held = holder.keys.first().unwrap().clone();
    let absent = keys().into_iter().find(|key| !holder.keys.contains(key)).unwrap();
    write(&site, path::WITHDRAW, &holder.holder, std::slice::from_ref(&held)).await;
    found(&mut site, &history, &format!("holds {held}, which is not found"), 3).await;
    write(&site, path::ADVERTISE, &holder.holder, std::slice::from_ref(&absent)).await;
    found(&mut site, &history, &format!("does not hold {absent}, which is found"), 3).await;
    write(&site, path::ADVERTISE, "10.55.0.1:7781", &[absent]).await;
    found(&mut site, &history, "nobody is 10.55.0.1:7781", 3).await;

    // A holder was hidden right after a heartbeat; a term had two leaders; a server has ended.
    let at_ms = unix_ms();
    history.alive(&holder.holder, Mix::SOME.lease, Alive { sent: at_ms - 5_000, heard: at_ms - 4_990 });
    history.hidden(&holder.holder, at_ms);
    found(&mut site, &history, &format!("{} was hidden at {at_ms}, and was alive", holder.holder), 1).await;
    let leader = status(site.servers[0].api).await.unwrap();
    let (term, node) = (leader.term, leader.leader.unwrap());
    history.leads(term, site.servers[0].api, node.clone());
    history.leads(term, site.servers[0].api, "another".into());
    found(&mut site, &history, &format!("term {term} of node"), 0).await;
    history.leads(term, site.servers[1].api, node.clone());
    found(&mut site, &history, &format!("term {term} of node {node} was led by"), 1).await;
    site.servers[1].signal(Signal::KILL);
    let ended = async || (!site.servers[1].still_runs()).then_some(());
    within("its end", SOON, ended).await;
    let findings = findings_within(&mut site, &history, &expected, NO_LONGER).await;
    assert!(findings.contains(&"server 2 ended by itself".to_owned()), "{findings:#?}");
}

/// I3, "a missed heartbeat hides, it does not delete": first as it is, then as if the server had deleted,
/// which the test does with a withdraw.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_only_hides_and_keys_that_go_with_it_are_missed() {
    let mut site = Site::of_three_unhurried().await;
    let holder = "10.55.0.2:7781";
    let keys: Vec<String> = keys().into_iter().take(5).collect();
    let body = json!({
        "holder": holder, "group": GROUP, "keys": keys, "epoch": 1, "seq": 1, "ttl_seconds": LEASE_SECONDS_MIN,
    });
    until_taken(&site, path::SYNC, &body.to_string()).await;
    within("its lease ends", SOON, async || {
        let hosts = hosts(site.servers[0].api).await?.hosts;
        hosts.iter().any(|host| host.holder == holder && host.hidden_unix_ms.is_some()).then_some(())
    })
    .await;
    let expected = [Expected { holder: holder.to_owned(), keys: keys.iter().cloned().collect() }];
    let lost =
        |findings: &[String]| findings.iter().filter(|finding| finding.contains("keys, not 5")).count();
    let history = History::default();
    let kept = findings(&mut site, &history, &expected).await;
    assert_eq!(lost(&kept), 0, "it is hidden, and nothing is deleted: {kept:#?}");
    assert!(kept.iter().any(|finding| finding.ends_with("is hidden")), "{kept:#?}");

    write(&site, path::WITHDRAW, holder, &keys).await;
    let broken = findings(&mut site, &history, &expected).await;
    assert_eq!(lost(&broken), 3, "each server has lost them: {broken:#?}");
}

/// I3, "computed from a complete scan": the agent's real inventory over a store that breaks this, beside a
/// correct one with the same fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_a_partial_scan_for_a_complete_one_is_found() {
    let mut site = Site::of_three_unhurried().await;
    let node = Node::new(site.path(), "in-process", &site.apis(), &[], here());
    (0..BLOBS).for_each(|blob| _ = node.layout.put(&noise(blob, 2_000)));
    let (layout, holder) = (node.layout.path().to_owned(), node.peer);
    let expected = node.expected();
    site.nodes.push(node);
    let client = Client::new(site.apis().iter().map(|api| format!("http://{api}")).collect()).unwrap();
    let known = async |site: &Site, count: u64| {
        let hosts = hosts(site.servers[0].api).await?.hosts;
        hosts.iter().any(|host| host.holder == holder.to_string() && host.keys == count).then_some(())
    };
    let sound = || Arc::new(LayoutStore::new(&layout));
    let history = History::default();
    while_it_runs(sound(), &client, holder, async {
        within("all is known", SOON, async || known(&site, BLOBS).await).await;
    })
    .await;
    assert_eq!(findings(&mut site, &history, &[]).await, Vec::<String>::new(), "nothing is wrong yet");

    // From here on no scan is complete.
    fs::remove_file(layout.join("oci-layout")).unwrap();
    while_it_runs(sound(), &client, holder, tokio::time::sleep(NO_LONGER)).await;
    let kept = findings(&mut site, &history, &[]).await;
    assert_eq!(kept, Vec::<String>::new(), "a scan that fails deletes nothing");

    let broken = Arc::new(Partial { sound: LayoutStore::new(&layout) });
    while_it_runs(broken, &client, holder, async {
        within("it does what it must not", SOON, async || known(&site, BLOBS - 1).await).await;
    })
    .await;
    let findings = findings_within(&mut site, &history, &[], NO_LONGER).await;
    for key in &expected.keys {
        let words = format!("{holder} holds {key}, which is not found");
        let hits = findings.iter().filter(|finding| finding.contains(&words)).count();
        assert!(hits == 3 || hits == 0, "{findings:#?}");
    }
    let lost = findings.iter().filter(|finding| finding.contains("which is not found")).count();
    assert_eq!(lost, 3, "one key on each of three servers: {findings:#?}");
}

/// Runs an agent's inventory in this process during `work`.
async fn while_it_runs(
    store: Arc<dyn Store>,
    client: &Client,
    holder: std::net::SocketAddr,
    meanwhile: impl Future<Output = ()>,
) {
    let config = Config {
        holder: holder.into(),
        group: GROUP.to_owned(),
        zone: String::new(),
        heartbeat_interval: Duration::from_secs(60),
        advertises_tag: Box::new(|_| true),
        lost: Box::new(|| ()),
        is_in_flight: Box::new(|| false),
        seen: Box::new(|_| {}),
        counters: Arc::new(Counters::default()),
    };
    let inventory = Inventory::new(store, Arc::new(client.clone()), &SystemClock::shared(), config);
    let stop = Stop::new();
    let run = inventory.run(stop.clone());
    let meanwhile = async {
        meanwhile.await;
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(run, meanwhile);
    ran.expect("it stops on request");
}

/// A write that no client of the load records: a later pair of the same holder.
async fn write(site: &Site, path: &str, holder: &str, keys: &[String]) {
    let body = json!({ "holder": holder, "group": GROUP, "keys": keys });
    until_taken(site, path, &body.to_string()).await;
}

async fn until_taken(site: &Site, path: &str, body: &str) {
    within("it is taken", SOON, async || {
        ask(site.servers[0].api, "POST", path, body, PATIENCE).await.filter(|said| said.status == 201)
    })
    .await;
}

/// A layout read incorrectly: its readable part without one blob counts as complete.
struct Partial {
    sound: LayoutStore,
}

impl Partial {
    async fn look(&self) -> Scan {
        let folder = self.sound.name();
        let folder = Path::new(folder.strip_prefix("image layout ").unwrap()).join("blobs/sha256");
        let mut content = std::collections::BTreeMap::new();
        for file in fs::read_dir(folder).unwrap().skip(1) {
            let file = file.unwrap();
            let digest: Digest = format!("sha256:{}", file.file_name().to_str().unwrap()).parse().unwrap();
            content.insert(digest, file.metadata().unwrap().len());
        }
        Scan { content, ..Scan::default() }
    }
}

impl Store for Partial {
    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>> {
        async {
            match self.sound.scan().await {
                Ok(scan) => Ok(scan),
                Err(_) => Ok(self.look().await),
            }
        }
        .boxed()
    }

    fn name(&self) -> String {
        self.sound.name()
    }

    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>> {
        self.sound.open(digest)
    }

    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>> {
        self.sound.tag(name)
    }

    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        self.sound.read(digest, offset, length)
    }

    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>> {
        self.sound.sources()
    }

    fn fetched_from<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>> {
        self.sound.fetched_from(digest)
    }

    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>> {
        self.sound.watch()
    }

    fn registry_host_folders(&self) -> BoxFuture<'_, Option<Vec<PathBuf>>> {
        self.sound.registry_host_folders()
    }

    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>> {
        self.sound.ingests(digest)
    }

    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, fs::File)>, StoreError>> {
        self.sound.complete_ingests()
    }

    fn abort_ingests<'a>(
        &'a self,
        digest: &'a Digest,
        begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        self.sound.abort_ingests(digest, begun_by)
    }
}
