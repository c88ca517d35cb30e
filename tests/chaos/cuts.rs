//! Cut links: each server has its own host (a network namespace), and packets between hosts are dropped in
//! both directions or in one, once or repeatedly. Clients reach every server all the time, so that they see
//! the answers of each part of a divided cluster.

use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::checker::assert_kept;
use crate::history::History;
use crate::load::{Load, Mix};
use crate::network::Network;
use crate::process::run;
use crate::site::{Site, rng, soak_time};
use crate::support::within;
use crate::witness::Witness;

/// Time for an election, and for clients to find the new leader, on a busy machine.
const WRITES_AGAIN: Duration = Duration::from_secs(15);
/// Further time for which a link stays cut.
const CUT_FOR: Duration = Duration::from_secs(2);
const FLAPS_FOR: Duration = Duration::from_secs(5);
const KINDS: [Kind; 5] = [Kind::Alone, Kind::Deaf, Kind::Mute, Kind::Flapping, Kind::Unplugged];
/// Number of cuts in `make test`: each of the first kinds once.
const BRIEFLY: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No packets between one server and the others.
    Alone,
    /// One server receives nothing from the others; its own packets arrive.
    Deaf,
    /// One server receives packets of the others; its own do not arrive.
    Mute,
    /// Single directions are cut and healed several times a second.
    Flapping,
    /// One server has no network; clients do not reach it either.
    Unplugged,
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_links_lose_nothing_and_hide_nobody() {
    let (seed, mut rng) = rng();
    cut(BRIEFLY, seed, &mut rng).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_cut_links_lose_nothing_and_hide_nobody() {
    let (seed, mut rng) = rng();
    cut((soak_time().as_secs() / 8).max(1) as usize, seed, &mut rng).await;
}

async fn cut(times: usize, seed: u64, rng: &mut StdRng) {
    let links = Links::make();
    let mut site = Site::of_three_on(&links.network).await;
    let mut load = Load::on(site.apis(), seed, Mix::SOME);
    let history = load.history();
    let witness = Witness::of(&site.apis(), &history);
    for time in 0..times {
        let kind = KINDS[time % KINDS.len()];
        let leader = site.leader().await;
        // Mostly the leader, where a cut matters most; a follower's cut must not disturb it.
        let victim = if rng.random_bool(0.7) { leader } else { (leader + 1) % 3 };
        let begun = Instant::now();
        match kind {
            Kind::Flapping => links.flap(rng).await,
            Kind::Unplugged => {
                let host = victim as u8 + 1;
                links.network.unplug(host);
                writes_go_on(&history, kind).await;
                tokio::time::sleep(CUT_FOR).await;
                links.network.plug(host);
            }
            _ => {
                links.cut(kind, victim as u8 + 1);
                writes_go_on(&history, kind).await;
                tokio::time::sleep(CUT_FOR).await;
            }
        }
        links.heal();
        let healed = Instant::now();
        site.leader().await;
        writes_go_on(&history, kind).await;
        println!(
            "{kind:?} of server {} (led: {}) for {:?}, writes again after {:?}",
            victim + 1,
            victim == leader,
            healed - begun,
            healed.elapsed()
        );
    }
    let (history, expected) = load.end().await;
    witness.end().await;
    history.assert_lived();
    assert_kept(&mut site, &history, &expected).await;
}

/// Waits until some writes of clients are acknowledged.
async fn writes_go_on(history: &History, kind: Kind) {
    const SOME: usize = 10;
    let before = history.writes();
    within(&format!("writes go on ({kind:?})"), WRITES_AGAIN, async || {
        (history.writes() >= before + SOME).then_some(())
    })
    .await;
}

/// Three hosts with links that can be cut.
struct Links {
    network: Network,
}

const HOSTS: [u8; 3] = [1, 2, 3];

impl Links {
    fn make() -> Self {
        let links = Self { network: Network::make(3) };
        for host in HOSTS {
            links.nft(host, "add table inet cut");
            links.nft(host, "add chain inet cut in { type filter hook input priority 0 ; }");
        }
        links
    }

    /// Drops packets from `from` to `to` silently.
    fn one_way(&self, from: u8, to: u8) {
        self.nft(to, &format!("add rule inet cut in ip saddr {} drop", self.network.address(from)));
    }

    fn cut(&self, kind: Kind, host: u8) {
        for other in HOSTS.into_iter().filter(|other| *other != host) {
            if kind != Kind::Mute {
                self.one_way(other, host);
            }
            if kind != Kind::Deaf {
                self.one_way(host, other);
            }
        }
    }

    async fn flap(&self, rng: &mut StdRng) {
        let end = Instant::now() + FLAPS_FOR;
        while Instant::now() < end {
            for _ in 0..rng.random_range(1..=3) {
                let from = rng.random_range(0..3);
                let to = (from + rng.random_range(1..3)) % 3;
                self.one_way(HOSTS[from], HOSTS[to]);
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..600))).await;
            self.heal();
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        }
    }

    fn heal(&self) {
        HOSTS.into_iter().for_each(|host| self.nft(host, "flush chain inet cut in"));
    }

    fn nft(&self, host: u8, what: &str) {
        let mut command: Command = self.network.command(host, "nft");
        run(command.args(what.split(' ')));
    }
}
