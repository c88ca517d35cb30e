//! The failed attempts of one call.

use std::time::Duration;

use hyper::StatusCode;

use super::answer::Answer;
use super::{Attempt, ClientError};

/// The failed attempts of one call.
#[derive(Default)]
pub(super) struct Failures {
    attempts: Vec<Attempt>,
    /// Status, retry time and fullness of the last 5xx.
    unavailable: Option<(StatusCode, Option<Duration>, bool)>,
}

impl Failures {
    /// Returns the answer, unless it failed or is a 5xx, which is recorded.
    pub(super) fn unless_failed(&mut self, server: &str, result: Result<Answer, String>) -> Option<Answer> {
        let reason = match result {
            Ok(answer) if answer.is_of_something_else() => answer.of_something_else(),
            Ok(answer) if !answer.status.is_server_error() => return Some(answer),
            Ok(answer) => {
                self.unavailable = Some((answer.status, answer.retry_after, answer.index_full));
                format!("{} {}", answer.status, answer.message())
            }
            Err(reason) => reason,
        };
        self.note(server, reason);
        None
    }

    /// Adds an attempt. A single server that was asked twice is listed once.
    fn note(&mut self, server: &str, reason: String) {
        match self.attempts.iter_mut().find(|attempt| attempt.server == server) {
            Some(attempt) => attempt.reason = reason,
            None => self.attempts.push(Attempt { server: server.to_owned(), reason }),
        }
    }

    /// Adds an attempt without an answer in this time.
    pub(super) fn silent(&mut self, server: &str, time: Duration) {
        let reason = format!("no answer within {} ms", time.as_millis());
        self.note(server, reason);
    }

    /// Adds servers that could not be asked.
    pub(super) fn add(&mut self, attempts: Vec<Attempt>) {
        self.attempts.extend(attempts);
    }

    pub(super) fn into_error(self) -> ClientError {
        let servers = self.attempts;
        match self.unavailable {
            Some((status, retry_after, index_full)) => {
                ClientError::Unavailable { status, retry_after, index_full, servers }
            }
            None => ClientError::Unreachable { servers },
        }
    }
}
