//! tokio's watch channel. In tests it is one that wakes its waiters in their order: tokio wakes them in
//! the order of dice that nobody can seed.

#[cfg(test)]
pub(crate) use crate::sim::watch::{Receiver, Sender};
#[cfg(not(test))]
pub(crate) use tokio::sync::watch::{Receiver, Sender};
