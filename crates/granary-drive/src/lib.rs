//! One drive: segments, io_uring, group commit, recovery, reclaim, scrub. Row 1; the only crate with `unsafe`.
//!
//! A drive keeps *shards*: opaque sealed bytes with a self-describing header. It knows nothing of S3, of keys
//! that open anything, or of other drives. [`api`] is the contract, and `docs/format/drive.md` what lies on disk.

pub mod api;
pub mod buf;
pub mod io;
pub mod limits;
pub mod raw;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use api::{
    DriveError, DriveHealth, DriveSpace, Result, ShardInfo, ShardSpec, ShardStore, ShardWriter, VerifyReport,
};
pub use buf::{AlignedBuf, AlignedBytes, BufPool};
