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
    CreateBucketRequest, GetRequest, ObjectStore as _, Portion, PutRequest, ReadCondition, Unlock,
};
use granary_store::node::{Node, NodeError, NodeOptions};
use granary_store::{Store, StoreError, StoreOptions};
use granary_types::{BucketName, ObjectKey, Scheme, SystemClock};

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
