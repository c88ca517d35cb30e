//! What must hold of a long posting list.

use super::*;

impl<T: Id> Chunks<T> {
    /// What must hold after every change.
    pub(in super::super) fn assert_whole(&self, context: &str) {
        assert_eq!(
            (self.chunks.len(), self.chunks.len()),
            (self.firsts.len(), self.starts.len()),
            "{context}"
        );
        let mut start = 0;
        for (chunk, ids) in self.chunks.iter().enumerate() {
            assert!(!ids.is_empty() && ids.len() <= CHUNK_HOSTS_MAX, "{context}");
            assert!(ids[0] == self.firsts[chunk] && self.starts[chunk] == start, "{context}");
            start += ids.len() as u32;
        }
    }
}
