//! A rolling upgrade to a version whose writes the previous one cannot read: half-way and back, then to the
//! end, under steady load. The next version is the same binary with a variable set: see `format/next.rs` of
//! piccolo-raft.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use piccolo::api::{StatusResponse, path};
use piccolo_raft::disk::FolderDisk;
use piccolo_raft::format::next::VARIABLE;

use crate::checker::assert_kept;
use crate::history::History;
use crate::rolling::Clients;
use crate::server::PICCOLO;
use crate::site::Site;
use crate::support::{SOON, within};
use crate::wire;
use crate::witness::Witness;

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_goes_half_way_back_and_forwards_and_fails_nobody_who_retries_once() {
    let mut site = Site::of_three().await;
    let history = Arc::new(History::default());
    let witness = Witness::of(&site.apis(), &history);
    let clients = Clients::on(site.apis(), &history);

    // Half-way: no level begins, and an operator who asks for it gets the name of the missing server.
    exchange(&mut site, 0, true).await;
    exchange(&mut site, 1, true).await;
    let refused = activate(&site);
    let (said, old) = (text(&refused.stderr), site.servers[2].raft.to_string());
    assert!(!refused.status.success() && said.contains(&format!("({old}) reads levels 1 to 1")), "{said}");

    // Back to the previous version.
    exchange(&mut site, 0, false).await;
    exchange(&mut site, 1, false).await;

    // Forwards: the level is scheduled, and each server can still go back.
    for at in 0..3 {
        exchange(&mut site, at, true).await;
    }
    within("a level on its way", SOON, async || {
        let level = status(&site, site.leader().await).await?.level;
        let is_scheduled =
            level.way_back.contains("servers can go back to the version before until level 2 begins: in 2");
        (level.active == 1 && level.next == Some(2) && is_scheduled).then_some(())
    })
    .await;
    exchange(&mut site, 2, false).await;
    exchange(&mut site, 2, true).await;

    let done =
        within("the level", SOON, async || Some(activate(&site)).filter(|done| done.status.success())).await;
    assert!(text(&done.stdout).contains("level 2 is active"), "{}", text(&done.stdout));
    for at in 0..3 {
        within("the level on every server", SOON, async || {
            let level = status(&site, at).await?.level;
            (level.active == 2 && level.way_back.contains("not possible any more")).then_some(())
        })
        .await;
    }
    // The previous version cannot read what is written now; it reports that and does not change the folder.
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.servers[1].stop().await;
    let refused = site.servers[1].command().env_remove(VARIABLE).output().unwrap();
    let said = text(&refused.stderr) + &text(&refused.stdout);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("runs at level 2, and this piccolo reads levels 1 to 1"), "{said}");
    site.servers[1].start();
    site.servers[1].ready().await;

    let (counts, expected) = clients.end().await;
    witness.end().await;
    println!("{counts:?}");
    let failures = history.findings();
    assert!(failures.is_empty(), "{} failed requests:\n{}", failures.len(), failures.join("\n"));
    assert_kept(&mut site, &history, &expected).await;
    for server in &mut site.servers {
        server.stop().await;
        // This process runs the previous version.
        let error = piccolo_raft::index::Index::open(&FolderDisk::open(&server.data).unwrap()).err();
        let error = error.expect("a folder of the next level").to_string();
        assert!(error.contains("runs at level 2"), "{error}");
    }
}

/// Stops a server, and starts one of the other version with its folder.
async fn exchange(site: &mut Site, at: usize, next: bool) {
    site.servers[at].stop().await;
    site.servers[at].next = next;
    site.servers[at].start();
    site.servers[at].ready().await;
    site.leader().await;
}

fn activate(site: &Site) -> Output {
    let server = format!("http://{}", site.servers[2].api);
    Command::new(PICCOLO).args(["members", "activate", "--server", &server]).output().unwrap()
}

async fn status(site: &Site, at: usize) -> Option<StatusResponse> {
    wire::ask(site.servers[at].api, "GET", path::STATUS, "", PATIENCE).await?.read()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
