//! Ids, names, checksums, sizes, time, limits and framing. Row 0: no I/O, no other Granary crate.
//!
//! One word per thing, as `docs/ARCHITECTURE.md` defines them: *bucket, key, version, part, chunk,
//! stripe, block, shard, segment, extent, placement, command, log, index*.

pub mod audit;
pub mod checksum;
pub mod date;
pub mod error;
pub mod frame;
pub mod hex;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod md5;
pub mod names;
pub mod placement;
pub mod range;
pub mod time;

pub use audit::{AuditOutcome, AuditRecord, Head};
pub use checksum::{Checksum, ChecksumAlgorithm, ChecksumHasher, ChecksumKind};
pub use error::ErrorKind;
pub use ids::{BucketId, ClusterId, DriveId, NodeId, PartId, ShardId, UploadId, VersionId};
pub use keys::WrappedKey;
pub use names::{BucketName, ObjectKey};
pub use placement::{DriveNo, PartLocation, Placement, Scheme};
pub use range::{ByteRange, RangeSpec};
pub use time::{Clock, SystemClock, Timestamp};
