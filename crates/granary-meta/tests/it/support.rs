//! What the tests share: records to write, a clock that is turned by hand, stores in temporary folders.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::executor::block_on;
use granary_meta::command::{Command, CompletedPart, Condition, Outcome};
use granary_meta::records::{
    Attributes, BucketOptions, BucketRecord, EtagMode, ObjectRecord, PartPlace, PartRecord, Parts, UploadRecord,
    Versioning,
};
use granary_meta::{MemoryProposer, MetaKey, MetaStore, MirrorFolder, OpenOptions, Proposer, RecoveryReport};
use granary_types::{
    BucketId, BucketName, Clock, DriveId, DriveNo, ObjectKey, PartId, Placement, Scheme, Timestamp, UploadId,
    VersionId, WrappedKey,
};

/// A clock that ticks a millisecond per reading, or stands where it is put.
#[derive(Debug, Default)]
pub struct HandClock(pub AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1000, Ordering::SeqCst))
    }
}

#[derive(Debug, Clone)]
pub struct SharedClock(pub Arc<HandClock>);

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

pub fn clock() -> SharedClock {
    SharedClock(Arc::new(HandClock(AtomicU64::new(1_000_000_000_000))))
}

pub fn memory() -> (MemoryProposer, SharedClock) {
    let clock = clock();
    (MemoryProposer::new(Arc::new(clock.clone())).unwrap(), clock)
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

pub fn name(text: &str) -> BucketName {
    BucketName::new(text).unwrap()
}

pub fn bucket_record(id: u64, text: &str, versioning: Versioning, options: BucketOptions) -> BucketRecord {
    BucketRecord {
        id: BucketId(id),
        name: name(text),
        created: Timestamp(1),
        owner: "owner".to_owned(),
        region: "eu-central-1".to_owned(),
        key: WrappedKey(vec![1, 2, 3]),
        versioning,
        options,
        documents: Default::default(),
        frozen: Vec::new(),
    }
}

pub fn make_bucket(p: &dyn Proposer, id: u64, versioning: Versioning, options: BucketOptions) -> BucketId {
    let record = bucket_record(id, &format!("bucket-{id}"), versioning, options);
    assert_eq!(propose(p, Command::CreateBucket(Box::new(record))), Outcome::Done);
    BucketId(id)
}

pub fn part_id(n: u64) -> PartId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    PartId(id)
}

pub fn upload_id(n: u64) -> UploadId {
    UploadId(part_id(n).0)
}

pub fn etag(n: u64) -> String {
    format!("{n:032x}")
}

pub fn placement() -> Placement {
    Placement { scheme: Scheme { k: 1, m: 1 }, drives: vec![DriveNo(0), DriveNo(1)], missing: 0 }
}

pub fn part(n: u64, size: u64, place: PartPlace) -> PartRecord {
    PartRecord {
        id: part_id(n),
        payload_bytes: size,
        key: WrappedKey(vec![9; 40]),
        place,
        etag: etag(n),
        checksum: None,
        created: Timestamp(5),
    }
}

pub fn object(n: u64, size: u64) -> ObjectRecord {
    ObjectRecord {
        size_bytes: size,
        etag: etag(n),
        checksum: None,
        parts: Parts::One(Box::new(part(n, size, PartPlace::Drives(placement())))),
        attributes: Attributes::default(),
    }
}

pub fn put(bucket: BucketId, text: &str, n: u64, size: u64) -> Command {
    Command::PutVersion {
        bucket,
        key: key(text),
        object: Box::new(object(n, size)),
        inline: None,
        nonce: n.to_be_bytes(),
        condition: Condition::default(),
    }
}

pub fn put_inline(bucket: BucketId, text: &str, n: u64, payload: &[u8]) -> Command {
    let mut record = object(n, payload.len() as u64);
    record.parts = Parts::One(Box::new(part(n, payload.len() as u64, PartPlace::Inline)));
    Command::PutVersion {
        bucket,
        key: key(text),
        object: Box::new(record),
        inline: Some(Bytes::copy_from_slice(payload)),
        nonce: n.to_be_bytes(),
        condition: Condition::default(),
    }
}

pub fn with_condition(command: Command, condition: Condition) -> Command {
    match command {
        Command::PutVersion { bucket, key, object, inline, nonce, .. } => {
            Command::PutVersion { bucket, key, object, inline, nonce, condition }
        }
        Command::DeleteObject { bucket, key, nonce, bypass, .. } => {
            Command::DeleteObject { bucket, key, nonce, condition, bypass }
        }
        other => panic!("{other:?} has no condition"),
    }
}

pub fn delete(bucket: BucketId, text: &str, n: u64) -> Command {
    Command::DeleteObject {
        bucket,
        key: key(text),
        nonce: n.to_be_bytes(),
        condition: Condition::default(),
        bypass: false,
    }
}

pub fn delete_version(bucket: BucketId, text: &str, version: VersionId) -> Command {
    Command::DeleteVersion { bucket, key: key(text), version, condition: Condition::default(), bypass: false }
}

pub fn create_upload(bucket: BucketId, text: &str, upload: u64, created: u64) -> Command {
    Command::CreateUpload {
        bucket,
        upload: Box::new(UploadRecord {
            id: upload_id(upload),
            key: key(text),
            created: Timestamp(created),
            attributes: Attributes::default(),
            checksum_algorithm: None,
            checksum_kind: None,
            etag: EtagMode::Md5,
        }),
    }
}

pub fn put_part(bucket: BucketId, text: &str, upload: u64, number: u16, n: u64, size: u64) -> Command {
    Command::PutPart {
        bucket,
        key: key(text),
        upload: upload_id(upload),
        number,
        part: Box::new(part(n, size, PartPlace::Drives(placement()))),
        inline: None,
    }
}

pub fn complete(bucket: BucketId, text: &str, upload: u64, parts: &[(u16, u64)]) -> Command {
    Command::CompleteUpload {
        bucket,
        key: key(text),
        upload: upload_id(upload),
        parts: parts.iter().map(|(n, e)| CompletedPart { number: *n, etag: etag(*e), checksum: None }).collect(),
        checksum: None,
        size_bytes: None,
        nonce: upload.to_be_bytes(),
        condition: Condition::default(),
    }
}

pub fn propose(p: &dyn Proposer, command: Command) -> Outcome {
    block_on(p.propose(command)).unwrap()
}

pub fn version_of(outcome: Outcome) -> VersionId {
    match outcome {
        Outcome::Put { version, .. } => version,
        Outcome::Deleted { version: Some(version), .. } => version,
        other => panic!("no version in {other:?}"),
    }
}

/// Drive `n`'s folder in `dir`.
pub fn folder(dir: &Path, n: u8) -> MirrorFolder {
    MirrorFolder { drive_id: DriveId([n + 1; 16]), path: dir.join(format!("drive{n}")) }
}

/// A small store over `drives` folders, `mirrors` of them used.
pub fn options(dir: &Path, drives: u8, mirrors: usize) -> OpenOptions {
    let folders = (0..drives).map(|n| folder(dir, n)).collect();
    let mut options = OpenOptions::new(folders, mirrors, MetaKey([3; 32]), Some(MetaKey([4; 32])));
    options.index.cache_bytes = 8 << 20;
    options.index.memtable_bytes = 4 << 20;
    options.log_file_bytes = 256 << 10;
    options.clock = Arc::new(clock());
    options
}

pub fn open(dir: &Path, drives: u8, mirrors: usize) -> (MetaStore, RecoveryReport) {
    MetaStore::open(options(dir, drives, mirrors)).unwrap()
}

pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
