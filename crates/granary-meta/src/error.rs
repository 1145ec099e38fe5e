//! What can go wrong in the metadata. Refusals of the state machine are not errors: they are outcomes
//! ([`crate::command::Refusal`]).

use std::path::PathBuf;
use std::sync::Arc;

use granary_types::ErrorKind;

/// Errors of the log, the index and the checkpoints.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// The proposal queue is full: try again.
    #[error("the metadata log's queue is full")]
    Busy,
    /// No log mirror is up, or the index is being restored; says which. Nothing was applied, unless the
    /// proposal was already in the log when the index failed (then it is applied once that is back).
    #[error("metadata unavailable: {0}")]
    Unavailable(String),
    /// The store was closed.
    #[error("the metadata store is closed")]
    Closed,
    /// The encoded command is over the limit.
    #[error("the command has {have_bytes} bytes encoded, {max_bytes} are allowed")]
    TooLarge {
        /// Encoded size.
        have_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// RocksDB answered an error.
    #[error("index: {0}")]
    Index(#[from] rocksdb::Error),
    /// A record in the index does not decode.
    #[error("index record in `{family}` does not decode: {why}")]
    Record {
        /// Column family.
        family: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The log is damaged in a way that no mirror can repair.
    #[error("the log is damaged: {0}")]
    LogDamaged(String),
    /// A checkpoint file is damaged.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The folders do not hold what they should (foreign log, nothing where something is expected).
    #[error("{0}")]
    Layout(String),
    /// What the operating system answered.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
}

impl MetaError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source: Arc::new(source) }
    }

    /// The small kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy | Self::Unavailable(_) | Self::Closed => ErrorKind::Unavailable,
            Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Index(_) | Self::Record { .. } | Self::LogDamaged(_) | Self::Checkpoint(_) => ErrorKind::Corrupt,
            Self::Layout(_) | Self::Io { .. } => ErrorKind::Internal,
        }
    }

    /// Whether this says that the live index itself is unusable, so that it should be restored elsewhere.
    #[must_use]
    pub const fn is_index_failure(&self) -> bool {
        matches!(self, Self::Index(_) | Self::Record { .. })
    }
}

/// The result of metadata calls.
pub type Result<T> = std::result::Result<T, MetaError>;
