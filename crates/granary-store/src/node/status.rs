//! What a node tells of itself, as JSON for the admin port.

use granary_drive::api::{DriveHealth, DriveSpace};
use granary_types::{ClusterId, DriveId, Scheme};
use serde::Serialize;

/// A node's state.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// The cluster it is, or belongs to.
    pub cluster: String,
    /// Scheme of new parts.
    pub scheme: String,
    /// Region.
    pub region: String,
    /// How drive I/O is done (`io_uring` or `threads`), and why.
    pub io: String,
    /// Its drives, in the order of their numbers.
    pub drives: Vec<DriveStatus>,
    /// Drives that may be lost before data is.
    pub drives_spare: i64,
    /// The state of repair.
    pub heal: HealStatus,
    /// What recovery found when the node started.
    pub recovery: Vec<String>,
    /// Buckets.
    pub buckets: usize,
}

/// A drive's state.
#[derive(Debug, Clone, Serialize)]
pub struct DriveStatus {
    /// Number in the drive table.
    pub number: u16,
    /// Identity.
    pub id: String,
    /// Folder, where this node has it open.
    pub path: Option<String>,
    /// Health.
    pub health: DriveHealth,
    /// Space.
    pub space: DriveSpace,
    /// Taken out of use for good.
    pub retired: bool,
}

/// How far a repair of the whole node has come.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HealStatus {
    /// A walk is running.
    pub running: bool,
    /// It reads and checks every shard, not just placements.
    pub deep: bool,
    /// The last walk came to its end.
    pub finished: bool,
    /// Parts looked at in this walk.
    pub examined_parts: u64,
    /// Parts made whole.
    pub repaired_parts: u64,
    /// Shards written by repair.
    pub written_shards: u64,
    /// Bytes written by repair.
    pub written_bytes: u64,
    /// Parts that could not be made whole; they stay in the next walk.
    pub failed_parts: u64,
    /// Parts with shards on drives that are down and not retired: whole again when those come back, or when they are replaced.
    pub waiting_parts: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// Damage reports waiting for repair.
    pub queued: usize,
}

/// What a drive scrub found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ScrubStatus {
    /// Drive number.
    pub drive: u16,
    /// A scrub is running.
    pub running: bool,
    /// Shards read.
    pub checked_shards: u64,
    /// Bytes read.
    pub checked_bytes: u64,
    /// Shards with damage, each queued for repair.
    pub damaged_shards: u64,
}

/// The text form of ids in status answers.
pub(crate) fn id_text(id: DriveId) -> String {
    id.to_string()
}

/// A fresh status.
pub(crate) fn empty(cluster: ClusterId, scheme: Scheme, region: &str, io: &str) -> NodeStatus {
    NodeStatus {
        cluster: cluster.to_string(),
        scheme: scheme.to_string(),
        region: region.to_owned(),
        io: io.to_owned(),
        drives: Vec::new(),
        drives_spare: 0,
        heal: HealStatus::default(),
        recovery: Vec::new(),
        buckets: 0,
    }
}
