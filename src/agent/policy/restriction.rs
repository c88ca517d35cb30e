//! Restrictions of content, and the small keys by which they are kept for all content.

use std::ops::BitOrAssign;

use crate::oci::Digest;

/// What must not be served. With several names the strictest applies, which is the union of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restriction {
    /// The content must not be served if it is a manifest or index.
    pub(crate) manifests: bool,
    /// The content must not be served if it is anything else.
    pub(crate) blobs: bool,
}

impl Restriction {
    pub(crate) const ALL: Self = Self { manifests: true, blobs: true };

    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether this adds nothing to `other`.
    pub(super) fn is_within(self, other: Self) -> bool {
        (!self.manifests || other.manifests) && (!self.blobs || other.blobs)
    }

    /// Whether it depends on the kind of the content.
    pub(super) fn is_partial(self) -> bool {
        self.manifests != self.blobs
    }

    /// Whether content must not be served. While its kind is not known, a partial restriction forbids it.
    pub(super) fn forbids(self, is_manifest: Option<bool>) -> bool {
        match is_manifest {
            Some(true) => self.manifests,
            Some(false) => self.blobs,
            None => !self.is_none(),
        }
    }
}

impl BitOrAssign for Restriction {
    fn bitor_assign(&mut self, other: Self) {
        self.manifests |= other.manifests;
        self.blobs |= other.blobs;
    }
}

/// The first 32 bytes of a digest: a quarter of the size of its text, for about 20,000 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(digest: &Digest) -> Self {
        let nibble = |hex: u8| if hex <= b'9' { hex - b'0' } else { hex - b'a' + 10 };
        let hex = digest.hex().as_bytes();
        Self(std::array::from_fn(|i| nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_beginning_of_its_digest() {
        let digest: Digest = format!("sha512:0af9{}", "0".repeat(124)).parse().unwrap();
        assert_eq!(Key::of(&digest).0[..3], [0x0a, 0xf9, 0]);
        assert_ne!(Key::of(&Digest::of(b"a")), Key::of(&Digest::of(b"b")));
    }

    #[test]
    fn together_the_strictest_holds() {
        let manifests = Restriction { manifests: true, blobs: false };
        let mut both = Restriction { manifests: false, blobs: true };
        assert!(!both.forbids(Some(true)) && both.forbids(Some(false)) && both.forbids(None));
        assert!(both.is_partial() && !manifests.is_within(both) && !Restriction::default().forbids(None));
        both |= manifests;
        assert_eq!(both, Restriction::ALL);
        assert!(manifests.is_within(both) && Restriction::default().is_none());
    }
}
