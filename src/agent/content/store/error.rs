//! Why a store could not do what it was asked. Plain data: an error may come from the process that holds the
//! store, so that the words of the system, or of a daemon, come as text.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

/// What a store can fail with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The daemon or folder behind the store does not answer; it may come back.
    #[error("could not reach {store}")]
    Unreachable {
        /// Socket or folder.
        store: String,
        /// Why it could not be reached.
        #[source]
        cause: StoreCause,
    },
    /// The store cannot do what it was asked.
    #[error("could not {action}")]
    Failed {
        /// What was tried.
        action: Cow<'static, str>,
        /// Why it did not work.
        #[source]
        cause: StoreCause,
    },
    /// A watch can no longer vouch for having seen everything.
    #[error("could not go on watching")]
    WatchLost(#[from] WatchLost),
}

impl StoreError {
    pub(crate) fn failed(action: &'static str, cause: StoreCause) -> Self {
        Self::Failed { action: action.into(), cause }
    }

    /// Whether the daemon behind the store has ended, as far as this error tells, or does not answer.
    pub(crate) fn is_of_lost_daemon(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::WatchLost(WatchLost::EventsEnded))
    }

    /// A file system error.
    pub(crate) fn io(action: &'static str, error: &io::Error) -> Self {
        Self::failed(action, StoreCause::said(error))
    }
}

/// Why a call of a store did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreCause {
    /// What the system, or the daemon behind the store, said.
    #[error("{words}")]
    Said {
        /// The message.
        words: String,
    },
    /// The daemon took longer than it may.
    #[error("no answer within {seconds} s")]
    NoAnswer {
        /// How long it had.
        seconds: u64,
    },
    /// A file is not the content that the daemon knows.
    #[error("its file has {file_bytes} bytes, containerd says {known_bytes}")]
    SizeMismatch {
        /// Length of the file.
        file_bytes: u64,
        /// Length of the content.
        known_bytes: u64,
    },
    /// Not a name that containerd takes for a namespace.
    #[error("{namespace:?} is not one")]
    NotANamespace {
        /// What was given.
        namespace: String,
    },
    /// A file of a layout cannot be read.
    #[error("could not read {}: {words}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the parser said.
        words: String,
    },
    /// A file of a layout is larger than any that is read.
    #[error("{} has {size_bytes} bytes, the limit is {limit_bytes}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        size_bytes: u64,
        /// The longest that is read.
        limit_bytes: u64,
    },
}

impl StoreCause {
    /// The message of an error whose type stays in the process of the store.
    pub(crate) fn said(error: &dyn std::error::Error) -> Self {
        Self::Said { words: error.to_string() }
    }
}

/// Why a watch cannot vouch for having seen everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchLost {
    /// More happened than the system keeps.
    #[error("the notification queue overflowed")]
    Overflow,
    /// The system gives no more notifications.
    #[error("file notifications failed: {words}")]
    Notifications {
        /// What the system said.
        words: String,
    },
    /// The notifications of a folder ended.
    #[error("the file notifications ended")]
    NotificationsEnded,
    /// A folder that was just made cannot be watched or listed.
    #[error("could not watch a new folder: {words}")]
    NewFolder {
        /// What the system said.
        words: String,
    },
    /// A watched folder is gone.
    #[error("{} was removed", path.display())]
    Removed {
        /// The folder.
        path: PathBuf,
    },
    /// Bytes are read elsewhere from now on.
    #[error("the content folder is another now")]
    OtherFolder,
    /// The folder was no layout when the watch was set.
    #[error("it is a complete image layout now")]
    BecameComplete,
    /// containerd has closed its stream of events.
    #[error("containerd ended the event stream")]
    EventsEnded,
    /// An event of containerd cannot be decoded.
    #[error("unreadable event of containerd: {words}")]
    UnreadableEvent {
        /// What the decoder said.
        words: String,
    },
    /// The stream of the watch ended without a reason.
    #[error("the watch ended without a reason")]
    Silent,
}
