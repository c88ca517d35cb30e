//! OCI distribution, as far as it can be decided without I/O: digests, references, request paths,
//! manifests, error bodies.

pub mod digest;
pub mod manifest;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
