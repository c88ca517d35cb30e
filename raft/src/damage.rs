//! Damaged files: found out before anything is done with them, and told in words for the operator.
//!
//! redb answers most damage with an error, and some with a panic (an assertion on what no file that it
//! wrote can hold). Both must end in the same message. A panic while a file is read says something of
//! the file, not of this program, so it is caught here, and stays out of the log as what it is.
//!
//! redb verifies the checksums of its pages only after a crash. A bit that flips in a file that was
//! closed in order would be read as it is: one character of a key in the log, and two servers apply
//! different entries. So [`open`] verifies the pages where redb did not. That reads the whole file,
//! like the repair after a crash does.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use redb::{Builder, Database, DatabaseError, StorageError};

use crate::disk::Disk;
use crate::format::FormatError;

/// For every message about a file that is damaged or lost.
pub(crate) const WHAT_TO_DO: &str = "empty the data folder, start again, and let the server take its own old \
    place (piccolo members replace): the others bring it everything; a server that was alone is brought back \
    by piccolo snapshot restore";

/// What a thread does with a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// Nothing that is looked after.
    None,
    /// Reads one that may be damaged: whatever panics, it is the file.
    Unknown,
    /// Uses one that was found whole: a panic of this crate is a defect of ours.
    Whole,
}

thread_local! {
    static GUARD: Cell<Guard> = const { Cell::new(Guard::None) };
    /// What panicked last was code of this crate.
    static OWN_PANIC: Cell<bool> = const { Cell::new(false) };
}

/// Where the code of this crate lies, as panics name it.
fn is_own(file: &str) -> bool {
    file!().strip_suffix("damage.rs").is_some_and(|folder| file.starts_with(folder))
}

fn catch<T>(guard: Guard, work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let own = info.location().is_some_and(|place| is_own(place.file()));
            OWN_PANIC.set(own);
            match GUARD.get() {
                Guard::Unknown => {}
                Guard::Whole if !own => {}
                Guard::None | Guard::Whole => before(info),
            }
        }));
    });
    let outside = GUARD.replace(guard);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    GUARD.set(outside);
    done
}

/// Runs `work`, which reads a file for the first time; its panic becomes the error, and is not printed.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch(Guard::Unknown, work).map_err(|payload| text(payload.as_ref()))
}

/// Like [`guarded`], for work on a file that was found whole when it was opened. A panic of this crate's own code
/// goes on: operators must not be told to throw their data away because of it.
pub(crate) fn guarded_in_use<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch(Guard::Whole, work).map_err(|payload| {
        if OWN_PANIC.get() {
            panic::resume_unwind(payload);
        }
        text(payload.as_ref())
    })
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    // The values that an assertion compares come in further lines.
    text.and_then(|text| text.lines().next()).unwrap_or("its pages do not fit together").to_owned()
}

/// Opens a redb file, all of whose pages are verified then. Call it [`guarded`].
pub(crate) fn open(
    disk: &dyn Disk,
    name: &'static str,
    cache_bytes: usize,
) -> Result<Database, DatabaseError> {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    let repaired = Arc::new(AtomicBool::new(false));
    let noted = repaired.clone();
    builder.set_repair_callback(move |_| {
        if !noted.swap(true, Ordering::Relaxed) {
            tracing::info!(
                file = name,
                "the file was not closed in order (a crash, a power cut): all of it is read and checked \
                 first"
            );
        }
    });
    let mut database = disk.database(name, builder)?;
    if !repaired.load(Ordering::Relaxed) && !database.check_integrity()? {
        tracing::warn!(
            file = name,
            "the list of free pages did not match the file and was rebuilt; no data was lost"
        );
    }
    Ok(database)
}

/// Whether redb says that the file is damaged, or none of its own: its words.
pub(crate) fn of_open(error: &DatabaseError) -> Option<String> {
    match error {
        DatabaseError::Storage(error) => of_storage(error),
        DatabaseError::UpgradeRequired(version) => {
            Some(format!("it has version {version} of redb's own format, which this build does not read"))
        }
        _ => None,
    }
}

/// Whether redb says of any other call that the file is damaged: its words.
pub(crate) fn of_call(error: &redb::Error) -> Option<String> {
    match error {
        redb::Error::Corrupted(reason) => Some(reason.clone()),
        redb::Error::Io(error) => of_io(error),
        // Its tables have other types than ours, or are not there.
        redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => Some(error.to_string()),
        _ => None,
    }
}

/// Tells of damage that was found while the file was in use.
pub(crate) fn found(name: &'static str, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged ({reason}): {WHAT_TO_DO}"))
}

/// Turns an error that came up by itself into the one of [`found`], if it tells of damage.
pub(crate) fn of_work(name: &'static str, error: io::Error) -> io::Error {
    let Some(inner) = error.get_ref() else { return error };
    let by_format = |error: &FormatError| match error {
        FormatError::Damaged { .. } => Some(error.to_string()),
        FormatError::Newer { .. } | FormatError::Older { .. } => None,
    };
    let reason = (inner.downcast_ref::<redb::Error>().and_then(of_call))
        .or_else(|| inner.downcast_ref::<StorageError>().and_then(of_storage))
        .or_else(|| inner.downcast_ref::<FormatError>().and_then(by_format));
    reason.map_or(error, |reason| found(name, &reason))
}

fn of_storage(error: &StorageError) -> Option<String> {
    match error {
        StorageError::Corrupted(reason) => Some(reason.clone()),
        StorageError::Io(error) => of_io(error),
        _ => None,
    }
}

fn of_io(error: &io::Error) -> Option<String> {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error.kind() {
        InvalidData => Some("it is no redb file".to_owned()),
        UnexpectedEof => Some("it is cut".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod mutations;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_first_line_and_others_stay_what_they_are() {
        assert_eq!(guarded(|| 7), Ok(7));
        let found: Result<(), String> = guarded(|| panic!("page 3 is odd\nleft: 1"));
        assert_eq!(found, Err("page 3 is odd".to_owned()));
        assert!(GUARD.get() == Guard::None, "only what is guarded is silent");
    }

    #[test]
    fn a_defect_of_ours_is_not_taken_for_damage_of_a_file_in_use() {
        let defect = || -> Result<(), String> { guarded_in_use(|| panic!("a defect, on purpose")) };
        let told = panic::catch_unwind(defect).expect_err("goes on as a panic");
        assert_eq!(text(told.as_ref()), "a defect, on purpose");
        // As redb panics when a page is not what it should be: in code that is not ours.
        let page: &[u8] = &[];
        let found = guarded_in_use(|| bytes::Buf::get_u64(&mut { page }));
        assert!(found.is_err(), "{found:?}");
    }
}
