//! Layered configuration: a flag wins over its environment variable, that over the file of `--config`, that
//! over the default. A setting has one name: `--listen`, `PICCOLO_LISTEN` and `listen = …` are the same. All
//! mistakes are reported together.

mod agent;
mod file;
mod layers;
mod logging;
mod registry;
mod server;
mod setting;

pub(crate) use agent::WITHOUT_COUNTERPART;
pub use agent::{AGENT, agent, agent_of};
pub use layers::{Given, Layers, unknown_environment};
pub use logging::{LOGGING, LogFormat, Logging, logging};
pub use server::{CLUSTER_SECRET, DISK_FREE_MIN, SERVER, server};
pub use setting::{Fallback, Setting};

use std::fmt;

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the mistake is: `--listen`, `PICCOLO_LISTEN` or `listen in /etc/piccolo.toml`.
    pub place: String,
    /// The given value; `None` if there is none.
    pub value: Option<String>,
    /// The expected value, or the rest of the sentence if there is no value.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: invalid value {value:?}: expected {}", self.place, self.expected),
            None => write!(f, "{}: {}", self.place, self.expected),
        }
    }
}

/// All mistakes in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{only}"),
            all => {
                write!(f, "{} mistakes in the configuration:", all.len())?;
                all.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests;
