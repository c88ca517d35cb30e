//! Content on this node: the store that holds it, reading it for a response, and verifying its bytes.

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
