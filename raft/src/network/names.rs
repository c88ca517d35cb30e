//! Which addresses the names of other servers have, so that nothing urgent waits for DNS.
//!
//! A name is looked up in the background, at most once at a time. Once it has an address, a connection takes
//! what is known at that moment: the address at which that server last answered, and those of the last
//! answer of DNS. Only a name without any address is waited for. A lookup that fails takes nothing away, and
//! the addresses at which servers have answered outlive the process in the file `addresses`: after a power
//! cut DNS may be the last service to come back, because it may run on the hosts that wait for us.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disk::Disk;
use crate::format::{Level, STORAGE};
use crate::limits::{
    ADDRESSES_OF_A_NAME_MAX, LOOKUP_INTERVAL_MAX, LOOKUP_INTERVAL_MIN, LOOKUP_TIMEOUT, NAMES_STORED_MAX,
    NAMES_UNNEEDED_MAX,
};
use crate::watch;

/// Name of the file on the disk: where servers last answered, by name.
pub(crate) const ADDRESSES_FILE: &str = "addresses";

/// Asks for the addresses of a name.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// Addresses of `host`, the best first.
    ///
    /// # Errors
    /// If nobody knows the name, or nobody could be asked.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// Asks the system: its hosts file, DNS, and whatever else it is configured for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip().to_canonical()).collect())
        })
    }
}

/// What is known of the names; clones share it.
#[derive(Clone, Debug)]
pub struct Names {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    resolver: Arc<dyn Resolve>,
    tasks: TaskTracker,
    stop: CancellationToken,
    known: Mutex<BTreeMap<String, Known>>,
    /// Names of members and hints, as of the last call of [`Names::retain`].
    needed: Mutex<BTreeSet<String>>,
    /// Changes whenever a lookup has ended.
    ended: watch::Sender<()>,
}

/// What is known of one name.
#[derive(Debug, Default)]
struct Known {
    /// Where the server of that name last answered to its id.
    good: Option<IpAddr>,
    /// The last answer of the resolver that had any addresses.
    answer: Vec<IpAddr>,
    /// When the last lookup began.
    asked: Option<Instant>,
    asking: bool,
    /// Why the last lookup had no answer.
    failure: Option<String>,
    /// Addresses at which another server, or something else, has answered.
    misleading: BTreeSet<IpAddr>,
}

impl Known {
    /// Where it last answered comes first, unless DNS says that it is elsewhere.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses = self.answer.clone();
        if let Some(good) = self.good {
            let is_right = addresses.is_empty() || addresses.contains(&good);
            addresses.retain(|ip| *ip != good);
            addresses.insert(if is_right { 0 } else { addresses.len() }, good);
        }
        addresses.sort_by_key(|ip| self.misleading.contains(ip));
        addresses.truncate(ADDRESSES_OF_A_NAME_MAX);
        addresses
    }

    fn is_due(&self, interval: Duration) -> bool {
        !self.asking && self.asked.is_none_or(|asked| asked.elapsed() >= interval)
    }
}

impl Names {
    /// With what `disk` knows. Lookups are tasks of `tasks`, ended by `stop`.
    pub(crate) fn load(
        resolver: Arc<dyn Resolve>,
        disk: &dyn Disk,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let known = |(host, ip)| (host, Known { good: Some(ip), ..Known::default() });
        Self::with(resolver, stored(disk).into_iter().map(known).collect(), tasks, stop)
    }

    /// Knows no name yet, and keeps none on disk.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self::with(resolver, BTreeMap::new(), TaskTracker::new(), CancellationToken::new())
    }

    fn with(
        resolver: Arc<dyn Resolve>,
        known: BTreeMap<String, Known>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (known, ended) = (Mutex::new(known), watch::Sender::new(()));
        Self { inner: Arc::new(Inner { resolver, tasks, stop, known, needed: Mutex::default(), ended }) }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.inner.known.lock().expect("nothing panics while it holds the names")
    }

    fn needed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.inner.needed.lock().expect("nothing panics while it holds the needed names")
    }

    /// Where to look for `host`, the best address first. Waits only for a name without any.
    ///
    /// # Errors
    /// Says why a name has no address.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Some(ip) = literal(host) {
            return Ok(vec![ip]);
        }
        self.ask(host, LOOKUP_INTERVAL_MIN);
        let mut ended = self.inner.ended.subscribe();
        loop {
            ended.latest();
            let (addresses, asking, failure) = match self.known().get(host) {
                Some(known) => (known.addresses(), known.asking, known.failure.clone()),
                None => (Vec::new(), false, Some("too many names are being looked up".to_owned())),
            };
            if !addresses.is_empty() {
                return Ok(addresses);
            }
            if !asking || ended.changed().await.is_err() {
                let reason = failure.unwrap_or_else(|| "nobody was asked".to_owned());
                return Err(format!("the name {host} has no address: {reason}"));
            }
        }
    }

    /// What is known of `host` now, without waiting.
    pub fn known_addresses(&self, host: &str) -> Vec<IpAddr> {
        let of_name = || self.known().get(host).map(Known::addresses).unwrap_or_default();
        literal(host).map_or_else(of_name, |ip| vec![ip])
    }

    /// Begins a lookup of `host` in the background if the last one began at least `interval` ago. A new name that
    /// nobody needs is not looked up while too many others are ([`NAMES_UNNEEDED_MAX`]).
    pub(crate) fn ask(&self, host: &str, interval: Duration) {
        if literal(host).is_some() || self.inner.stop.is_cancelled() {
            return;
        }
        {
            let mut all = self.known();
            if !all.contains_key(host) && !self.has_place(&mut all, host) {
                return;
            }
            let known = all.entry(host.to_owned()).or_default();
            if !known.is_due(interval) {
                return;
            }
            (known.asking, known.asked) = (true, Some(Instant::now()));
        }
        let (names, host) = (self.clone(), host.to_owned());
        self.inner.tasks.spawn(async move {
            let lookup = timeout(LOOKUP_TIMEOUT, names.inner.resolver.resolve(&host));
            let Some(ended) = names.inner.stop.run_until_cancelled(lookup).await else { return };
            let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
            names.note(&host, ended.unwrap_or_else(|_| Err(late())));
        });
    }

    /// Whether one more name may be known. Of those that nobody needs, the one that was looked up first makes room,
    /// unless all of them are being looked up.
    fn has_place(&self, all: &mut BTreeMap<String, Known>, host: &str) -> bool {
        let needed = self.needed();
        if needed.contains(host) {
            return true;
        }
        let is_unneeded = |(host, known): &(&String, &Known)| known.good.is_none() && !needed.contains(*host);
        if all.iter().filter(is_unneeded).count() < NAMES_UNNEEDED_MAX {
            return true;
        }
        let idle = all.iter().filter(is_unneeded).filter(|(_, known)| !known.asking);
        let first = idle.min_by_key(|(_, known)| known.asked).map(|(host, _)| host.clone());
        first.is_some_and(|first| all.remove(&first).is_some())
    }

    fn note(&self, host: &str, answer: io::Result<Vec<IpAddr>>) {
        {
            let mut all = self.known();
            let known = all.entry(host.to_owned()).or_default();
            known.asking = false;
            match answer {
                Ok(answer) if !answer.is_empty() => {
                    if known.failure.take().is_some() {
                        tracing::info!(host, "the name can be looked up again");
                    }
                    let sorted = |ips: &[IpAddr]| ips.iter().copied().collect::<BTreeSet<IpAddr>>();
                    if !known.answer.is_empty() && sorted(&known.answer) != sorted(&answer) {
                        tracing::info!(host, ?answer, "the name has other addresses now");
                    }
                    let good = known.good;
                    known.misleading.retain(|ip| answer.contains(ip) || Some(*ip) == good);
                    known.answer = answer;
                }
                answer => {
                    let reason = match answer {
                        Ok(_) => "the answer is empty".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    if known.failure.is_none() {
                        let known = known.addresses();
                        tracing::warn!(host, reason, ?known, "could not look up the name of a server");
                    }
                    known.failure = Some(reason);
                }
            }
        }
        self.inner.ended.set(());
    }

    /// The server of that name has answered to its id at `ip`.
    pub(crate) fn works(&self, host: &str, ip: IpAddr) {
        if literal(host).is_none() {
            let mut all = self.known();
            let known = all.entry(host.to_owned()).or_default();
            known.good = Some(ip);
            known.misleading.remove(&ip);
        }
    }

    /// Another server, or something else, answers at `ip`: that address is tried last from now on.
    pub(crate) fn misleads(&self, host: &str, ip: IpAddr) {
        if literal(host).is_some() {
            return;
        }
        if let Some(known) = self.known().get_mut(host) {
            known.misleading.insert(ip);
        }
        self.ask(host, LOOKUP_INTERVAL_MIN);
    }

    /// Forgets names that nobody needs any more.
    pub(crate) fn retain(&self, needed: &BTreeSet<String>) {
        let lately = |known: &Known| known.asked.is_some_and(|at| at.elapsed() < LOOKUP_INTERVAL_MAX);
        self.needed().clone_from(needed);
        self.known().retain(|host, known| known.asking || needed.contains(host) || lately(known));
    }

    /// What is worth keeping for the next start.
    pub(crate) fn good(&self) -> BTreeMap<String, IpAddr> {
        let good = |(host, known): (&String, &Known)| {
            Some((host.clone(), known.good.filter(|ip| !known.misleading.contains(ip))?))
        };
        self.known().iter().filter_map(good).take(NAMES_STORED_MAX).collect()
    }
}

/// What the file says. It only saves time, so one that is not readable is ignored.
pub(crate) fn stored(disk: &dyn Disk) -> BTreeMap<String, IpAddr> {
    let read = || match disk.read(ADDRESSES_FILE) {
        Ok(Some(bytes)) => {
            STORAGE.decode("addresses of other servers", &bytes).map_err(|error| error.to_string())
        }
        Ok(None) => Ok(BTreeMap::new()),
        Err(error) => Err(error.to_string()),
    };
    read().unwrap_or_else(|reason| {
        tracing::warn!(reason, "the file {ADDRESSES_FILE} is ignored: names are looked up anew");
        BTreeMap::new()
    })
}

/// Keeps them for the next start.
pub(crate) fn store(disk: &dyn Disk, level: Level, good: &BTreeMap<String, IpAddr>) -> io::Result<()> {
    disk.write(ADDRESSES_FILE, &STORAGE.encode(level, good))
}

/// The address that `host` is, in brackets or not, unless it is a name.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

/// Host and port of `host:port`.
pub fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests;
