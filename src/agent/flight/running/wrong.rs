//! What a node does about wrong bytes: it verifies what its containerd has fetched before it gives the last byte away, has
//! the servers end the attempt of bytes that are wrong, and forgets bytes of an attempt that has ended.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::{ChildEnd, Flight, Role};
use crate::agent::content::buffer_pool::BufferPool;
use crate::limits::{FLIGHT_PROGRESS_TIMEOUT, VERIFIED_WHOLE_BYTES_MAX};

impl Flight {
    /// The number of the attempt that the bytes here are of; 0 if it is not known.
    pub(crate) fn attempt(&self) -> u64 {
        self.entered().unwrap_or_default()
    }

    /// The number of the attempt that the bytes here are of, if it is known.
    pub(crate) fn entered(&self) -> Option<u64> {
        self.state().attempt
    }

    /// Whether the bytes are kept when their attempt ends: containerd has them already, and they may be right.
    pub(crate) fn keeps_bytes(&self) -> bool {
        self.growing.total() > VERIFIED_WHOLE_BYTES_MAX
    }

    /// Learns that the attempt has this number now. Returns whether that fits the bytes that a request has received here,
    /// `have_bytes` of them: if not, they are of an attempt that has ended.
    pub(crate) fn enter(&self, attempt: u64, have_bytes: u64) -> bool {
        let mut state = self.state();
        match state.attempt {
            Some(own) if own >= attempt => return true,
            Some(_) if have_bytes > 0 => return self.keeps_bytes(),
            Some(_) => {
                self.growing.begin_again();
                state.end_children(ChildEnd::Wrong);
            }
            None => {}
        }
        state.attempt = Some(attempt);
        true
    }

    /// Notes that containerd writes the blob to `ingest`, and that a request receives it.
    pub(in crate::agent::flight) fn begins_anew(&self, ingest: File) {
        self.growing.ingested_in(ingest);
        self.growing.forget_spool();
        let mut state = self.state();
        (state.is_wrong, state.written) = (false, (0, Instant::now()));
    }

    /// Forgets the bytes, which are of an attempt that has ended. The children learn it.
    pub(in crate::agent::flight) fn leave_attempt(&self) {
        self.growing.begin_again();
        let mut state = self.state();
        (state.attempt, state.is_wrong) = (None, false);
        state.end_children(ChildEnd::Wrong);
    }

    /// Verifies a small blob that containerd has fetched, if all of it is there and nobody has. Returns whether its bytes
    /// are found to be wrong, which one caller is told.
    ///
    /// # Errors
    /// The file could not be read.
    pub(crate) async fn verify(&self, pool: &BufferPool) -> io::Result<bool> {
        if self.growing.to_verify().is_none() {
            return Ok(false);
        }
        let _one_at_a_time = self.verifying.lock().await;
        let Some(ingest) = self.growing.to_verify().filter(|_| !self.state().is_wrong) else {
            return Ok(false);
        };
        let is_right = self.growing.verify(Arc::clone(&ingest), &self.digest, pool).await?;
        if !self.growing.is_written_to(&ingest) {
            return Ok(false);
        }
        if is_right {
            self.growing.is_right();
        } else {
            self.state().is_wrong = true;
        }
        Ok(!is_right)
    }

    /// Notes that the bytes here are wrong: they are given to no further node. The servers are told next.
    pub(in crate::agent::flight) fn accuse(&self) {
        let attempt = {
            let mut state = self.state();
            state.is_wrong = true;
            state.attempt.unwrap_or_default()
        };
        self.accused.send_replace(Some(attempt));
    }

    /// The attempt of which the servers are to learn that its bytes are wrong, as they are here.
    pub(in crate::agent::flight) fn accused(&self) -> Option<u64> {
        *self.accused.borrow()
    }

    /// Notes that the servers were told: from now on the children find the next attempt.
    pub(in crate::agent::flight) fn was_accused(&self) {
        {
            let mut state = self.state();
            state.end_children(ChildEnd::Wrong);
            if !matches!(state.role, Role::Seeks { .. } | Role::Receives { .. }) {
                (state.is_registered, state.depth) = (false, 0);
                state.becomes(Role::Idle);
            }
        }
        self.accused.send_replace(None);
    }

    /// Waits until the servers were told that the bytes here are wrong, or do not answer.
    pub(in crate::agent::flight) async fn until_accused(&self) {
        let mut accused = self.accused.subscribe();
        _ = timeout(FLIGHT_PROGRESS_TIMEOUT, accused.wait_for(Option::is_none)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{KNOWN, admitted, applicant, holder};
    use super::super::{Answer, Growing};
    use super::*;
    use crate::oci::Digest;

    fn fetcher(bytes: &[u8]) -> (Arc<Flight>, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let growing = Growing::new(4, Some(file.reopen().unwrap()));
        (Arc::new(Flight::new(Digest::of(b"0123"), growing, Role::Fetches { begun_at: 0 })), file)
    }

    #[tokio::test]
    async fn what_containerd_has_fetched_counts_as_complete_once_it_is_verified() {
        let pool = BufferPool::default();
        for (bytes, is_wrong, expected) in
            [(&b"012"[..], false, 3), (b"0123", false, 4), (b"x123", true, 3), (b"012x", true, 3)]
        {
            let (flight, _file) = fetcher(bytes);
            assert_eq!(flight.have_bytes(), 3, "{bytes:?}");
            assert_eq!(flight.verify(&pool).await.unwrap(), is_wrong, "{bytes:?}");
            assert_eq!(flight.have_bytes(), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_has_wrong_bytes_gives_them_to_nobody_and_its_children_leave_once_the_servers_know() {
        let (flight, file) = fetcher(b"x123");
        let child = admitted(&flight, 1);
        flight.accuse();
        assert!(flight.accused() == Some(0) && child.end().is_none());
        assert!(matches!(flight.apply(&applicant(2), KNOWN), Answer::Elsewhere(_)));
        flight.was_accused();
        assert_eq!((child.end(), flight.role()), (Some(ChildEnd::Wrong), Role::Idle));
        flight.begins_anew(file.reopen().unwrap());
        flight.becomes(Role::Fetches { begun_at: 0 }, 0);
        admitted(&flight, 2);
    }

    #[test]
    fn a_node_with_bytes_of_an_attempt_that_has_ended_has_to_begin_again() {
        let flight = holder();
        assert!(flight.enter(2, 5), "it is the first one that it hears of");
        let child = admitted(&flight, 1);
        assert!(!flight.enter(3, 5) && flight.attempt() == 2 && child.end().is_none());
        assert!(flight.enter(1, 5), "of a server that does not know");
        flight.leave_attempt();
        assert_eq!((child.end(), flight.attempt()), (Some(ChildEnd::Wrong), 0));
        assert!(flight.enter(2, 0) && flight.enter(3, 0) && flight.attempt() == 3);
        let growing = Growing::new(VERIFIED_WHOLE_BYTES_MAX + 1, None);
        let large = Flight::new(Digest::of(b"x"), growing, Role::Seeks { asks: None });
        assert!(large.enter(2, 5) && large.enter(3, 5) && large.attempt() == 2, "it keeps them");
        assert!(large.enter(3, 0) && large.attempt() == 3);
    }
}
