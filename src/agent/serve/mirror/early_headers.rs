//! Headers first: a source has answered properly, but its bytes are not verified by the time that
//! containerd must have headers. They go out, and the bytes follow when they are right.

use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;

use super::{Asked, Mirror, content_head, held};
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::agent::content::head::Head;
use crate::agent::fetch::RunningRange;
use crate::agent::fetch::{Fetched, Missed};
use crate::agent::policy::NotOurs;
use crate::agent::serve::body::Served;
use crate::agent::serve::record::Record;
use crate::oci::Digest;

type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, Missed>> + Send>>;

impl Mirror {
    /// The answer that `head` promises; `fetching` may only end with the same. If no source delivers the
    /// right bytes it is a clean close without any, and the next request is answered 404.
    pub(super) fn give_late(
        &self,
        asked: Asked<'_>,
        digest: &Digest,
        head: Head,
        (fetching, running): (Fetching, Option<Arc<RunningRange>>),
        mut record: Record,
    ) -> Response<Body> {
        let promised = content_head(&asked, digest, head);
        if head.range.is_some() {
            self.fetcher.answered_range(digest, head.total);
        }
        let source = record.answered_early(promised.status(), promised.length());
        let shares_manifests = self.policies.may_give(asked.registry, digest, true);
        let (fetcher, pool, digest) = (self.fetcher.clone(), self.pool.clone(), digest.clone());
        let range = running.clone();
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
                    fetcher.was_cut(&digest, head.part().start);
                    Err(Cut::Unkept(NotOurs::Manifests.to_string()))
                }
                Ok(Fetched::Whole { whole, .. }) => Ok::<ByteStream, Cut>(whole.stream(head.part(), pool)),
                Ok(Fetched::Stream { stream, .. }) => Ok(stream),
                Ok(Fetched::Manifest { .. } | Fetched::Size { .. } | Fetched::Unsatisfiable { .. })
                | Err(_) => {
                    let missed = fetched.err().map_or_else(
                        || "a source answered something else".to_owned(),
                        |missed| missed.to_string(),
                    );
                    if let Some(range) = range {
                        range.is_first().await;
                    }
                    fetcher.was_cut(&digest, head.part().start);
                    Err(Cut::Unkept(missed))
                }
            }
        };
        let stream = held(stream::once(bytes).try_flatten().boxed(), running);
        promised.response(Served::body(stream, promised.length(), record, asked.connection.clone()))
    }

    /// A range that was promised by the answer to another one, but that nobody can send: a clean close
    /// without bytes, after the ranges before it have ended.
    pub(super) fn give_none(
        &self,
        asked: Asked<'_>,
        digest: &Digest,
        (head, range): (Head, Arc<RunningRange>),
        mut record: Record,
    ) -> Response<Body> {
        let promised = content_head(&asked, digest, head);
        record.answered_early(promised.status(), promised.length());
        let (fetcher, digest) = (self.fetcher.clone(), digest.clone());
        let running = Arc::clone(&range);
        let nothing = async move {
            range.is_first().await;
            fetcher.was_cut(&digest, head.part().start);
            Err(Cut::Unkept("no peer can send this range".to_owned()))
        };
        let stream = held(stream::once(nothing).boxed(), Some(running));
        promised.response(Served::body(stream, promised.length(), record, asked.connection.clone()))
    }
}
