//! Deduplication: what a bucket has is not written again, every byte comes back as it went in, and nothing that lives is freed.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{TestStore, attributes, body, body_bytes, no_claims, payload};
use futures::{StreamExt as _, TryStreamExt as _};
use granary_crypto::MemoryKeyProvider;
use granary_drive::api::{DriveHealth, ShardStore as _};
use granary_meta::command::{BucketChange, CompletedPart, Condition};
use granary_meta::records::{PartPlace, Parts, Sse, Versioning};
use granary_meta::{BlockUsage, Proposer as _};
use granary_store::api::{
    BodyError, BodyIn, CompleteRequest, CopySource, CreateBucketRequest, CreateUploadRequest, DeleteRequest,
    GetRequest, ObjectStore as _, Portion, PutRequest, ReadCondition, Unlock,
};
use granary_store::dedup::{DEDUP, Dedup};
use granary_store::node::{Node, NodeOptions};
use granary_store::{HealMode, Store, StoreError, StoreOptions};
use granary_types::{BucketName, ObjectKey, RangeSpec, Scheme, SystemClock, VersionId};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const MIB: usize = 1 << 20;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn rule() -> Vec<u8> {
    serde_json::to_vec(&Dedup { block_bytes: MIB as u64 }).unwrap()
}

async fn ground() -> (TestStore, BucketName) {
    let test = TestStore::with(Scheme { k: 4, m: 2 }, 6).await;
    let bucket = BucketName::new("artefacts").unwrap();
    test.create_bucket(&bucket).await;
    let change = BucketChange::Document { name: DEDUP.to_owned(), value: Some(rule()) };
    test.store.change_bucket(&bucket, change).await.unwrap();
    (test, bucket)
}

fn usage(store: &Store, bucket: &BucketName) -> BlockUsage {
    store.block_usage().unwrap().into_iter().find(|(name, _)| name == bucket).map(|(_, usage)| usage).unwrap()
}

fn get(bucket: &BucketName, name: &str, version: Option<VersionId>, portion: Portion) -> GetRequest {
    let (bucket, key, condition) = (bucket.clone(), key(name), ReadCondition::default());
    GetRequest { bucket, key, version, portion, condition, unlock: Unlock::Plain }
}

async fn read(store: &Store, bucket: &BucketName, name: &str) -> Result<Vec<u8>, StoreError> {
    let (_, body) = store.get(get(bucket, name, None, Portion::Whole)).await?;
    Ok(body_bytes(body).await)
}

async fn delete(store: &Store, bucket: &BucketName, name: &str) {
    let (bucket, key, condition) = (bucket.clone(), key(name), Condition::default());
    store.delete(DeleteRequest { bucket, key, version: None, condition, bypass: false }).await.unwrap();
}

fn put_request(bucket: &BucketName, name: &str, size: usize, body: BodyIn) -> PutRequest {
    PutRequest {
        bucket: bucket.clone(),
        key: key(name),
        size_bytes: size as u64,
        attributes: attributes(),
        claims: no_claims(),
        condition: Condition::default(),
        customer_key: None,
        body,
    }
}

async fn upload(test: &TestStore, bucket: &BucketName, name: &str) -> granary_types::UploadId {
    let request = CreateUploadRequest {
        bucket: bucket.clone(),
        key: key(name),
        attributes: attributes(),
        checksum_algorithm: None,
        checksum_kind: None,
    };
    test.store.create_upload(request).await.unwrap().id
}

async fn complete(
    test: &TestStore,
    bucket: &BucketName,
    name: &str,
    upload: granary_types::UploadId,
    parts: &[(u16, String)],
) {
    let parts =
        parts.iter().map(|(number, etag)| CompletedPart { number: *number, etag: etag.clone(), checksum: None });
    let request = CompleteRequest {
        bucket: bucket.clone(),
        key: key(name),
        upload,
        parts: parts.collect(),
        checksum: None,
        size_bytes: None,
        condition: Condition::default(),
        customer_key: None,
    };
    test.store.complete_upload(request).await.unwrap();
}

/// Every shard is of a living part, and with nothing left there is none.
async fn nothing_is_left(test: &TestStore, bucket: &BucketName) {
    test.reap().await;
    // What a write that failed has left is freed beside it.
    for _ in 0..200 {
        if test.shards_count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(test.shards_count(), 0);
    assert_eq!(usage(&test.store, bucket), BlockUsage::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_not_written_again() {
    let (test, bucket) = ground().await;
    let first = payload(1, 12 * MIB);
    test.put(&bucket, "first", &first, Condition::default()).await.unwrap();
    let one = usage(&test.store, &bucket);
    assert_eq!((one.logical_bytes, one.stored_bytes), (first.len() as u64, first.len() as u64));
    assert!((5..30).contains(&one.blocks), "{one:?}");

    test.put(&bucket, "same", &first, Condition::default()).await.unwrap();
    test.copy(&bucket, "first", "copy").await.unwrap();
    let three = usage(&test.store, &bucket);
    assert_eq!(
        (three.logical_bytes, three.stored_bytes, three.blocks),
        (3 * one.logical_bytes, one.stored_bytes, one.blocks)
    );

    // Some bytes put in near the front: all that follows is found again.
    let moved = [b"a longer header".as_slice(), &first].concat();
    test.put(&bucket, "moved", &moved, Condition::default()).await.unwrap();
    let four = usage(&test.store, &bucket);
    assert!(four.stored_bytes - three.stored_bytes < 6 * MIB as u64, "{four:?}");

    for (name, expected) in [("first", &first), ("same", &first), ("copy", &first), ("moved", &moved)] {
        assert!(read(&test.store, &bucket, name).await.unwrap() == *expected, "{name}");
    }
    let mut etags = std::collections::BTreeSet::new();
    for name in ["first", "same", "copy"] {
        etags.insert(test.store.head(get(&bucket, name, None, Portion::Whole)).await.unwrap().object.etag);
    }
    assert_eq!(etags.len(), 1, "ETags are of the payload, as everywhere");

    for name in ["first", "copy"] {
        delete(&test.store, &bucket, name).await;
    }
    test.reap().await;
    assert!(read(&test.store, &bucket, "same").await.unwrap() == first);
    test.check_no_leaks(&bucket).await;
    for name in ["same", "moved"] {
        delete(&test.store, &bucket, name).await;
    }
    nothing_is_left(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_parts_and_copies_read_as_they_were_written() {
    let (mut test, bucket) = ground().await;
    let parts: Vec<Vec<u8>> =
        vec![payload(1, 6 * MIB + 17), payload(2, 5 * MIB), payload(1, 6 * MIB + 17), payload(3, 999)];
    let id = upload(&test, &bucket, "multi").await;
    let mut named = Vec::new();
    for (number, part) in (1u16..).zip(&parts) {
        let etag = test.upload_part(&bucket, "multi", id, number, part).await.unwrap().etag;
        named.push((number, etag));
    }
    // The same number again: what the first one used is given up.
    named[1].1 = test.upload_part(&bucket, "multi", id, 2, &parts[1]).await.unwrap().etag;
    complete(&test, &bucket, "multi", id, &named).await;
    let whole = parts.concat();
    let shared = usage(&test.store, &bucket);
    assert_eq!(
        shared.stored_bytes,
        (6 * MIB + 17 + 5 * MIB) as u64,
        "the third part is the first again, the last is too small"
    );

    // A copy of a range, as a part of another upload.
    let other = upload(&test, &bucket, "other").await;
    let source = CopySource {
        bucket: bucket.clone(),
        key: key("multi"),
        version: None,
        condition: ReadCondition::default(),
        range: Some((0, 6 * MIB as u64 + 16)),
        unlock: Unlock::Plain,
    };
    let part = test.store.upload_part_copy(source, &bucket, &key("other"), other, 1, None).await.unwrap().part;
    complete(&test, &bucket, "other", other, &[(1, part.etag)]).await;
    assert_eq!(usage(&test.store, &bucket).stored_bytes, shared.stored_bytes, "copied without a byte written");
    assert!(read(&test.store, &bucket, "other").await.unwrap() == parts[0]);

    for round in 0..2 {
        let mut at = 7u64;
        for _ in 0..40 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let first = at % whole.len() as u64;
            let last = (first + (at >> 33) % (3 * MIB as u64)).min(whole.len() as u64 - 1);
            let range = Portion::Range(RangeSpec::From { first, last: Some(last) });
            let (_, body) = test.store.get(get(&bucket, "multi", None, range)).await.unwrap();
            assert!(body_bytes(body).await == whole[first as usize..=last as usize], "{first}-{last}");
        }
        for (number, part) in (1u16..).zip(&parts) {
            let (_, body) = test.store.get(get(&bucket, "multi", None, Portion::Part(number))).await.unwrap();
            assert!(body_bytes(body).await == *part, "part {number}");
        }
        assert!(read(&test.store, &bucket, "multi").await.unwrap() == whole, "round {round}");
        test.reopen().await;
    }
    let aborted = upload(&test, &bucket, "aborted").await;
    test.upload_part(&bucket, "aborted", aborted, 1, &parts[1]).await.unwrap();
    test.store.abort_upload(&bucket, &key("aborted"), aborted).await.unwrap();
    test.reap().await;
    assert!(read(&test.store, &bucket, "multi").await.unwrap() == whole);
    test.check_no_leaks(&bucket).await;
    for name in ["multi", "other"] {
        delete(&test.store, &bucket, name).await;
    }
    nothing_is_left(&test, &bucket).await;
}

/// A body whose frames are given one by one.
fn told(frames: tokio::sync::mpsc::UnboundedReceiver<Result<Bytes, BodyError>>) -> BodyIn {
    futures::stream::unfold(frames, |mut frames| async move { frames.recv().await.map(|frame| (frame, frames)) })
        .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_keep_what_they_were_promised() {
    let (test, bucket) = ground().await;
    let bytes = payload(5, 9 * MIB);
    test.put(&bucket, "a", &bytes, Condition::default()).await.unwrap();

    // A reader that has begun, and an object that is deleted and reaped under it.
    let (_, mut reading) = test.store.get(get(&bucket, "a", None, Portion::Whole)).await.unwrap();
    let first = reading.next().await.unwrap().unwrap();

    // A writer that has found its blocks in it, and waits for the rest of its body.
    let (tell, frames) = tokio::sync::mpsc::unbounded_channel();
    let found = test.store.stats();
    let store = test.store.clone();
    let request = put_request(&bucket, "b", bytes.len(), told(frames));
    let writing = tokio::spawn(async move { store.put(request).await });
    tell.send(Ok(Bytes::copy_from_slice(&bytes[..8 * MIB]))).unwrap();
    while found.blocks_found_bytes.load(Ordering::Relaxed) < 3 * MIB as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    delete(&test.store, &bucket, "a").await;
    for _ in 0..3 {
        test.reap().await;
    }
    let rest: Vec<u8> = reading
        .try_fold(first.to_vec(), |mut all, frame| async move {
            all.extend_from_slice(&frame);
            Ok(all)
        })
        .await
        .unwrap();
    assert!(rest == bytes, "the reader ends well");
    for _ in 0..3 {
        test.reap().await;
    }
    tell.send(Ok(Bytes::copy_from_slice(&bytes[8 * MIB..]))).unwrap();
    drop(tell);
    writing.await.unwrap().unwrap();
    assert!(read(&test.store, &bucket, "b").await.unwrap() == bytes);
    delete(&test.store, &bucket, "b").await;
    nothing_is_left(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_fails_leaves_nothing() {
    let (test, bucket) = ground().await;
    let bytes = payload(6, 7 * MIB);
    // Cut short, broken off, too long, and given up in the middle.
    let short = put_request(&bucket, "x", bytes.len() + 1, body(&bytes));
    assert!(matches!(test.store.put(short).await, Err(StoreError::IncompleteBody { .. })));
    let broken = body(&bytes).chain(futures::stream::once(async { Err(BodyError::Read("gone".to_owned())) })).boxed();
    assert!(test.store.put(put_request(&bucket, "x", bytes.len() + 1, broken)).await.is_err());
    let long = put_request(&bucket, "x", bytes.len() - 1, body(&bytes));
    assert!(matches!(test.store.put(long).await, Err(StoreError::IncompleteBody { .. })));
    let (tell, frames) = tokio::sync::mpsc::unbounded_channel();
    let store = test.store.clone();
    let request = put_request(&bucket, "x", bytes.len(), told(frames));
    let writing = tokio::spawn(async move { store.put(request).await });
    let written = test.store.stats();
    let before = written.blocks_written_bytes.load(Ordering::Relaxed);
    tell.send(Ok(Bytes::copy_from_slice(&bytes[..6 * MIB]))).unwrap();
    while written.blocks_written_bytes.load(Ordering::Relaxed) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writing.abort();
    assert!(writing.await.is_err());
    nothing_is_left(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_the_same_bytes_share_them_in_the_end() {
    let (test, bucket) = ground().await;
    let bytes = payload(8, 6 * MIB);
    let test = Arc::new(test);
    let writers = (0..6).map(|n| {
        let (test, bucket, bytes) = (Arc::clone(&test), bucket.clone(), bytes.clone());
        tokio::spawn(async move { test.put(&bucket, &format!("w{n}"), &bytes, Condition::default()).await })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap().unwrap();
    }
    let shared = usage(&test.store, &bucket);
    assert_eq!((shared.logical_bytes, shared.stored_bytes), (36 * MIB as u64, 6 * MIB as u64));
    test.reap().await;
    test.check_no_leaks(&bucket).await;
    for n in 0..6 {
        assert!(read(&test.store, &bucket, &format!("w{n}")).await.unwrap() == bytes);
        delete(&test.store, &bucket, &format!("w{n}")).await;
        test.reap().await;
    }
    nothing_is_left(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_parts_like_any_other_to_drives_that_go_and_rot() {
    let (test, bucket) = ground().await;
    let bytes = payload(9, 5 * MIB);
    test.put(&bucket, "a", &bytes, Condition::default()).await.unwrap();
    test.put(&bucket, "b", &bytes, Condition::default()).await.unwrap();
    for i in [1, 4] {
        test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    }
    assert!(read(&test.store, &bucket, "a").await.unwrap() == bytes);
    // Written while two are away: degraded, and made whole later.
    let other = payload(10, 3 * MIB);
    test.drives[1].1.set_health(DriveHealth::Online);
    test.put(&bucket, "c", &other, Condition::default()).await.unwrap();
    test.drives[4].1.set_health(DriveHealth::Online);
    for (n, (_, drive)) in test.drives.iter().take(1).enumerate() {
        for (i, info) in drive.scan(None, 1000).await.unwrap().into_iter().enumerate() {
            assert!(drive.flip_bit(info.spec.shard, (i * 7919 + n * 104_729) % info.spec.shard_bytes as usize));
        }
    }
    for (name, expected) in [("a", &bytes), ("b", &bytes), ("c", &other)] {
        assert!(read(&test.store, &bucket, name).await.unwrap() == *expected, "{name}");
    }
    test.store.heal_now(HealMode::Deep).await.unwrap();
    let status = test.store.heal_status();
    assert!(status.finished && status.failed_parts == 0 && status.repaired_parts >= 5, "{status:?}");
    for i in [2, 3] {
        test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    }
    for (name, expected) in [("a", &bytes), ("b", &bytes), ("c", &other)] {
        assert!(read(&test.store, &bucket, name).await.unwrap() == *expected, "{name}, repaired");
    }
    for i in [2, 3] {
        test.drives[i].1.set_health(DriveHealth::Online);
    }
    for name in ["a", "b", "c"] {
        delete(&test.store, &bucket, name).await;
    }
    nothing_is_left(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_and_are_destroyed_as_everywhere() {
    let (test, bucket) = ground().await;
    let bytes = payload(11, 4 * MIB);
    test.put(&bucket, "old", &bytes, Condition::default()).await.unwrap();
    test.store.rotate_bucket_key(&bucket).await.unwrap();
    test.put(&bucket, "new", &bytes, Condition::default()).await.unwrap();
    let both = usage(&test.store, &bucket);
    assert_eq!(both.stored_bytes, 2 * bytes.len() as u64, "what is written after a rotation depends on no older key");
    for name in ["old", "new"] {
        assert!(read(&test.store, &bucket, name).await.unwrap() == bytes);
    }
    // Another bucket with the same bytes shares nothing with this one.
    let other = BucketName::new("another").unwrap();
    test.create_bucket(&other).await;
    let change = BucketChange::Document { name: DEDUP.to_owned(), value: Some(rule()) };
    test.store.change_bucket(&other, change).await.unwrap();
    test.put(&other, "a", &bytes, Condition::default()).await.unwrap();
    assert_eq!(usage(&test.store, &other).stored_bytes, bytes.len() as u64);
    test.store.destroy_bucket_key(&bucket).await.unwrap();
    for name in ["old", "new"] {
        assert!(read(&test.store, &bucket, name).await.is_err(), "shredded");
    }
    assert!(read(&test.store, &other, "a").await.unwrap() == bytes);
    for name in ["old", "new"] {
        delete(&test.store, &bucket, name).await;
    }
    delete(&test.store, &other, "a").await;
    nothing_is_left(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_bucket_key_alone_opens_is_shared() {
    let (test, bucket) = ground().await;
    test.store.create_kms_key("team").await.unwrap();
    let bytes = payload(12, 3 * MIB);
    let mut request = put_request(&bucket, "kms", bytes.len(), body(&bytes));
    request.attributes.sse = Sse::Kms { key_id: "team".to_owned(), context: None, bucket_key_enabled: false };
    test.store.put(request).await.unwrap();
    test.put(&bucket, "small", &bytes[..200_000], Condition::default()).await.unwrap();
    assert_eq!(usage(&test.store, &bucket), BlockUsage::default());
    let plain = BucketName::new("plain").unwrap();
    test.create_bucket(&plain).await;
    test.put(&plain, "a", &bytes, Condition::default()).await.unwrap();
    let index = test.meta.index().load().unwrap();
    let record = index.bucket(&plain).unwrap();
    let version = index.current(record.id, &key("a")).unwrap().unwrap();
    let Some(Parts::One(part)) = version.object().map(|object| &object.parts) else { panic!("one part") };
    assert!(matches!(part.place, PartPlace::Drives(_)), "off elsewhere");
}

/// What a bucket should hold: key → versions, oldest first.
type Model = BTreeMap<&'static str, Vec<(Option<VersionId>, Arc<Vec<u8>>)>>;

#[derive(Debug, Clone)]
enum Op {
    Put { key: usize, pieces: Vec<u64> },
    Copy { from: usize, to: usize },
    Multipart { key: usize, pieces: Vec<u64>, again: bool },
    Delete { key: usize },
    Versioning,
    Reap,
    Reopen,
    Range { key: usize, first: u64, len: u64 },
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    // Few different pieces, so that they meet again; some are shifted by what is put before them.
    let pieces = proptest::collection::vec(0u64..6, 1..4);
    prop_oneof![
        6 => (key.clone(), pieces.clone()).prop_map(|(key, pieces)| Op::Put { key, pieces }),
        2 => (key.clone(), key.clone()).prop_map(|(from, to)| Op::Copy { from, to }),
        2 => (key.clone(), pieces, any::<bool>()).prop_map(|(key, pieces, again)| Op::Multipart { key, pieces, again }),
        4 => key.clone().prop_map(|key| Op::Delete { key }),
        1 => Just(Op::Versioning),
        4 => Just(Op::Reap),
        1 => Just(Op::Reopen),
        3 => (key, any::<u64>(), 1u64..2_000_000).prop_map(|(key, first, len)| Op::Range { key, first, len }),
    ]
}

fn content(pieces: &[u64]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| payload(piece + 100, MIB / 2 + 300_000 * *piece as usize + 13)).collect()
}

struct World {
    test: TestStore,
    bucket: BucketName,
    versioned: bool,
    model: Model,
}

impl World {
    fn written(&mut self, key: &'static str, version: Option<VersionId>, bytes: Arc<Vec<u8>>) {
        let versions = self.model.entry(key).or_default();
        if !self.versioned {
            versions.clear();
        }
        versions.push((version, bytes));
    }

    async fn run(&mut self, op: &Op) {
        match op {
            Op::Put { key, pieces } => {
                let bytes = Arc::new(content(pieces));
                let done = self.test.put(&self.bucket, KEYS[*key], &bytes, Condition::default()).await.unwrap();
                self.written(KEYS[*key], done.version, bytes);
            }
            Op::Copy { from, to } => {
                let Some((_, bytes)) = self.model.get(KEYS[*from]).and_then(|versions| versions.last()).cloned() else {
                    return;
                };
                if from == to {
                    return;
                }
                let done = self.test.copy(&self.bucket, KEYS[*from], KEYS[*to]).await.unwrap();
                self.written(KEYS[*to], done.put.version, bytes);
            }
            Op::Multipart { key, pieces, again } => {
                let id = upload(&self.test, &self.bucket, KEYS[*key]).await;
                // Parts but the last have at least 5 MiB.
                let filler = payload(77, 5 * MIB);
                let parts = [[filler, content(pieces)].concat(), content(pieces)];
                let mut named = Vec::new();
                for (number, part) in (1u16..).zip(&parts) {
                    let mut etag = String::new();
                    for _ in 0..=usize::from(*again) {
                        etag = self.test.upload_part(&self.bucket, KEYS[*key], id, number, part).await.unwrap().etag;
                    }
                    named.push((number, etag));
                }
                complete(&self.test, &self.bucket, KEYS[*key], id, &named).await;
                let head = self.test.store.head(get(&self.bucket, KEYS[*key], None, Portion::Whole)).await.unwrap();
                self.written(KEYS[*key], head.version, Arc::new(parts.concat()));
            }
            Op::Delete { key } => {
                // The oldest version for good, or the object.
                let oldest = self.model.get(KEYS[*key]).and_then(|versions| versions.first()).cloned();
                let Some((version, _)) = oldest else { return };
                let (bucket, name) = (self.bucket.clone(), KEYS[*key]);
                let condition = Condition::default();
                let request = DeleteRequest { bucket, key: self::key(name), version, condition, bypass: false };
                self.test.store.delete(request).await.unwrap();
                let versions = self.model.entry(name).or_default();
                versions.remove(0);
                if versions.is_empty() {
                    self.model.remove(name);
                }
            }
            Op::Versioning if !self.versioned && self.model.is_empty() => {
                self.test
                    .store
                    .change_bucket(&self.bucket, BucketChange::Versioning(Versioning::Enabled))
                    .await
                    .unwrap();
                self.versioned = true;
            }
            Op::Versioning => {}
            Op::Reap => self.test.reap().await,
            Op::Reopen => self.test.reopen().await,
            Op::Range { key, first, len } => {
                let Some((version, bytes)) = self.model.get(KEYS[*key]).and_then(|versions| versions.first()) else {
                    return;
                };
                let first = first % bytes.len() as u64;
                let last = (first + len - 1).min(bytes.len() as u64 - 1);
                let range = Portion::Range(RangeSpec::From { first, last: Some(last) });
                let (_, body) = self.test.store.get(get(&self.bucket, KEYS[*key], *version, range)).await.unwrap();
                assert!(body_bytes(body).await == bytes[first as usize..=last as usize]);
            }
        }
    }

    async fn check(&self) {
        for (key, versions) in &self.model {
            for (version, bytes) in versions {
                let (_, body) = self.test.store.get(get(&self.bucket, key, *version, Portion::Whole)).await.unwrap();
                assert!(body_bytes(body).await == **bytes, "{key} {version:?}");
            }
        }
        self.test.reap().await;
        self.test.check_no_leaks(&self.bucket).await;
    }
}

#[test]
fn generated_sequences_read_as_written_and_leave_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = proptest::test_runner::Config { cases: 8, max_shrink_iters: 40, ..Default::default() };
    let result = TestRunner::new(config).run(&proptest::collection::vec(op(), 8..30), |ops| {
        runtime.block_on(async {
            let (test, bucket) = ground().await;
            let mut world = World { test, bucket, versioned: false, model: Model::new() };
            for op in &ops {
                world.run(op).await;
            }
            world.check().await;
            while !world.model.is_empty() {
                for key in 0..KEYS.len() {
                    world.run(&Op::Delete { key }).await;
                }
            }
            nothing_is_left(&world.test, &world.bucket).await;
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_shared_objects_through_crashes_and_rebuilds_them_from_the_shards_alone() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let keys = Arc::new(MemoryKeyProvider::generate());
    let options = || NodeOptions {
        drives: (0..6).map(|i| root.path().join(format!("drive{i}"))).collect(),
        segment_bytes: 8 << 20,
        reserve_bytes: 1 << 20,
        log_file_bytes: 2 << 20,
        store: StoreOptions {
            scheme: Scheme { k: 4, m: 2 },
            garbage_quarantine: Duration::ZERO,
            orphan_grace: Duration::ZERO,
            ..StoreOptions::default()
        },
        ..NodeOptions::default()
    };
    let open = |options| Node::open(options, Arc::clone(&keys) as _, Arc::new(SystemClock));
    let bucket = BucketName::new("artefacts").unwrap();
    let node = open(options()).await.unwrap();
    let request = CreateBucketRequest {
        name: bucket.clone(),
        owner: "tester".to_owned(),
        region: None,
        options: granary_meta::records::BucketOptions::default(),
        documents: BTreeMap::from([(DEDUP.to_owned(), rule())]),
    };
    node.store().create_bucket(request).await.unwrap();
    let first = payload(21, 5 * MIB);
    let second = [&first[..4 * MIB], &payload(22, MIB)].concat();
    for (name, bytes) in [("first", &first), ("second", &second)] {
        node.store().put(put_request(&bucket, name, bytes.len(), body(bytes))).await.unwrap();
    }
    let shared = usage(node.store(), &bucket);
    assert!(shared.stored_bytes < shared.logical_bytes, "{shared:?}");
    drop(node); // as in a crash
    let node = open(options()).await.unwrap();
    assert_eq!(usage(node.store(), &bucket), shared);
    for (name, bytes) in [("first", &first), ("second", &second)] {
        assert!(read(node.store(), &bucket, name).await.unwrap() == *bytes, "{name}");
    }
    node.close().await.unwrap();
    drop(node);
    for i in 0..6 {
        std::fs::remove_dir_all(root.path().join(format!("drive{i}/meta"))).unwrap();
    }
    assert!(open(options()).await.is_err());
    for i in 0..6 {
        let _ = std::fs::remove_dir_all(root.path().join(format!("drive{i}/meta")));
    }
    let node = open(NodeOptions { accept_lost_metadata: true, ..options() }).await.unwrap();
    let report = node.rebuild_index(false).await.unwrap();
    assert_eq!((report.objects, report.lost_parts), (2, 0), "{report:?}");
    assert_eq!(usage(node.store(), &bucket), shared, "shared as before");
    for (name, bytes) in [("first", &first), ("second", &second)] {
        assert!(read(node.store(), &bucket, name).await.unwrap() == *bytes, "{name}, rebuilt");
    }
    node.close().await.unwrap();
}
