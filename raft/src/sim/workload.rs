//! Holders: each makes one write at a time, asks one server after another until it is acknowledged or
//! it gives up, and reads behind its acknowledged writes on any server. What it asked for and was told
//! goes to the history; what a read shows is held against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::model::{Holder, Key, Pair};
use crate::testing::{holder, key};

use super::client::{Answer, Kind, Order, Request, Shown};
use super::history::{History, WriteId};
use super::net::{self, HostId, Payload};

/// Keys that a holder may have; holders share them.
const KEYS: u32 = 9;
/// Attempts of one write before the holder goes on to the next.
const ATTEMPTS_MAX: u32 = 8;
/// How long a holder waits for an answer: one of these. Short ones leave requests behind that are
/// applied late.
const PATIENCE_MS: [u64; 5] = [60, 150, 400, 1200, 6000];
/// One write in so many is read on every server at its index.
const READ_EVERY: u32 = 3;
/// How long a reader waits.
const READ_PATIENCE: Duration = Duration::from_secs(4);

/// What all clients share.
#[derive(Default)]
pub(crate) struct Records {
    /// Raft addresses at which servers may be.
    pub(crate) servers: Vec<String>,
    /// One more that an operator asks: it is being added.
    pub(crate) joining: Option<String>,
    pub(crate) histories: BTreeMap<Holder, History>,
    pub(crate) violations: Vec<String>,
    pub(crate) reads: usize,
    /// Of these, reads behind an acknowledged write, at its index.
    pub(crate) reads_behind: usize,
    /// Such reads that a server did not answer in time, or not yet.
    pub(crate) reads_unanswered: usize,
    /// The last answer that an operator got.
    pub(crate) last_change: String,
    /// Holders shall make no new writes.
    pub(crate) stop: bool,
    /// Number of holders that have ended.
    pub(crate) ended: usize,
}

/// A handle on what clients share.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Records>>);

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Records> {
        self.0.lock().expect("nothing panics while it holds the book")
    }

    /// Works on the history of `holder`.
    fn history<T>(&self, holder: &Holder, work: impl FnOnce(&mut History) -> T) -> T {
        work(self.open().histories.entry(holder.clone()).or_default())
    }

    pub(crate) fn violate(&self, text: String) {
        self.open().violations.push(text);
    }

    /// Judges what a server shows of `holder`.
    pub(crate) fn judge(&self, server: &str, holder: &Holder, after: Option<WriteId>, shown: &Shown) {
        let mut shared = self.open();
        shared.reads += 1;
        let checked = shared.histories.entry(holder.clone()).or_default().check(after, shown);
        if let Err(why) = checked {
            shared.violations.push(format!("{server}: {}: {why}", holder.address));
        }
    }
}

fn key_number(number: u32) -> Key {
    key(&format!("r/k:{number}"))
}

/// All keys that a holder may have.
pub(crate) fn all_keys() -> impl Iterator<Item = Key> {
    (0..KEYS).map(key_number)
}

/// The holder number `number`.
pub(crate) fn holder_of(number: u8) -> Holder {
    holder(number + 1)
}

/// One holder. Without pairs, it is a client like the Go `pi`.
pub(crate) struct Client {
    pub(crate) me: HostId,
    pub(crate) holder: Holder,
    pub(crate) with_pairs: bool,
    pub(crate) book: Book,
    pub(crate) rng: StdRng,
    pair: Pair,
}

impl Client {
    pub(crate) fn new(me: HostId, number: u8, with_pairs: bool, book: Book, seed: u64) -> Self {
        let pair = Pair { epoch: 1, seq: 0 };
        Self { me, holder: holder_of(number), with_pairs, book, rng: StdRng::seed_from_u64(seed), pair }
    }

    pub(crate) async fn live(mut self) {
        while !self.book.open().stop {
            let order = self.choose();
            self.write(order, ATTEMPTS_MAX).await;
            let pause = self.rng.random_range(0..120);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        // The last word: afterwards all is known.
        let order = self.order(Kind::Sync, 4);
        self.write(order, u32::MAX).await;
        self.book.open().ended += 1;
    }

    fn choose(&mut self) -> Order {
        match self.rng.random_range(0..20) {
            0..=10 => self.order(Kind::Advertise, 3),
            11..=15 => self.order(Kind::Withdraw, 3),
            _ => self.order(Kind::Sync, 5),
        }
    }

    fn order(&mut self, kind: Kind, keys_max: usize) -> Order {
        let count = self.rng.random_range(1..=keys_max);
        let mut keys: Vec<Key> = (0..count).map(|_| key_number(self.rng.random_range(0..KEYS))).collect();
        keys.sort();
        keys.dedup();
        self.pair.seq += 1;
        Order { holder: self.holder.clone(), pair: self.with_pairs.then_some(self.pair), kind, keys }
    }

    async fn write(&mut self, order: Order, attempts: u32) {
        let holder = self.holder.clone();
        let id = self.book.history(&holder, |history| history.begin(order.clone()));
        for _ in 0..attempts {
            let server = self.server();
            let request = Request::Write { order: order.clone(), forwarded: false };
            let patience = PATIENCE_MS[self.rng.random_range(0..PATIENCE_MS.len())];
            let asked = net::ask(self.me, &server, Payload::Client(request));
            match tokio::time::timeout(Duration::from_millis(patience), asked).await {
                Ok(net::Answer::Client(Answer::Done { index })) => {
                    self.book.history(&holder, |history| history.done(id, index));
                    return self.read_behind(id, index);
                }
                Ok(net::Answer::Client(Answer::Stale { stored })) => {
                    let told =
                        format!("{server}: {:?} is stale behind {stored:?}, which nobody sent", order.pair);
                    return self.book.violate(told);
                }
                Ok(net::Answer::Client(Answer::NotDone) | net::Answer::Refused) => {}
                Ok(_) | Err(_) => self.book.history(&holder, |history| history.loose(id)),
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(10..200))).await;
        }
    }

    fn server(&mut self) -> String {
        let shared = self.book.open();
        shared.servers[self.rng.random_range(0..shared.servers.len())].clone()
    }

    /// Now and then reads on every server, beside what the holder does next.
    fn read_behind(&mut self, id: WriteId, index: u64) {
        if self.rng.random_range(0..READ_EVERY) > 0 {
            return;
        }
        for server in self.book.open().servers.clone() {
            let read = read(self.me, server, self.holder.clone(), (id, index), self.book.clone());
            tokio::runtime::Handle::current().spawn(read);
        }
    }
}

/// Leases that end and begin again: holders are hidden from the answers now and then, and nothing of
/// theirs may be lost by that (I3).
pub(crate) async fn hide_holders(me: HostId, book: Book, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !book.open().stop {
        let (server, holder) = {
            let shared = book.open();
            let holders: Vec<&Holder> = shared.histories.keys().collect();
            (shared.servers.choose(&mut rng).cloned(), holders.choose(&mut rng).copied().cloned())
        };
        if let (Some(server), Some(holder)) = (server, holder) {
            let request = Request::Hide { holder, hide: rng.random() };
            let asked = net::ask(me, &server, Payload::Client(request));
            tokio::time::timeout(READ_PATIENCE, asked).await.ok();
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
    }
}

/// One read behind an acknowledged write, at its index.
async fn read(me: HostId, server: String, holder: Holder, (id, index): (WriteId, u64), book: Book) {
    let request = Request::Read { holder: holder.clone(), min_index: index };
    let asked = net::ask(me, &server, Payload::Client(request));
    match tokio::time::timeout(READ_PATIENCE, asked).await {
        Ok(net::Answer::Client(Answer::Shown(shown))) => {
            book.judge(&server, &holder, Some(id), &shown);
            book.open().reads_behind += 1;
        }
        _ => book.open().reads_unanswered += 1,
    }
}
