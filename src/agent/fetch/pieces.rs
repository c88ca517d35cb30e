//! Pieces of bodies that are kept for a while, and the memory that they take: a piece is a part of the buffer
//! that it was read into, and keeps all of it.

use bytes::Bytes;

use crate::limits::FILE_CHUNK_BYTES;

/// A piece to be kept. A small one is copied, so that it does not keep all of its buffer.
pub(crate) fn compact(piece: Bytes) -> Bytes {
    if is_small(&piece) { Bytes::copy_from_slice(&piece) } else { piece }
}

/// Memory that a piece keeps once it went through [`compact`], bytes.
pub(crate) fn kept_bytes(piece: &Bytes) -> usize {
    if is_small(piece) { piece.len() } else { piece.len().max(FILE_CHUNK_BYTES) }
}

fn is_small(piece: &Bytes) -> bool {
    piece.len() < FILE_CHUNK_BYTES / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_piece_is_copied_and_a_large_one_counts_with_its_buffer() {
        let buffer = Bytes::from(vec![0; FILE_CHUNK_BYTES]);
        for (length, is_copied) in [(FILE_CHUNK_BYTES / 4 - 1, true), (FILE_CHUNK_BYTES / 4, false)] {
            let piece = compact(buffer.slice(..length));
            assert_eq!(piece.as_ptr() != buffer.as_ptr(), is_copied, "{length}");
            assert_eq!(kept_bytes(&piece), if is_copied { length } else { FILE_CHUNK_BYTES });
        }
    }
}
