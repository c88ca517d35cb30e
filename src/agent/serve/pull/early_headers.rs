//! Headers first: a source has answered properly, but its bytes are not verified by the time that
//! containerd must have headers. They go out, and the bytes follow when they are right.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;

use super::{Fetching, Pulls, while_running};
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::agent::content::head::Head;
use crate::agent::fetch::{Fetched, Missed, Wanted};
use crate::agent::policy::NotOurs;
use crate::agent::serve::found::{Found, ServedFrom};

impl Pulls {
    /// The response that `head` promises; `fetching` can only end with the same. If no source delivers the
    /// right bytes, it is a clean close without any, and the next request is answered 404.
    pub(super) fn early(&self, wanted: &Arc<Wanted>, head: Head, fetching: Fetching) -> Found {
        let (resume, pool) = (Arc::clone(self.fetcher.resume()), self.pool.clone());
        if head.range.is_some() {
            resume.answered_range(&wanted.digest, head.total);
        }
        let source = Arc::<OnceLock<SocketAddr>>::default();
        let from = ServedFrom::LatePeer(Arc::clone(&source));
        let shares_manifests = self.policies.may_give(wanted.registry(), &wanted.digest, true);
        let late = Arc::clone(wanted);
        let bytes = async move {
            let fetched = fetching.await;
            if let Ok(fetched) = &fetched {
                // The first to be set is the only one.
                _ = source.set(fetched.source());
            }
            match fetched {
                Ok(Fetched::Whole { whole, head, .. })
                    if !shares_manifests && whole.may_be_manifest(head.total).await.unwrap_or(true) =>
                {
                    resume.cut(&late.digest, head.part().start);
                    Err(Cut::Unkept(NotOurs::Manifests.to_string()))
                }
                Ok(Fetched::Whole { whole, .. }) => Ok::<ByteStream, Cut>(whole.stream(head.part(), pool)),
                Ok(Fetched::Stream { stream, .. }) => Ok(stream),
                // containerd comes back to this node.
                Err(Missed::Yields) => Err(Cut::Yields),
                Ok(Fetched::Manifest { .. } | Fetched::Size { .. } | Fetched::Unsatisfiable { .. })
                | Err(_) => {
                    let missed = fetched.err().map_or_else(
                        || "a source answered something else".to_owned(),
                        |missed| missed.to_string(),
                    );
                    if let Some(range) = &late.running {
                        range.is_first().await;
                    }
                    resume.cut(&late.digest, head.part().start);
                    Err(Cut::Unkept(missed))
                }
            }
        };
        let stream = stream::once(bytes).try_flatten().boxed();
        let found = Found::blob(wanted.digest.clone(), from, head, while_running(stream, wanted));
        Found { in_order: wanted.is_in_order(), ..found }
    }

    /// The response to a range that was promised by the response to another one, but that no source can send: a
    /// clean close without bytes, after the ranges before it have ended.
    pub(super) fn promised(&self, wanted: &Arc<Wanted>) -> Option<Found> {
        let resume = Arc::clone(self.fetcher.resume());
        let head = resume.promised(&wanted.digest, wanted.range?)?;
        wanted.running.as_ref()?;
        let unkept = Arc::clone(wanted);
        let nothing = async move {
            if let Some(range) = &unkept.running {
                range.is_first().await;
            }
            resume.cut(&unkept.digest, head.part().start);
            Err(Cut::Unkept("no peer can send this range".to_owned()))
        };
        let stream = while_running(stream::once(nothing).boxed(), wanted);
        Some(Found::blob(wanted.digest.clone(), ServedFrom::Nowhere, head, stream))
    }
}
