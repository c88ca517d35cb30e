//! Fingerprint of an inventory: the sum modulo 2^128 of the first 16 bytes of SHA-256(key), over
//! the deduplicated keys. Order does not matter, and one key is added or taken away at a time.

pub use piccolo_raft::fingerprint::{Fingerprint, key_fingerprint};
