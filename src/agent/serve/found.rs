//! What a request for content is answered with, before it becomes a response.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::uploads::Upload;
use crate::agent::content::byte_stream::ByteStream;
use crate::agent::content::head::Head;
use crate::agent::content::local::{LocalBlob, LocalManifest};
use crate::agent::flight::header::Told;
use crate::agent::flight::running::ChildConnection;
use crate::oci::{Digest, RangeHeader, media_type};

/// Content that was found.
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) from: ServedFrom,
    pub(crate) payload: Payload,
    /// How long ago the tag that was asked for was set on this node. Only peers are told.
    pub(crate) tag_age: Option<Duration>,
    /// What a node that takes part in a flight is told besides.
    pub(crate) told: Option<Told>,
    /// Whether the client must read the bytes in order: the response names no length then.
    pub(crate) in_order: bool,
}

/// Where content comes from.
#[derive(Clone, Debug)]
pub(crate) enum ServedFrom {
    /// Nowhere: nothing is sent.
    Nowhere,
    /// This node's own store.
    OwnStore,
    /// Another agent.
    Peer(SocketAddr),
    /// The agent whose bytes turn out right after the headers went out.
    LatePeer(Arc<OnceLock<SocketAddr>>),
}

/// What is sent.
pub(crate) enum Payload {
    /// 304: the client has the content already.
    Unchanged { total: u64 },
    /// 416: the range that was asked for is outside of the content.
    Unsatisfiable { total: u64 },
    /// 200 without bytes: only the headers were asked for.
    HeadOnly { media_type: &'static str, total: u64 },
    /// 200 or 206, and bytes.
    Bytes { media_type: &'static str, head: Head, stream: ByteStream },
}

/// The bytes of a manifest, with what is dropped when they have been sent.
struct ManifestBody<G> {
    bytes: Bytes,
    media_type: &'static str,
    guard: G,
}

impl ServedFrom {
    /// The peer that the content comes from, as far as is known by now.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            ServedFrom::Nowhere | ServedFrom::OwnStore => None,
            ServedFrom::Peer(peer) => Some(*peer),
            ServedFrom::LatePeer(peer) => peer.get().copied(),
        }
    }
}

impl Found {
    fn new(digest: Digest, from: ServedFrom, payload: Payload) -> Self {
        Self { digest, from, payload, tag_age: None, told: None, in_order: false }
    }

    /// Content of this node that the client has already.
    pub(crate) fn unchanged(digest: Digest, total: u64) -> Self {
        Self::new(digest, ServedFrom::OwnStore, Payload::Unchanged { total })
    }

    /// A range that is outside of its content.
    pub(crate) fn unsatisfiable(digest: Digest, from: ServedFrom, total: u64) -> Self {
        Self::new(digest, from, Payload::Unsatisfiable { total })
    }

    /// The size of a blob.
    pub(crate) fn size(digest: Digest, from: ServedFrom, total: u64) -> Self {
        let media_type = media_type::OCTET_STREAM;
        Self::new(digest, from, Payload::HeadOnly { media_type, total })
    }

    /// A blob, or a part of it.
    pub(crate) fn blob(digest: Digest, from: ServedFrom, head: Head, stream: ByteStream) -> Self {
        let media_type = media_type::OCTET_STREAM;
        Self::new(digest, from, Payload::Bytes { media_type, head, stream })
    }

    /// A blob of this node, or the `range` of it. `upload` ends with the body, and has the rate of it.
    pub(crate) fn own_blob(
        digest: Digest,
        blob: LocalBlob,
        range: Option<RangeHeader>,
        upload: Option<Upload>,
    ) -> Self {
        let total = blob.size_bytes();
        let Ok(range) = range.map(|range| range.within(total).ok_or(())).transpose() else {
            return Self::unsatisfiable(digest, ServedFrom::OwnStore, total);
        };
        let head = Head { total, range };
        let rate = upload.as_ref().and_then(Upload::rate);
        let stream = blob.stream(head.part(), rate, upload);
        Self::blob(digest, ServedFrom::OwnStore, head, stream)
    }

    /// The same, whose bytes a child receives: it is one as long as they are sent.
    pub(crate) fn noting(self, child: ChildConnection) -> Self {
        let Payload::Bytes { media_type, head, stream } = self.payload else { return self };
        let mut have_bytes = head.part().start;
        let noted = stream.inspect(move |piece| {
            have_bytes += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
            child.sent(have_bytes);
        });
        Self { payload: Payload::Bytes { media_type, head, stream: noted.boxed() }, ..self }
    }

    /// A manifest of this node.
    pub(crate) fn own_manifest(digest: Digest, manifest: LocalManifest, head_only: bool) -> Self {
        let LocalManifest { bytes, media_type, memory } = manifest;
        let body = ManifestBody { bytes, media_type, guard: memory };
        Self::manifest(digest, ServedFrom::OwnStore, body, head_only)
    }

    /// A manifest of a peer, with its media type.
    pub(crate) fn peer_manifest(
        digest: Digest,
        source: SocketAddr,
        (bytes, media_type): (Bytes, &'static str),
        head_only: bool,
    ) -> Self {
        let body = ManifestBody { bytes, media_type, guard: () };
        Self::manifest(digest, ServedFrom::Peer(source), body, head_only)
    }

    fn manifest<G: Send + 'static>(
        digest: Digest,
        from: ServedFrom,
        body: ManifestBody<G>,
        head_only: bool,
    ) -> Self {
        let ManifestBody { bytes, media_type, guard } = body;
        let total = bytes.len() as u64;
        if head_only {
            return Self::new(digest, from, Payload::HeadOnly { media_type, total });
        }
        let piece = stream::iter([Ok(bytes)]).map(move |piece| {
            let _held_as_long_as_the_stream = &guard;
            piece
        });
        let head = Head { total, range: None };
        Self::new(digest, from, Payload::Bytes { media_type, head, stream: piece.boxed() })
    }
}
