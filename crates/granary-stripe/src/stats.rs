//! What is counted, and how damage is told to those who repair.

use std::sync::atomic::{AtomicU64, Ordering};

use granary_drive::api::DriveError;
use granary_types::{DriveNo, PartId};

/// What is wrong with a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DamageKind {
    /// A checksum, a tag or a record did not match.
    Corrupt,
    /// The drive is there and does not have the shard.
    Lost,
    /// The drive could not read it.
    Unreadable,
}

/// Damage found on the way: to be queued for repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageReport {
    /// The part.
    pub part: PartId,
    /// Which of its shards.
    pub index: u8,
    /// On which drive.
    pub drive: DriveNo,
    /// What is wrong.
    pub kind: DamageKind,
    /// The drive's words, or ours.
    pub why: String,
}

/// What a drive's error says about a shard; `None` where it speaks of the drive and not of the shard.
#[must_use]
pub const fn damage_kind(error: &DriveError) -> Option<DamageKind> {
    match error {
        DriveError::Corrupt { .. } | DriveError::Format(_) => Some(DamageKind::Corrupt),
        DriveError::NotFound(_) => Some(DamageKind::Lost),
        DriveError::Io { .. } | DriveError::Invalid(_) => Some(DamageKind::Unreadable),
        DriveError::Exists(_) | DriveError::Full { .. } | DriveError::Poisoned { .. } | DriveError::Offline { .. } => {
            None
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since start; for metrics.
        #[derive(Debug, Default)]
        pub struct StripeStats { $($(#[$doc])* pub $name: AtomicU64,)* }

        impl StripeStats {
            /// Names and values.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Parts committed.
    parts_written,
    /// Parts committed with shards missing.
    parts_written_degraded,
    /// Writes given up: too few drives, or an error.
    parts_aborted,
    /// Shards given up while their part was written.
    shards_failed,
    /// Reads of a run of chunks.
    runs_read,
    /// Reads for which parity was asked too, because the drive was slow.
    runs_hedged,
    /// Hedged reads that parity answered first.
    runs_hedge_won,
    /// Reads that had to be rebuilt from other shards.
    runs_rebuilt,
    /// Chunks rebuilt because their tag failed.
    chunks_rebuilt,
    /// Damaged shards found (each time they are met).
    damage_found,
    /// Shards written by repair.
    shards_repaired,
    /// Bytes written by repair.
    repaired_bytes,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
