//! A whole node on real folders: first start, restart, lost and replaced drives, lost metadata.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{attributes, body, body_bytes, no_claims, payload};
use granary_crypto::MemoryKeyProvider;
use granary_meta::command::Condition;
use granary_store::api::{
    CreateBucketRequest, GetRequest, ListRequest, ObjectStore as _, Portion, PutRequest, ReadCondition, Unlock,
};
use granary_store::node::{Node, NodeError, NodeOptions};
use granary_store::{Store, StoreError, StoreOptions};
use granary_types::{BucketName, Clock, ObjectKey, Scheme, SystemClock, Timestamp};

const SIZES: [usize; 5] = [10, 16_000, 60_000, 700_000, 3_000_000];

fn options(root: &Path, drives: usize, scheme: Scheme) -> NodeOptions {
    NodeOptions {
        drives: (0..drives).map(|i| root.join(format!("drive{i}"))).collect(),
        segment_bytes: 8 << 20,
        reserve_bytes: 1 << 20,
        log_file_bytes: 2 << 20,
        store: StoreOptions {
            scheme,
            garbage_quarantine: Duration::ZERO,
            orphan_grace: Duration::ZERO,
            ..StoreOptions::default()
        },
        ..NodeOptions::default()
    }
}

async fn open(options: NodeOptions, keys: &Arc<MemoryKeyProvider>) -> Result<Node, NodeError> {
    Node::open(options, Arc::clone(keys) as _, Arc::new(SystemClock)).await
}

async fn fill(store: &Store, bucket: &BucketName) {
    let request = CreateBucketRequest {
        name: bucket.clone(),
        owner: "tester".to_owned(),
        region: None,
        options: granary_meta::records::BucketOptions::default(),
        documents: std::collections::BTreeMap::new(),
    };
    store.create_bucket(request).await.unwrap();
    for (seed, size) in SIZES.into_iter().enumerate() {
        let bytes = payload(seed as u64, size);
        let request = PutRequest {
            bucket: bucket.clone(),
            key: ObjectKey::new(format!("o{seed}")).unwrap(),
            size_bytes: size as u64,
            attributes: attributes(),
            claims: no_claims(),
            condition: Condition::default(),
            customer_key: None,
            body: body(&bytes),
        };
        store.put(request).await.unwrap();
    }
}

async fn read(store: &Store, bucket: &BucketName, key: &str) -> Result<Vec<u8>, StoreError> {
    let request = GetRequest {
        bucket: bucket.clone(),
        key: ObjectKey::new(key).unwrap(),
        version: None,
        portion: Portion::Whole,
        condition: ReadCondition::default(),
        unlock: Unlock::Plain,
    };
    let (_, body) = store.get(request).await?;
    Ok(body_bytes(body).await)
}

async fn check(store: &Store, bucket: &BucketName) {
    for (seed, size) in SIZES.into_iter().enumerate() {
        assert!(read(store, bucket, &format!("o{seed}")).await.unwrap() == payload(seed as u64, size), "o{seed}");
    }
}

struct Ground {
    root: tempfile::TempDir,
    keys: Arc<MemoryKeyProvider>,
    bucket: BucketName,
}

fn ground() -> Ground {
    Ground {
        // Beside the target folder: on a real disk, where O_DIRECT works.
        root: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        keys: Arc::new(MemoryKeyProvider::generate()),
        bucket: BucketName::new("node").unwrap(),
    }
}

impl Ground {
    fn options(&self) -> NodeOptions {
        options(self.root.path(), 6, Scheme { k: 4, m: 2 })
    }

    fn drive(&self, i: usize) -> PathBuf {
        self.root.path().join(format!("drive{i}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_outlives_an_orderly_and_an_abrupt_end() {
    let ground = ground();
    let node = open(ground.options(), &ground.keys).await.unwrap();
    fill(node.store(), &ground.bucket).await;
    check(node.store(), &ground.bucket).await;
    node.close().await.unwrap();
    drop(node);
    let node = open(ground.options(), &ground.keys).await.unwrap();
    check(node.store(), &ground.bucket).await;
    drop(node); // as in a crash
    let node = open(ground.options(), &ground.keys).await.unwrap();
    check(node.store(), &ground.bucket).await;
    assert!(node.ready().is_ok());
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_and_wrong_keys_are_refused_in_words() {
    let ground = ground();
    let few = options(ground.root.path(), 3, Scheme { k: 4, m: 2 });
    let error = open(few, &ground.keys).await.err().unwrap();
    assert!(error.to_string().contains("needs 6 drives, 3 are configured"), "{error}");
    let node = open(ground.options(), &ground.keys).await.unwrap();
    let second = open(ground.options(), &ground.keys).await.err().unwrap();
    assert!(second.to_string().contains("in use"), "{second}");
    node.close().await.unwrap();
    drop(node);
    let other = Arc::new(MemoryKeyProvider::generate());
    assert!(open(ground.options(), &other).await.is_err());
    // And the right key still opens it.
    open(ground.options(), &ground.keys).await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_lost_drives_lose_nothing_and_are_replaced() {
    let ground = ground();
    let node = open(ground.options(), &ground.keys).await.unwrap();
    fill(node.store(), &ground.bucket).await;
    node.close().await.unwrap();
    drop(node);
    // The two that hold log and index first of all.
    for i in 0..2 {
        std::fs::remove_dir_all(ground.drive(i)).unwrap();
    }
    let node = open(ground.options(), &ground.keys).await.unwrap();
    check(node.store(), &ground.bucket).await;
    let lost: Vec<u16> =
        node.status().drives.iter().filter(|drive| !drive.health.readable()).map(|drive| drive.number).collect();
    assert_eq!(lost.len(), 2, "{:?}", node.status());
    for (i, number) in lost.into_iter().enumerate() {
        node.replace_drive(number, &ground.drive(i)).await.unwrap();
    }
    node.store().heal_now(granary_store::HealMode::Deep).await.unwrap();
    let heal = node.heal_status();
    assert!(heal.finished && heal.failed_parts == 0, "{heal:?}");
    node.close().await.unwrap();
    drop(node);
    // Whole again: two others may go.
    for i in 3..5 {
        std::fs::remove_dir_all(ground.drive(i)).unwrap();
    }
    let node = open(ground.options(), &ground.keys).await.unwrap();
    check(node.store(), &ground.bucket).await;
    node.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_rebuilt_from_the_shards_alone() {
    let ground = ground();
    let node = open(ground.options(), &ground.keys).await.unwrap();
    fill(node.store(), &ground.bucket).await;
    node.close().await.unwrap();
    drop(node);
    for i in 0..6 {
        std::fs::remove_dir_all(ground.drive(i).join("meta")).unwrap();
    }
    let refused = open(ground.options(), &ground.keys).await.err().unwrap();
    assert!(refused.to_string().contains("no drive holds the metadata"), "{refused}");
    for i in 0..6 {
        let _ = std::fs::remove_dir_all(ground.drive(i).join("meta"));
    }
    let node = open(NodeOptions { accept_lost_metadata: true, ..ground.options() }, &ground.keys).await.unwrap();
    let report = node.rebuild_index(false).await.unwrap();
    // The one that was made, and the audit trail's.
    assert_eq!((report.buckets, report.lost_parts), (2, 0), "{report:?}");
    node.close().await.unwrap();
    drop(node);
    let node = open(ground.options(), &ground.keys).await.unwrap();
    for (seed, size) in SIZES.into_iter().enumerate() {
        let read = read(node.store(), &ground.bucket, &format!("o{seed}")).await;
        if size > 16 * 1024 {
            assert!(read.unwrap() == payload(seed as u64, size), "o{seed}");
        } else {
            assert!(matches!(read, Err(StoreError::NoSuchKey { .. })), "inline objects live in the index only");
        }
    }
    node.close().await.unwrap();
}

/// A clock that stands where it is put.
struct Stage(std::sync::atomic::AtomicU64);

impl Clock for Stage {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}

async fn audit_keys(store: &Store) -> Vec<String> {
    let bucket = BucketName::new("granary-audit").unwrap();
    let request = ListRequest { max_keys: 1000, ..ListRequest::default() };
    let page = store.list(&bucket, &request).await.unwrap();
    page.objects.iter().map(|object| object.0.as_str().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_segments_stay_until_their_time_is_over() {
    const DAY_US: u64 = 86_400_000_000;
    let ground = ground();
    let begin = SystemClock.now().0;
    let clock = Arc::new(Stage(std::sync::atomic::AtomicU64::new(begin)));
    let open_at = |day: u64, keep_days: u64| {
        clock.0.store(begin + day * DAY_US, std::sync::atomic::Ordering::Relaxed);
        let mut options = ground.options();
        options.store.audit.keep_days = keep_days;
        Node::open(options, Arc::clone(&ground.keys) as _, Arc::clone(&clock) as Arc<dyn Clock>)
    };
    // Below 180 days is nothing that a node is started with, and the promise is only raised.
    let node = open_at(0, 200).await.unwrap();
    fill(node.store(), &ground.bucket).await;
    assert!(node.audit_seal().await.unwrap() > 0);
    let first = audit_keys(node.store()).await;
    assert!(first.len() >= 2, "a segment and its seal: {first:?}");
    node.close().await.unwrap();
    drop(node);
    for keep_days in [179, 180, 199] {
        let lower = open_at(0, keep_days).await.err().unwrap();
        assert!(lower.to_string().contains("can only be raised"), "{lower}");
    }

    // A day before it is time nothing goes; what is sealed on the way stays, too.
    let node = open_at(199, 200).await.unwrap();
    node.start_background();
    assert!(node.audit_seal().await.unwrap() > 0);
    assert_eq!(node.audit_expire().await.unwrap(), 0);
    let second = audit_keys(node.store()).await;
    assert!(first.iter().all(|key| second.contains(key)) && second.len() > first.len());
    node.close().await.unwrap();
    drop(node);

    // Two days later the first go, and only they; what is left verifies as the part that it is.
    let node = open_at(201, 200).await.unwrap();
    node.audit_expire().await.unwrap();
    let third = audit_keys(node.store()).await;
    assert!(first.iter().all(|key| !third.contains(key)), "over 200 days old: {third:?}");
    assert!(second.iter().filter(|key| !first.contains(key)).all(|key| third.contains(key)), "two days old: {third:?}");
    let mut files = Vec::new();
    for key in audit_keys(node.store()).await {
        let bytes = read(node.store(), &BucketName::new("granary-audit").unwrap(), &key).await.unwrap();
        files.push(granary_audit::InputFile { name: key, bytes: bytes.into() });
    }
    let key = Some(node.audit_key());
    let question = granary_audit::Question { files, key, partial: true, ..granary_audit::Question::default() };
    let report = granary_audit::verify(&question);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    node.close().await.unwrap();
}
