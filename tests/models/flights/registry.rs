//! A registry behind a link of limited rate, which counts what it sends and fails as it is told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Image, MIB};
use crate::containerd::Host;
use crate::scripted::{Asked, Link, Part, Scripted, promise, status};

/// Rate of the registry's link, bytes a second, over all answers.
const RATE: u64 = 16 * MIB;
const POLL: Duration = Duration::from_millis(5);

/// What the registry does with requests for blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conduct {
    Serves,
    /// It serves at this rate, bytes a second.
    ServesAt(u64),
    /// It is silent for so long before its headers.
    SilentFor(Duration),
    /// The first answer of each blob ends in its middle.
    BreaksOnce,
    /// It is gone after half of a blob.
    GoneAtHalf,
    Refuses(u16),
    /// The byte at this offset of each blob is wrong in the first answer that begins at most so many bytes before it: a
    /// client that fetches in chunks leaves the rest of an answer.
    WrongOnce {
        at: u64,
        within: u64,
    },
}

/// A running registry.
pub(super) struct Registry {
    server: Scripted,
    bytes: u64,
    rate: u64,
}

/// What its answers depend on.
struct Answers {
    image: Image,
    link: Arc<Link>,
    conduct: Conduct,
    /// Digests that were asked for, or whose wrong byte was sent.
    seen: Mutex<HashSet<String>>,
}

impl Registry {
    /// A registry of the layers of `image`.
    pub(super) async fn start(image: &Image, conduct: Conduct) -> Self {
        let rate = if let Conduct::ServesAt(rate) = conduct { rate } else { RATE };
        let link = Arc::new(Link::new(rate));
        let answers = Answers { image: image.clone(), link, conduct, seen: Mutex::default() };
        let server = Scripted::start("127.0.0.1", Arc::new(move |asked| answers.of(asked))).await;
        Self { server, bytes: image.bytes(), rate }
    }

    pub(super) fn host(&self) -> Host {
        Host::at(self.server.address)
    }

    /// Time that one node alone would take for all layers, at least.
    pub(super) fn undisturbed(&self) -> Duration {
        Duration::from_secs_f64(self.bytes as f64 / self.rate as f64)
    }

    /// How much it has sent, in copies of all layers.
    pub(super) fn copies(&self) -> f64 {
        self.server.sent() as f64 / self.bytes as f64
    }

    /// Waits until it has sent this part of one copy.
    pub(super) async fn has_sent(&self, part: f64, within: Duration) {
        let end = Instant::now() + within;
        while self.copies() < part && Instant::now() < end {
            tokio::time::sleep(POLL).await;
        }
    }

    /// The requests: of which blob, and from which offset.
    pub(super) fn requests(&self) -> String {
        let one = |asked: &Asked| {
            let digest = asked.target.split("sha256:").nth(1).unwrap_or(&asked.target);
            let from = asked.range.map_or(0, |(from, _)| from);
            format!("{} from {from}", digest.get(..12).unwrap_or(digest))
        };
        self.server.asked().iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Answers {
    fn of(&self, asked: &Asked) -> Vec<Part> {
        if asked.target.ends_with("/v2/") {
            return status(200);
        }
        let Some(blob) = self.image.layers.iter().find(|blob| asked.target.contains(&blob.digest)) else {
            return status(404);
        };
        if let Conduct::Refuses(code) = self.conduct {
            return status(code);
        }
        let is_first_of = |is_it: bool| {
            asked.method == "GET" && is_it && self.seen.lock().unwrap().insert(blob.digest.clone())
        };
        let half = blob.size() / 2;
        let (head, body) = promise(blob, asked);
        let mut parts = Vec::new();
        if let Conduct::SilentFor(time) = self.conduct {
            parts.push(Part::Pause(time));
        }
        parts.push(Part::Head(head));
        let Some((from, to)) = body else { return parts };
        let (until, end) = match self.conduct {
            Conduct::BreaksOnce if is_first_of(true) => (half, Some(Part::Close)),
            Conduct::GoneAtHalf if to > half => (half, Some(Part::Gone)),
            _ => (to, None),
        };
        let sent = match self.conduct {
            Conduct::WrongOnce { at, within }
                if is_first_of((from..to).contains(&at) && at - from < within) =>
            {
                blob.flipped_at(at)
            }
            _ => blob.clone(),
        };
        let pieces = sent.slice(from, until.max(from)).into_iter();
        parts.extend(pieces.map(|bytes| Part::Paced(bytes, Arc::clone(&self.link))));
        parts.extend(end);
        parts
    }
}
