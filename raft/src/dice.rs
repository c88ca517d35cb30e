//! The one source of this crate's random choices: ids and nonces.

/// 128 random bits; a simulation repeats them by its seed.
pub(crate) fn bits() -> u128 {
    #[cfg(test)]
    if let Some(bits) = crate::sim::world::bits() {
        return bits;
    }
    rand::random()
}

/// Random, and not zero.
pub(crate) fn nonzero() -> u64 {
    (bits() as u64).max(1)
}
