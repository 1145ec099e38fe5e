//! How the index lays its records out in RocksDB: column families and keys. `docs/format/index.md` is the
//! page for it; every key sorts as its listing needs. Object keys hold no NUL byte (`ObjectKey` refuses it), so
//! a NUL ends a key inside a longer one without any escaping and keeps UTF-8 byte order.

use granary_types::{BucketId, DriveNo, ObjectKey, PartId, Timestamp, UploadId, VersionId};

use crate::records::BlockName;

/// A column family of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Applied position, format, usage counters, remembered completions, system records.
    Sys,
    /// Bucket id → `BucketRecord`.
    Buckets,
    /// Bucket ‖ key → the newest `VersionRecord`.
    Current,
    /// Bucket ‖ key ‖ NUL ‖ !created ‖ version → older `VersionRecord`s, newest first.
    Versions,
    /// Bucket ‖ key → creation time of the null version, where that lies in `Versions`.
    Nulls,
    /// Part id → sealed chunk.
    Inline,
    /// Bucket ‖ key ‖ NUL ‖ created ‖ upload → `UploadRecord`.
    Uploads,
    /// Upload ‖ number → `PartRecord`; number 0 → where the upload is (`UploadHead`).
    Parts,
    /// Manifest ‖ position → `PartRecord`.
    Manifests,
    /// Part id → `PartRef`.
    PartRefs,
    /// Since ‖ part id → nothing (the `PartRef` says the rest).
    Garbage,
    /// Drive number → `DriveEntry`.
    Drives,
    /// Last sequence number → chain head and records of the audit events that one command brought and that are not sealed yet.
    Audit,
    /// Target ‖ NUL ‖ sequence → `EventRecord`s on their way out.
    Events,
    /// Part id → `BlockRecord`.
    Blocks,
    /// Bucket ‖ name → part id of the block.
    BlockNames,
    /// Since ‖ part id → nothing: blocks without a use.
    IdleBlocks,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Sys,
        Self::Buckets,
        Self::Current,
        Self::Versions,
        Self::Nulls,
        Self::Inline,
        Self::Uploads,
        Self::Parts,
        Self::Manifests,
        Self::PartRefs,
        Self::Garbage,
        Self::Drives,
        Self::Audit,
        Self::Events,
        Self::Blocks,
        Self::BlockNames,
        Self::IdleBlocks,
    ];

    /// RocksDB's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sys => "sys",
            Self::Buckets => "buckets",
            Self::Current => "current",
            Self::Versions => "versions",
            Self::Nulls => "nulls",
            Self::Inline => "inline",
            Self::Uploads => "uploads",
            Self::Parts => "parts",
            Self::Manifests => "manifests",
            Self::PartRefs => "part_refs",
            Self::Garbage => "garbage",
            Self::Drives => "drives",
            Self::Audit => "audit",
            Self::Events => "events",
            Self::Blocks => "blocks",
            Self::BlockNames => "block_names",
            Self::IdleBlocks => "idle_blocks",
        }
    }
}

/// `sys`: index of the last applied command, u64 LE.
pub(crate) const SYS_APPLIED: &[u8] = b"applied";
/// `sys`: identity of the log that built this index, 16 bytes.
pub(crate) const SYS_LOG_ID: &[u8] = b"log-id";
/// `sys`: format version, u32 LE.
pub(crate) const SYS_FORMAT: &[u8] = b"format";

/// `sys`: how far the audit trail is sealed (`AuditSealed`).
pub(crate) const SYS_AUDIT_SEALED: &[u8] = b"audit-sealed";

fn tagged(tag: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(tag.len() + rest.iter().map(|r| r.len()).sum::<usize>());
    key.extend_from_slice(tag);
    rest.iter().for_each(|r| key.extend_from_slice(r));
    key
}

/// `sys`: a bucket's usage counters.
pub(crate) fn usage_key(bucket: BucketId) -> Vec<u8> {
    tagged(b"u/", &[&bucket.0.to_be_bytes()])
}

/// `sys`: prefix of system records.
pub(crate) const SYSTEM_PREFIX: &[u8] = b"s/";

/// `sys`: a named system record.
pub(crate) fn system_key(name: &str) -> Vec<u8> {
    tagged(SYSTEM_PREFIX, &[name.as_bytes()])
}

/// `sys`: what a completed upload was answered.
pub(crate) fn completion_key(upload: UploadId) -> Vec<u8> {
    tagged(b"c/", &[&upload.0])
}

/// `sys`: number of completions remembered.
pub(crate) const COMPLETION_COUNT: &[u8] = b"completions";

/// `sys`: prefix of the queue of completions, oldest first.
pub(crate) const COMPLETION_QUEUE: &[u8] = b"q/";

/// `sys`: a completion's place in the queue.
pub(crate) fn completion_queue_key(at: Timestamp, upload: UploadId) -> Vec<u8> {
    tagged(COMPLETION_QUEUE, &[&at.0.to_be_bytes(), &upload.0])
}

/// `sys`: sequence number of the last event, u64.
pub(crate) const EVENT_SEQUENCE: &[u8] = b"events";

/// `sys`: prefix of the queues of events.
pub(crate) const EVENT_QUEUES: &[u8] = b"e/";

/// `sys`: what is known of a target's queue.
pub(crate) fn event_queue_key(target: &str) -> Vec<u8> {
    tagged(EVENT_QUEUES, &[target.as_bytes()])
}

/// `events`: what all of a target's begin with.
pub(crate) fn event_prefix(target: &str) -> Vec<u8> {
    tagged(target.as_bytes(), &[&[0]])
}

/// `events`.
pub(crate) fn event_key(target: &str, sequence: u64) -> Vec<u8> {
    tagged(target.as_bytes(), &[&[0], &sequence.to_be_bytes()])
}

/// `sys`: number of the last event of a key whose upstream does not have its last change yet.
pub(crate) fn unwritten_key(bucket: BucketId, key: &str) -> Vec<u8> {
    tagged(b"w/", &[&bucket.0.to_be_bytes(), key.as_bytes()])
}

/// `sys`: what a client token stood for.
pub(crate) fn token_key(digest: &[u8; 16]) -> Vec<u8> {
    tagged(b"t/", &[digest])
}

/// `sys`: number of client tokens remembered.
pub(crate) const TOKEN_COUNT: &[u8] = b"tokens";

/// `sys`: prefix of the queue of client tokens, oldest first.
pub(crate) const TOKEN_QUEUE: &[u8] = b"T/";

/// `sys`: a client token's place in the queue.
pub(crate) fn token_queue_key(at: Timestamp, digest: &[u8; 16]) -> Vec<u8> {
    tagged(TOKEN_QUEUE, &[&at.0.to_be_bytes(), digest])
}

/// `buckets`.
pub(crate) fn bucket_key(bucket: BucketId) -> [u8; 8] {
    bucket.0.to_be_bytes()
}

/// `current` and `nulls`.
pub(crate) fn object_key(bucket: BucketId, key: &str) -> Vec<u8> {
    tagged(&bucket.0.to_be_bytes(), &[key.as_bytes()])
}

/// `versions` and `uploads`: what all entries of a key begin with.
pub(crate) fn group_prefix(bucket: BucketId, key: &str) -> Vec<u8> {
    tagged(&bucket.0.to_be_bytes(), &[key.as_bytes(), &[0]])
}

/// `versions`.
pub(crate) fn version_key(bucket: BucketId, key: &str, created: Timestamp, version: VersionId) -> Vec<u8> {
    tagged(&bucket.0.to_be_bytes(), &[key.as_bytes(), &[0], &(!created.0).to_be_bytes(), &version.0])
}

/// `uploads`.
pub(crate) fn upload_key(bucket: BucketId, key: &str, created: Timestamp, upload: UploadId) -> Vec<u8> {
    tagged(&bucket.0.to_be_bytes(), &[key.as_bytes(), &[0], &created.0.to_be_bytes(), &upload.0])
}

/// `parts`; number 0 is the upload's head.
pub(crate) fn part_key(upload: UploadId, number: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(&upload.0);
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// `manifests`.
pub(crate) fn manifest_key(manifest: UploadId, position: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&manifest.0);
    key[16..].copy_from_slice(&position.to_be_bytes());
    key
}

/// `sys`: what a bucket's parts made of shared blocks hold.
pub(crate) fn block_usage_key(bucket: BucketId) -> Vec<u8> {
    tagged(b"d/", &[&bucket.0.to_be_bytes()])
}

/// `block_names`.
pub(crate) fn block_name_key(bucket: BucketId, name: &BlockName) -> Vec<u8> {
    tagged(&bucket.0.to_be_bytes(), &[name])
}

/// `garbage` and `idle_blocks`.
pub(crate) fn garbage_key(since: Timestamp, part: PartId) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&since.0.to_be_bytes());
    key[8..].copy_from_slice(&part.0);
    key
}

/// `drives`.
pub(crate) fn drive_key(drive: DriveNo) -> [u8; 2] {
    drive.0.to_be_bytes()
}

/// The first byte string that sorts after everything beginning with `prefix`; `None` when there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The object key of a `current` entry.
pub(crate) fn key_of_object(entry: &[u8]) -> Option<&str> {
    std::str::from_utf8(entry.get(8..)?).ok()
}

/// The object key of a `versions` or `uploads` entry.
pub(crate) fn key_of_group(entry: &[u8]) -> Option<&str> {
    let end = entry.len().checked_sub(25)?;
    std::str::from_utf8(entry.get(8..end)?).ok()
}

/// The key as a validated name; the index only ever holds such.
pub(crate) fn owned_key(text: &str) -> Option<ObjectKey> {
    ObjectKey::new(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn after_prefix_is_tight() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff\xff"), None);
    }

    proptest! {
        #[test]
        fn groups_sort_as_their_keys(a in "[a-c!\u{1}é]{1,4}", b in "[a-c!\u{1}é]{1,4}", x: u64, y: u64) {
            let bucket = BucketId(7);
            let key = |k: &str, t| version_key(bucket, k, Timestamp(t), VersionId([3; 16]));
            if a != b {
                prop_assert_eq!(key(&a, x).cmp(&key(&b, y)), a.cmp(&b));
            } else {
                prop_assert_eq!(key(&a, x).cmp(&key(&b, y)), y.cmp(&x));
            }
            let entry = key(&a, x);
            prop_assert_eq!(key_of_group(&entry), Some(a.as_str()));
        }
    }
}
