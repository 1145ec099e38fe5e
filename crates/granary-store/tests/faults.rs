//! Lost and rotten shards: right bytes or an error, never wrong bytes; repair makes parts whole again.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use common::{TestStore, body_bytes, payload};
use futures::TryStreamExt as _;
use granary_drive::api::{DriveHealth, ShardStore as _};
use granary_meta::command::Condition;
use granary_store::api::{GetRequest, ObjectStore as _, Portion, ReadCondition, Unlock};
use granary_store::{HealMode, StoreError};
use granary_types::{BucketName, ObjectKey, RangeSpec, Scheme};

const SIZES: [usize; 4] = [20_000, 150_000, 1_048_576, 5_500_000];

fn request(bucket: &BucketName, key: &str, portion: Portion) -> GetRequest {
    GetRequest {
        bucket: bucket.clone(),
        key: ObjectKey::new(key).unwrap(),
        version: None,
        portion,
        condition: ReadCondition::default(),
        unlock: Unlock::Plain,
    }
}

async fn filled(scheme: Scheme, drives: usize) -> (TestStore, BucketName) {
    let test = TestStore::with(scheme, drives).await;
    let bucket = BucketName::new("faults").unwrap();
    test.create_bucket(&bucket).await;
    for (seed, size) in SIZES.into_iter().enumerate() {
        test.put(&bucket, &format!("o{seed}"), &payload(seed as u64, size), Condition::default()).await.unwrap();
    }
    (test, bucket)
}

async fn all_read_back(test: &TestStore, bucket: &BucketName) {
    for (seed, size) in SIZES.into_iter().enumerate() {
        let expected = payload(seed as u64, size);
        let key = format!("o{seed}");
        let (_, body) = test.store.get(request(bucket, &key, Portion::Whole)).await.unwrap();
        assert!(body_bytes(body).await == expected, "{key}");
        let range = Portion::Range(RangeSpec::From { first: 17_000, last: Some(19_000) });
        let (_, body) = test.store.get(request(bucket, &key, range)).await.unwrap();
        assert!(body_bytes(body).await == expected[17_000..=19_000], "{key}, a range");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_m_drives_may_be_gone() {
    let (test, bucket) = filled(Scheme { k: 4, m: 2 }, 6).await;
    for a in 0..6 {
        for b in a + 1..6 {
            for i in [a, b] {
                test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
            }
            all_read_back(&test, &bucket).await;
            for i in [a, b] {
                test.drives[i].1.set_health(DriveHealth::Online);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_more_is_an_error_and_not_wrong_bytes() {
    let (test, bucket) = filled(Scheme { k: 4, m: 2 }, 6).await;
    for i in 0..3 {
        test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    }
    let mut failed = 0;
    for (seed, size) in SIZES.into_iter().enumerate() {
        let read = test.store.get(request(&bucket, &format!("o{seed}"), Portion::Whole)).await;
        let bytes = match read {
            Ok((_, body)) => {
                body.try_fold(Vec::new(), |mut all, frame| async move {
                    all.extend_from_slice(&frame);
                    Ok(all)
                })
                .await
            }
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => assert!(bytes == payload(seed as u64, size)),
            Err(StoreError::Unavailable(_) | StoreError::Corrupt(_)) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failed >= 2, "striped parts cannot be read from three of six drives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotten_bits_are_never_served_and_repair_mends_them() {
    let (test, bucket) = filled(Scheme { k: 4, m: 2 }, 6).await;
    // Every shard on two drives has a flipped bit, at places all over.
    for (n, (_, drive)) in test.drives.iter().take(2).enumerate() {
        for (i, info) in drive.scan(None, 1000).await.unwrap().into_iter().enumerate() {
            let at = (i * 7919 + n * 104_729) % info.spec.shard_bytes as usize;
            assert!(drive.flip_bit(info.spec.shard, at));
        }
    }
    all_read_back(&test, &bucket).await;
    assert!(test.store.stats().rebuilt_chunks.load(std::sync::atomic::Ordering::Relaxed) > 0);
    test.store.heal_now(HealMode::Deep).await.unwrap();
    let status = test.store.heal_status();
    assert!(status.finished && status.failed_parts == 0, "{status:?}");
    assert!(status.repaired_parts >= 3, "{status:?}");
    // Whole again: two other drives may go now.
    for i in [3, 5] {
        test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    }
    all_read_back(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_degraded_write_is_acknowledged_and_made_whole_later() {
    let test = TestStore::with(Scheme { k: 4, m: 2 }, 6).await;
    let bucket = BucketName::new("degraded").unwrap();
    test.create_bucket(&bucket).await;
    test.drives[2].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    for (seed, size) in SIZES.into_iter().enumerate() {
        test.put(&bucket, &format!("o{seed}"), &payload(seed as u64, size), Condition::default()).await.unwrap();
    }
    all_read_back(&test, &bucket).await;
    test.drives[2].1.set_health(DriveHealth::Online);
    test.store.heal_now(HealMode::Missing).await.unwrap();
    assert!(test.store.heal_status().repaired_parts >= 2, "{:?}", test.store.heal_status());
    for i in [0, 4] {
        test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    }
    all_read_back(&test, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_drives_refuse_a_write_and_leave_nothing() {
    let test = TestStore::with(Scheme { k: 4, m: 2 }, 6).await;
    let bucket = BucketName::new("few").unwrap();
    test.create_bucket(&bucket).await;
    for i in 0..2 {
        test.drives[i].1.set_health(DriveHealth::Offline("pulled".to_owned()));
    }
    let refused = test.put(&bucket, "x", &payload(1, 1 << 20), Condition::default()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(test.shards_count(), 0);
    // What is small lives in the log and the index and needs no drive.
    test.put(&bucket, "small", &payload(2, 1000), Condition::default()).await.unwrap();
}
