//! OCI distribution, as far as it can be decided without I/O: digests, references, request paths,
//! ranges, manifests, error bodies.

pub mod children;
pub mod digest;
pub mod error;
pub mod index;
pub mod media_type;
pub mod path;
pub mod range;
pub mod reference;
pub mod registry;

pub use children::Children;
pub use digest::{Algorithm, CONTENT_DIGEST, Digest, DigestError, Hasher};
pub use error::ErrorCode;
pub use path::{ApiPath, ContentPath, Item, PathError};
pub use range::{ByteRange, RangeHeader};
pub use reference::{Reference, ReferenceError};
