//! Content on this node: the store that holds it, its way out of there, and the checks of its bytes.

pub(crate) mod buffer_pool;
pub(crate) mod byte_stream;
pub(crate) mod head;
pub(crate) mod ingest_scrub;
pub(crate) mod local;
pub(crate) mod manifest;
pub mod store;
pub(crate) mod tag_claims;
pub(crate) mod token_bucket;
pub(crate) mod verifier;
