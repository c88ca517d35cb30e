//! What must hold of a short posting list, and what it takes.

use super::*;

impl Small {
    /// Size of the ids on the heap, bytes.
    pub(in super::super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// What must hold after every change.
    pub(in super::super) fn assert_whole(&self, context: &str) {
        assert_eq!(self.is_wide(), !self.ids().all(is_narrow), "{context}");
    }
}
