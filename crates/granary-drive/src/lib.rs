//! One drive: segments, io_uring, group commit, recovery, reclaim, scrub. Row 1; the only crate with `unsafe`.
//!
//! A drive keeps *shards*: opaque sealed bytes with a self-describing header. It knows nothing of S3, of keys
//! that open anything, or of other drives. [`api`] is the contract, and `docs/format/drive.md` what lies on disk.

pub mod api;
pub mod buf;
mod chores;
pub mod clock;
mod core;
pub mod drive;
#[doc(hidden)]
pub mod fuzzing;
mod header;
pub mod identity;
mod index;
pub mod io;
pub mod limits;
pub mod raw;
mod reader;
mod reclaim;
mod recover;
pub mod rocks;
pub mod scrub;
mod space;
pub mod stats;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod writer;

#[cfg(test)]
mod tests;

pub use api::{
    DriveError, DriveHealth, DriveSpace, Result, ShardInfo, ShardSpec, ShardStore, ShardWriter, VerifyReport,
};
pub use buf::{AlignedBuf, AlignedBytes, BufPool};
pub use drive::{LocalDrive, OpenOptions};
pub use recover::RecoveryReport;
pub use rocks::sealed_env;
pub use stats::DriveStats;
