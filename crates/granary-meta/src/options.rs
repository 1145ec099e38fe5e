//! What a metadata store is opened with, and what opening it found.

use std::path::PathBuf;
use std::sync::Arc;

use granary_types::{Clock, DriveId, SystemClock};

use crate::index::IndexOptions;

/// A 32-byte key. Its debug form shows nothing; it is wiped when dropped.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct MetaKey(pub [u8; 32]);

impl std::fmt::Debug for MetaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetaKey(..)")
    }
}

/// A folder on a drive that may hold a log mirror, checkpoints, and the live index. The store keeps to the
/// sub-folders `log`, `checkpoint` and `index` of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorFolder {
    /// The drive's identity.
    pub drive_id: DriveId,
    /// The folder.
    pub path: PathBuf,
}

/// How a metadata store is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// One folder per drive, preferred ones first. The first `mirrors` usable ones hold the log and the
    /// checkpoints; the others stand by.
    pub folders: Vec<MirrorFolder>,
    /// Copies of the log and of each checkpoint: `m + 1`.
    pub mirrors: usize,
    /// Seals the log and the checkpoint manifests.
    pub log_key: MetaKey,
    /// Seals the index's files; `None` leaves them to `index.env`.
    pub index_key: Option<MetaKey>,
    /// Memory and files of the index.
    pub index: IndexOptions,
    /// Bytes of one log file.
    pub log_file_bytes: u64,
    /// A frame takes no further command once it has so many payload bytes.
    pub frame_bytes_soft: usize,
    /// Commands waiting at most; more are refused with `Busy`.
    pub queue_commands_max: usize,
    /// Encoded bytes waiting at most.
    pub queue_bytes_max: usize,
    /// A checkpoint is begun when so many bytes were logged since the last.
    pub checkpoint_log_bytes: u64,
    /// Complete checkpoints kept; the log reaches back to the oldest.
    pub checkpoints_kept: usize,
    /// Where command times come from.
    pub clock: Arc<dyn Clock>,
    /// Refuse to begin an empty store (set once the cluster has been formatted, so that unmounted drives
    /// are not taken for new ones).
    pub expect_existing: bool,
    /// Open even if the log is damaged or ends before what the index has applied: commands may be lost. For the last resort.
    pub accept_log_loss: bool,
}

impl OpenOptions {
    /// The defaults, for `folders` with `mirrors` copies.
    #[must_use]
    pub fn new(folders: Vec<MirrorFolder>, mirrors: usize, log_key: MetaKey, index_key: Option<MetaKey>) -> Self {
        Self {
            folders,
            mirrors,
            log_key,
            index_key,
            index: IndexOptions::default(),
            log_file_bytes: 64 << 20,
            frame_bytes_soft: 1 << 20,
            queue_commands_max: 16_384,
            queue_bytes_max: 64 << 20,
            checkpoint_log_bytes: 256 << 20,
            checkpoints_kept: 2,
            clock: Arc::new(SystemClock),
            expect_existing: false,
            accept_log_loss: false,
        }
    }
}

/// Where the index came from when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IndexSource {
    /// Nothing was there: an empty one was begun.
    #[default]
    Fresh,
    /// The live index on this drive.
    Live(DriveId),
    /// A checkpoint on this drive, at this position.
    Checkpoint(DriveId, u64),
    /// Neither live index nor checkpoint: the whole log from its first command.
    Log,
}

/// What opening a store found and did.
#[derive(Debug, Clone, Default)]
pub struct RecoveryReport {
    /// Where the index came from.
    pub index: IndexSource,
    /// Frames read from the log.
    pub frames: u64,
    /// Commands of the log applied to the index.
    pub replayed: u64,
    /// Position of the last command.
    pub last_position: u64,
    /// A torn frame (never acknowledged) was cut off the end.
    pub torn_tail: bool,
    /// Copies of log files that were missing or damaged and were written anew, per drive.
    pub repaired: Vec<(DriveId, u64)>,
    /// The drives that hold the log now.
    pub mirrors: Vec<DriveId>,
    /// What was wrong and worked around, in words.
    pub problems: Vec<String>,
}
