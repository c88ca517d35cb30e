//! A peer with one fault: its kind, and its place in the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::blob::Blob;
use crate::scripted::{Asked, Part, Script, honest, promise, status};

/// Place of a fault in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    BeforeHeaders,
    AfterHeaders,
    OnePercent,
    Half,
    NinetyNine,
    LastByte,
}

/// Kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CleanClose,
    Reset,
    Freeze,
    NotFound,
    InternalError,
    Unavailable,
    Short,
    Long,
    Corrupt,
    Slow,
    Nobody,
}

impl Place {
    pub const ALL: [Self; 6] = [
        Self::BeforeHeaders,
        Self::AfterHeaders,
        Self::OnePercent,
        Self::Half,
        Self::NinetyNine,
        Self::LastByte,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeHeaders => "before headers",
            Self::AfterHeaders => "after headers",
            Self::OnePercent => "1 %",
            Self::Half => "50 %",
            Self::NinetyNine => "99 %",
            Self::LastByte => "last byte",
        }
    }

    /// Number of correct bytes before the fault.
    fn offset(self, size: u64) -> u64 {
        match self {
            Self::BeforeHeaders | Self::AfterHeaders => 0,
            Self::OnePercent => size / 100,
            Self::Half => size / 2,
            Self::NinetyNine => size / 100 * 99,
            Self::LastByte => size - 1,
        }
    }
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::CleanClose,
        Self::Reset,
        Self::Freeze,
        Self::NotFound,
        Self::InternalError,
        Self::Unavailable,
        Self::Short,
        Self::Long,
        Self::Corrupt,
        Self::Slow,
        Self::Nobody,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::CleanClose => "clean close",
            Self::Reset => "reset",
            Self::Freeze => "freeze",
            Self::NotFound => "404",
            Self::InternalError => "500",
            Self::Unavailable => "503",
            Self::Short => "short",
            Self::Long => "long",
            Self::Corrupt => "corrupt",
            Self::Slow => "slow",
            Self::Nobody => "nobody",
        }
    }
}

/// Script of a peer that claims to have `blob`. Every answer fails at the place: a connection ends, an answer
/// freezes or continues with a byte a second. With an error status, or a closed port, every later request
/// fails as well: the blob was removed, the peer broke, its process ended. Wrong answers (short, long,
/// corrupt) are well-formed.
pub fn script(place: Place, kind: Kind, blob: &Blob) -> Script {
    let offset = place.offset(blob.size());
    let lie = lie(place, kind, blob, offset);
    let is_lie = matches!(kind, Kind::Short | Kind::Long | Kind::Corrupt);
    let fired = AtomicBool::new(false);
    Arc::new(move |asked| {
        if is_lie
            || !asked.target.contains(&lie.digest)
            || asked.method == "HEAD" && place != Place::BeforeHeaders
        {
            return honest(&lie, asked);
        }
        if let Some(code) = status_code(kind)
            && (place == Place::BeforeHeaders || fired.load(Ordering::Relaxed))
        {
            return status(code);
        }
        fail(place, kind, &lie, offset, asked, &fired)
    })
}

/// Content of a peer with wrong answers; other peers have the blob.
fn lie(place: Place, kind: Kind, blob: &Blob, offset: u64) -> Blob {
    match (kind, place) {
        (Kind::Short, Place::AfterHeaders) => blob.cut_at(1),
        (Kind::Short, _) => blob.cut_at(offset),
        (Kind::Long, Place::AfterHeaders) => blob.with_more_at(blob.size()),
        (Kind::Long, _) => blob.with_more_at(offset),
        (Kind::Corrupt, Place::BeforeHeaders) => blob.all_wrong(),
        (Kind::Corrupt, _) => blob.flipped_at(offset),
        _ => blob.clone(),
    }
}

fn status_code(kind: Kind) -> Option<u16> {
    match kind {
        Kind::NotFound => Some(404),
        Kind::InternalError => Some(500),
        Kind::Unavailable => Some(503),
        _ => None,
    }
}

fn fail(place: Place, kind: Kind, blob: &Blob, offset: u64, asked: &Asked, fired: &AtomicBool) -> Vec<Part> {
    let (head, body) = promise(blob, asked);
    let (from, to) = body.unwrap_or((0, 0));
    if place != Place::BeforeHeaders && to <= offset {
        return honest(blob, asked);
    }
    fired.store(true, Ordering::Relaxed);
    let mut parts = Vec::new();
    if place != Place::BeforeHeaders {
        parts.push(Part::Head(head.clone()));
        parts.extend(blob.slice(from, offset).into_iter().map(Part::Body));
    }
    match kind {
        Kind::Reset => parts.push(Part::Reset),
        Kind::Freeze => parts.push(Part::Freeze),
        Kind::Nobody => parts.push(Part::Gone),
        Kind::Slow if place == Place::BeforeHeaders => parts.push(Part::SlowHead(head)),
        Kind::Slow => parts.push(Part::SlowBody(blob.slice(from.max(offset), to))),
        _ => parts.push(Part::Close),
    }
    parts
}
