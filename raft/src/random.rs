//! Random ids and nonces.

use std::fmt::Debug;

/// The source of a node's random numbers.
pub trait Random: Debug + Send + Sync + 'static {
    /// 128 random bits.
    fn bits(&self) -> u128;

    /// A random number that is not zero.
    fn nonzero(&self) -> u64 {
        (self.bits() as u64).max(1)
    }
}

/// The generator that the system has seeded.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn bits(&self) -> u128 {
        rand::random()
    }
}
