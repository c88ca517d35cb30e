//! A second level, with a second version of every format and one new command: what upgrades are tested with
//! before there is a release to upgrade to.
//!
//! It is compiled for this crate's tests and with the feature `next-format`, which only dev-dependencies name.
//! A server of such a build still is the one that is released, unless the variable [`VARIABLE`] is set in a
//! build with debug assertions; a release build has neither.

use std::cell::Cell;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// Makes a server of a test build one of the next build.
pub const VARIABLE: &str = "TEST_PICCOLO_NEXT_FORMAT";

/// The version of every format of the next build, whose bytes have a sum behind them.
pub(super) const SEALED: u16 = 3;
/// First bytes of a SHA-256.
const SEAL_BYTES: usize = 4;

thread_local! {
    static ON_THIS_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread one of the next build, or not, until it is set again.
pub fn set_on_this_thread(next: bool) {
    ON_THIS_THREAD.set(next);
}

/// This thread is one of the next build until the guard is dropped.
pub fn on_this_thread() -> impl Drop {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            set_on_this_thread(false);
        }
    }
    set_on_this_thread(true);
    Back
}

/// Whether this is the next build.
pub(crate) fn is_chosen() -> bool {
    if ON_THIS_THREAD.get() {
        return true;
    }
    static BY_VARIABLE: LazyLock<bool> =
        LazyLock::new(|| cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some());
    *BY_VARIABLE
}

/// Puts the sum behind bytes of such a version, which begin with it.
pub(super) fn sealed(version: u16, mut bytes: Vec<u8>) -> Vec<u8> {
    if version == SEALED {
        let sum = Sha256::digest(&bytes[2..]);
        bytes.extend(&sum[..SEAL_BYTES]);
    }
    bytes
}

/// The bytes in front of the sum, if it is right.
pub(super) fn unseal(version: u16, body: &[u8]) -> Option<&[u8]> {
    if version != SEALED {
        return Some(body);
    }
    let (body, sum) = body.split_at_checked(body.len().checked_sub(SEAL_BYTES)?)?;
    (Sha256::digest(body)[..SEAL_BYTES] == *sum).then_some(body)
}
