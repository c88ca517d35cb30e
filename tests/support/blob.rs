//! Blobs for the cells: a common body, and a tail that makes each digest unique, so that a thousand blobs of
//! 64 MiB need neither memory nor hashing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest as _, Sha256};

pub const SMALL: u64 = 2 << 20;
pub const LARGE: u64 = 64 << 20;
const TAIL_BYTES: u64 = 64;
const PAGE_BYTES: usize = 4 << 10;

struct Common {
    bytes: Bytes,
    /// The common body with every byte wrong.
    wrong: Bytes,
    small: Sha256,
    large: Sha256,
}

/// Random bytes with the number of each page in it, so that all pages differ.
fn common() -> &'static Common {
    static COMMON: OnceLock<Common> = OnceLock::new();
    COMMON.get_or_init(|| {
        let mut block = vec![0; 1 << 20];
        StdRng::seed_from_u64(1).fill_bytes(&mut block);
        let mut bytes = block.repeat((LARGE as usize) / block.len());
        for (number, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
            page[..8].copy_from_slice(&(number as u64).to_le_bytes());
        }
        let wrong = Bytes::from(vec![0xa5; LARGE as usize]);
        let (small, large) = (Sha256::new(), Sha256::new());
        let common = Common { small, large, bytes: Bytes::from(bytes), wrong };
        Common { small: common.hashed(SMALL), large: common.hashed(LARGE), ..common }
    })
}

impl Common {
    /// Hash of the common part of a blob of `size` bytes.
    fn hashed(&self, size: u64) -> Sha256 {
        Sha256::new().chain_update(&self.bytes[..(size - TAIL_BYTES) as usize])
    }
}

/// Content that a server has: the blob, or what it sends in place of the blob.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: String,
    pieces: Vec<Bytes>,
}

impl Blob {
    /// A blob that no other call returns, of at most [`LARGE`] bytes and more than its tail.
    pub fn new(size: u64) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut tail = vec![0; TAIL_BYTES as usize];
        StdRng::seed_from_u64(1000 + NUMBER.fetch_add(1, Ordering::Relaxed)).fill_bytes(&mut tail);
        let common = common();
        let start = match size {
            SMALL => common.small.clone(),
            LARGE => common.large.clone(),
            other => common.hashed(other),
        };
        let digest = format!("sha256:{:x}", start.chain_update(&tail).finalize());
        Self { digest, pieces: vec![common.bytes.slice(..(size - TAIL_BYTES) as usize), Bytes::from(tail)] }
    }

    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The bytes `from .. to`.
    pub fn slice(&self, from: u64, to: u64) -> Vec<Bytes> {
        let mut start = 0;
        let mut found = Vec::new();
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            let (low, high) = (from.max(start), to.min(end));
            if low < high {
                found.push(piece.slice((low - start) as usize..(high - start) as usize));
            }
            start = end;
        }
        found
    }

    fn with(&self, pieces: Vec<Bytes>) -> Self {
        Self { digest: self.digest.clone(), pieces }
    }

    /// The blob's first `size` bytes.
    pub fn cut_at(&self, size: u64) -> Self {
        self.with(self.slice(0, size))
    }

    /// The blob with additional bytes at `at`.
    pub fn with_more_at(&self, at: u64) -> Self {
        let mut pieces = self.slice(0, at);
        pieces.push(Bytes::from_static(&[b'x'; 1000]));
        pieces.extend(self.slice(at, self.size()));
        self.with(pieces)
    }

    /// The blob with one byte flipped.
    pub fn flipped_at(&self, at: u64) -> Self {
        let mut pieces = self.slice(0, at);
        let right = self.slice(at, at + 1)[0][0];
        pieces.push(Bytes::from(vec![!right]));
        pieces.extend(self.slice(at + 1, self.size()));
        self.with(pieces)
    }

    /// Content of the same length with every byte wrong.
    pub fn all_wrong(&self) -> Self {
        self.with(vec![common().wrong.slice(..self.size() as usize)])
    }
}

#[test]
fn a_blob_has_the_digest_that_it_says_and_no_other_does() {
    let (one, other) = (Blob::new(SMALL), Blob::new(SMALL));
    let hash = |blob: &Blob| {
        let pieces = blob.slice(0, blob.size() + 1000);
        let hash = pieces.iter().fold(Sha256::new(), |hash, piece| hash.chain_update(piece));
        format!("sha256:{:x}", hash.finalize())
    };
    assert_eq!((hash(&one), one.size()), (one.digest.clone(), SMALL));
    assert_ne!(one.digest, other.digest);
    let lies = [one.cut_at(SMALL - 1), one.with_more_at(SMALL), one.flipped_at(0), one.flipped_at(SMALL - 1)];
    for lie in lies.iter().chain([&one.all_wrong()]) {
        assert_ne!(hash(lie), lie.digest);
    }
}
