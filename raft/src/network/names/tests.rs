use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::MemoryDisk;

impl Names {
    /// Names that are known.
    pub(crate) fn count(&self) -> usize {
        self.known().len()
    }
}

/// Answers what it was told, after a while.
#[derive(Debug, Default)]
struct Told {
    answer: Mutex<Vec<IpAddr>>,
    delay: Mutex<Duration>,
    asked: AtomicUsize,
}

impl Told {
    fn set(&self, answer: &[&str], delay: Duration) {
        *self.answer.lock().unwrap() = ips(answer);
        *self.delay.lock().unwrap() = delay;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Resolve for Arc<Told> {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (answer, delay) = (self.answer.lock().unwrap().clone(), *self.delay.lock().unwrap());
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            if answer.is_empty() { Err(io::Error::other("no such name")) } else { Ok(answer) }
        })
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn names(told: &Arc<Told>, disk: &MemoryDisk) -> Names {
    Names::load(Arc::new(Arc::clone(told)), disk, TaskTracker::new(), CancellationToken::new())
}

const MINUTE: Duration = Duration::from_secs(60);

async fn at_once(names: &Names) -> Result<Vec<IpAddr>, String> {
    timeout(Duration::ZERO, names.addresses("a")).await.expect("nothing is waited for")
}

#[tokio::test(start_paused = true)]
async fn only_the_first_lookup_is_waited_for_and_it_outlives_who_waits() {
    let told = Arc::new(Told::default());
    told.set(&["10.0.0.1"], Duration::from_millis(1200));
    let names = names(&told, &MemoryDisk::default());
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    assert!(timeout(second, names.addresses("a")).await.is_err(), "DNS takes longer");
    assert_eq!(names.addresses("a").await.unwrap(), ips(&["10.0.0.1"]));
    assert_eq!((start.elapsed(), told.asked()), (Duration::from_millis(1200), 1));
    told.set(&["10.0.0.2"], MINUTE / 3);
    tokio::time::sleep(LOOKUP_INTERVAL_MIN).await;
    assert_eq!(at_once(&names).await.unwrap(), ips(&["10.0.0.1"]), "what is known, while it is asked again");
    tokio::time::sleep(MINUTE).await;
    assert_eq!((names.known_addresses("a"), told.asked()), (ips(&["10.0.0.2"]), 2));
    names.works("a", ips(&["10.0.0.1"])[0]);
    assert_eq!(names.known_addresses("a"), ips(&["10.0.0.2", "10.0.0.1"]), "DNS says that it has moved");
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_dns_takes_no_address_away() {
    let (told, disk) = (Arc::new(Told::default()), MemoryDisk::default());
    told.set(&["10.0.0.1", "10.0.0.2"], Duration::ZERO);
    let first = names(&told, &disk);
    first.addresses("a").await.unwrap();
    first.works("a", ips(&["10.0.0.2"])[0]);
    assert_eq!(
        at_once(&first).await.unwrap(),
        ips(&["10.0.0.2", "10.0.0.1"]),
        "where it answered comes first"
    );
    store(&disk, Level::FIRST, &first.good()).unwrap();
    told.set(&[], LOOKUP_TIMEOUT * 2);
    let second = names(&told, &disk);
    for _ in 0..60 {
        assert_eq!(at_once(&first).await.unwrap(), ips(&["10.0.0.2", "10.0.0.1"]));
        assert_eq!(at_once(&second).await.unwrap(), ips(&["10.0.0.2"]), "as the last process knew it");
        tokio::time::sleep(LOOKUP_INTERVAL_MIN).await;
    }
    assert!(told.asked() <= 8, "{} lookups while none ended", told.asked());
    told.set(&[], Duration::ZERO);
    tokio::time::sleep(MINUTE).await;
    let error = names(&told, &MemoryDisk::default()).addresses("a").await.unwrap_err();
    assert_eq!(error, "the name a has no address: no such name");
}

#[tokio::test(start_paused = true)]
async fn an_address_at_which_another_server_answers_is_tried_last() {
    let (told, disk) = (Arc::new(Told::default()), MemoryDisk::default());
    told.set(&["10.0.0.1"], Duration::ZERO);
    let names = names(&told, &disk);
    let first = names.addresses("a").await.unwrap()[0];
    names.works("a", first);
    told.set(&["10.0.0.2"], Duration::ZERO);
    tokio::time::sleep(LOOKUP_INTERVAL_MIN).await;
    names.misleads("a", first);
    assert_eq!(names.known_addresses("a"), [first], "the only one that is known");
    tokio::time::sleep(LOOKUP_INTERVAL_MIN).await;
    assert_eq!(names.known_addresses("a"), ips(&["10.0.0.2", "10.0.0.1"]));
    assert_eq!(names.good(), BTreeMap::new());
    let second = ips(&["10.0.0.2"])[0];
    names.misleads("a", second);
    names.works("a", first);
    assert_eq!(names.known_addresses("a"), ips(&["10.0.0.1", "10.0.0.2"]), "DNS is wrong about it");
}

#[tokio::test(start_paused = true)]
async fn bare_addresses_are_never_looked_up_and_unused_names_are_forgotten() {
    let told = Arc::new(Told::default());
    let names = names(&told, &MemoryDisk::default());
    for (host, ip) in [("10.0.0.1", "10.0.0.1"), ("[fd00::1]", "fd00::1")] {
        assert_eq!(names.addresses(host).await.unwrap(), ips(&[ip]));
        names.works(host, ips(&[ip])[0]);
        names.misleads(host, ips(&[ip])[0]);
    }
    assert_eq!((told.asked(), names.known().len()), (0, 0));
    names.addresses("a").await.unwrap_err();
    names.retain(&BTreeSet::new());
    assert_eq!(names.known().len(), 1, "somebody may come back for it");
    tokio::time::sleep(LOOKUP_INTERVAL_MAX).await;
    names.retain(&BTreeSet::from(["a".to_owned()]));
    assert_eq!(names.known().len(), 1);
    names.retain(&BTreeSet::new());
    assert_eq!(names.known().len(), 0);
}

#[test]
fn a_file_that_is_damaged_or_newer_costs_nothing_but_time() {
    let disk = MemoryDisk::default();
    let good = BTreeMap::from([("a".to_owned(), ips(&["10.0.0.1"])[0])]);
    store(&disk, Level::FIRST, &good).unwrap();
    assert_eq!(stored(&disk), good);
    for bytes in [b"".as_slice(), b"\xff\xff", b"\x02\x00\x05"] {
        disk.write(ADDRESSES_FILE, bytes).unwrap();
        assert_eq!(stored(&disk), BTreeMap::new(), "{bytes:?}");
    }
}

/// Anybody may name a thousand hosts to a server (`reach`). Each was kept and looked up at the same time.
#[tokio::test(start_paused = true)]
async fn made_up_names_are_bounded_and_needed_ones_are_looked_up_all_the_same() {
    let told = Arc::new(Told::default());
    told.set(&["10.0.0.1"], MINUTE);
    let names = names(&told, &MemoryDisk::default());
    names.retain(&BTreeSet::from(["a".to_owned()]));
    (0..1_000).for_each(|number| names.ask(&format!("made-up-{number}"), LOOKUP_INTERVAL_MIN));
    assert_eq!(names.count(), NAMES_UNNEEDED_MAX);
    assert!(names.addresses("newcomer").await.unwrap_err().contains("too many names"));
    names.ask("a", LOOKUP_INTERVAL_MIN);
    assert_eq!(names.count(), NAMES_UNNEEDED_MAX + 1);
    // Names whose lookups have ended make room for others.
    tokio::time::sleep(LOOKUP_TIMEOUT + LOOKUP_INTERVAL_MIN).await;
    told.set(&["10.0.0.1"], Duration::ZERO);
    assert_eq!(names.addresses("newcomer").await.unwrap(), ips(&["10.0.0.1"]));
    assert_eq!(names.count(), NAMES_UNNEEDED_MAX + 1);
}
