//! A reference model of S3's object semantics (two maps) against the real store over drives in memory:
//! generated operations, every answer compared, every byte read back.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use std::collections::BTreeMap;

use common::{TestStore, body_bytes, payload};
use granary_meta::command::{BucketChange, CompletedPart, Condition, EtagMatch, Refusal};
use granary_meta::records::Versioning;
use granary_store::api::{
    CompleteRequest, CreateUploadRequest, DeleteRequest, GetRequest, ListRequest, ListVersionsRequest, ObjectStore,
    Portion, ReadCondition, Unlock,
};
use granary_store::error::StoreError;
use granary_types::{BucketName, ObjectKey, RangeSpec, VersionId};
use proptest::prelude::*;

const KEYS: [&str; 8] = ["a", "a/b", "a/b/c", "a//c", "b", "b/é", "dir/x", "dir/y"];
/// Around the inline, copies, chunk and stripe boundaries.
const SIZES: [usize; 12] = [0, 1, 100, 16_384, 16_385, 65_519, 65_521, 131_072, 131_073, 300_000, 1_048_576, 2_200_000];

#[derive(Debug, Clone)]
enum Op {
    Put { key: usize, size: usize, if_none_match: bool },
    PutIfMatch { key: usize, size: usize, current: bool },
    Delete { key: usize },
    DeleteVersion { key: usize, nth: usize },
    Copy { from: usize, to: usize },
    Multipart { key: usize, parts: usize },
    Versioning { enabled: bool },
    Range { key: usize, first: u64, len: u64 },
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || 0..KEYS.len();
    let size = || 0..SIZES.len();
    let op = prop_oneof![
        6 => (key(), size(), any::<bool>()).prop_map(|(key, size, n)| Op::Put { key, size, if_none_match: n && size % 3 == 0 }),
        2 => (key(), size(), any::<bool>()).prop_map(|(key, size, current)| Op::PutIfMatch { key, size, current }),
        3 => key().prop_map(|key| Op::Delete { key }),
        2 => (key(), 0..4usize).prop_map(|(key, nth)| Op::DeleteVersion { key, nth }),
        2 => (key(), key()).prop_map(|(from, to)| Op::Copy { from, to }),
        1 => (key(), 1..3usize).prop_map(|(key, parts)| Op::Multipart { key, parts }),
        1 => any::<bool>().prop_map(|enabled| Op::Versioning { enabled }),
        4 => (key(), 0..2_300_000u64, 1..400_000u64).prop_map(|(key, first, len)| Op::Range { key, first, len }),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..40)
}

#[derive(Debug, Clone, PartialEq)]
struct Version {
    id: VersionId,
    etag: String,
    /// `None`: a delete marker.
    bytes: Option<Vec<u8>>,
}

/// What S3 says must be: per key, versions newest first.
#[derive(Default)]
struct Model {
    versioning: Versioning,
    keys: BTreeMap<String, Vec<Version>>,
}

impl Model {
    fn current(&self, key: &str) -> Option<&Version> {
        self.keys.get(key).and_then(|versions| versions.first()).filter(|version| version.bytes.is_some())
    }

    fn write(&mut self, key: &str, version: Version) {
        let versions = self.keys.entry(key.to_owned()).or_default();
        if version.id.is_null() {
            versions.retain(|old| !old.id.is_null());
        }
        versions.insert(0, version);
    }

    fn remove(&mut self, key: &str, id: VersionId) -> bool {
        let Some(versions) = self.keys.get_mut(key) else { return false };
        let before = versions.len();
        versions.retain(|old| old.id != id);
        let removed = versions.len() < before;
        if versions.is_empty() {
            self.keys.remove(key);
        }
        removed
    }
}

fn get(bucket: &BucketName, key: &str, version: Option<VersionId>, portion: Portion) -> GetRequest {
    GetRequest {
        bucket: bucket.clone(),
        key: ObjectKey::new(key).unwrap(),
        version,
        portion,
        condition: ReadCondition::default(),
        unlock: Unlock::Plain,
    }
}

async fn check_everything(test: &TestStore, bucket: &BucketName, model: &Model) {
    let store = &test.store;
    for key in KEYS {
        match (model.current(key), store.get(get(bucket, key, None, Portion::Whole)).await) {
            (Some(version), Ok((info, body))) => {
                assert_eq!(info.object.etag, version.etag, "{key}");
                assert_eq!(Some(&body_bytes(body).await), version.bytes.as_ref(), "{key}");
            }
            (None, Err(StoreError::NoSuchKey { delete_marker })) => {
                let hidden = model.keys.get(key).and_then(|versions| versions.first()).map(|version| version.id);
                assert_eq!(delete_marker, hidden, "{key}");
            }
            (expected, got) => panic!("{key}: expected {:?}, got {:?}", expected.map(|v| &v.etag), got.map(|g| g.0)),
        }
        for version in model.keys.get(key).into_iter().flatten() {
            let answer = store.get(get(bucket, key, Some(version.id), Portion::Whole)).await;
            match (&version.bytes, answer) {
                (Some(bytes), Ok((_, body))) => assert_eq!(&body_bytes(body).await, bytes, "{key} {}", version.id),
                (None, Err(StoreError::IsDeleteMarker { .. })) => {}
                (_, got) => panic!("{key} {}: got {:?}", version.id, got.map(|g| g.0)),
            }
        }
    }
    let listed = store.list(bucket, &ListRequest { max_keys: 1000, ..Default::default() }).await.unwrap();
    let expected: Vec<&str> =
        model.keys.keys().map(String::as_str).filter(|key| model.current(key).is_some()).collect();
    assert_eq!(listed.objects.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), expected);
    // The same listing rolled up, one entry a page.
    let mut rolled = Vec::new();
    let mut after = None;
    loop {
        let request =
            ListRequest { delimiter: Some("/".to_owned()), after: after.clone(), max_keys: 1, ..Default::default() };
        let page = store.list(bucket, &request).await.unwrap();
        rolled.extend(page.common_prefixes);
        rolled.extend(page.objects.into_iter().map(|(key, _)| key));
        match page.next_after {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut expected_rolled: Vec<String> =
        expected.iter().map(|key| key.find('/').map_or((*key).to_owned(), |at| key[..=at].to_owned())).collect();
    expected_rolled.dedup();
    assert_eq!(rolled, expected_rolled);
    let versions =
        store.list_versions(bucket, &ListVersionsRequest { max_keys: 1000, ..Default::default() }).await.unwrap();
    let listed: Vec<_> = versions.versions.iter().map(|(key, record, _)| (key.clone(), record.version)).collect();
    let expected: Vec<_> = model
        .keys
        .iter()
        .flat_map(|(key, versions)| versions.iter().map(|version| (key.clone(), version.id)))
        .collect();
    assert_eq!(listed, expected);
}

async fn run(ops: Vec<Op>) {
    let mut test = TestStore::new().await;
    let bucket = BucketName::new("model").unwrap();
    test.create_bucket(&bucket).await;
    let mut model = Model::default();
    for (step, op) in ops.into_iter().enumerate() {
        let seed = step as u64;
        match op {
            Op::Put { key, size, if_none_match } => {
                let key = KEYS[key];
                let bytes = payload(seed, SIZES[size]);
                let condition =
                    Condition { if_none_match: if_none_match.then_some(EtagMatch::Any), ..Condition::default() };
                match test.put(&bucket, key, &bytes, condition).await {
                    Ok(put) => {
                        assert!(!(if_none_match && model.current(key).is_some()), "If-None-Match was not kept");
                        let id = put.version.unwrap_or(VersionId::NULL);
                        assert_eq!(id.is_null(), model.versioning != Versioning::Enabled);
                        model.write(key, Version { id, etag: put.etag, bytes: Some(bytes) });
                    }
                    Err(StoreError::Refused(Refusal::Precondition(_))) => {
                        assert!(if_none_match && model.current(key).is_some());
                    }
                    Err(error) => panic!("put: {error}"),
                }
            }
            Op::PutIfMatch { key, size, current } => {
                let key = KEYS[key];
                let bytes = payload(seed, SIZES[size]);
                let known = model.current(key).map(|version| version.etag.clone());
                let etag = if current { known.clone().unwrap_or_default() } else { "0".repeat(32) };
                let condition = Condition { if_match: Some(EtagMatch::OneOf(vec![etag])), ..Condition::default() };
                match (known, test.put(&bucket, key, &bytes, condition).await) {
                    (Some(_), Ok(put)) if current => {
                        let id = put.version.unwrap_or(VersionId::NULL);
                        model.write(key, Version { id, etag: put.etag, bytes: Some(bytes) });
                    }
                    (Some(_), Err(StoreError::Refused(Refusal::Precondition(_)))) if !current => {}
                    (None, Err(StoreError::Refused(Refusal::NoSuchKey))) => {}
                    (known, got) => panic!("If-Match: known {known:?}, current {current}, got {got:?}"),
                }
            }
            Op::Delete { key } => {
                let key = KEYS[key];
                let request = DeleteRequest {
                    bucket: bucket.clone(),
                    key: ObjectKey::new(key).unwrap(),
                    version: None,
                    condition: Condition::default(),
                    bypass: false,
                };
                let deleted = test.store.delete(request).await.unwrap();
                match model.versioning {
                    Versioning::Off => {
                        model.keys.remove(key);
                    }
                    Versioning::Enabled | Versioning::Suspended => {
                        assert!(deleted.delete_marker);
                        let id = deleted.version.expect("a versioned bucket tells the marker's id");
                        model.write(key, Version { id, etag: String::new(), bytes: None });
                    }
                }
            }
            Op::DeleteVersion { key, nth } => {
                let key = KEYS[key];
                let Some(id) = model.keys.get(key).and_then(|versions| versions.get(nth)).map(|version| version.id)
                else {
                    continue;
                };
                let request = DeleteRequest {
                    bucket: bucket.clone(),
                    key: ObjectKey::new(key).unwrap(),
                    version: Some(id),
                    condition: Condition::default(),
                    bypass: false,
                };
                test.store.delete(request).await.unwrap();
                assert!(model.remove(key, id));
            }
            Op::Copy { from, to } => {
                let (from, to) = (KEYS[from], KEYS[to]);
                match (model.current(from).cloned(), test.copy(&bucket, from, to).await) {
                    (Some(source), Ok(copied)) => {
                        assert_ne!(from, to);
                        let id = copied.put.version.unwrap_or(VersionId::NULL);
                        model.write(to, Version { id, etag: copied.put.etag, bytes: source.bytes });
                    }
                    (Some(_), Err(StoreError::CopyOntoItself)) => assert_eq!(from, to),
                    (None, Err(StoreError::NoSuchKey { .. })) => {}
                    (source, got) => panic!("copy of {:?}: {got:?}", source.map(|s| s.etag)),
                }
            }
            Op::Multipart { key, parts } => {
                let key = KEYS[key];
                let mut whole = Vec::new();
                let request = CreateUploadRequest {
                    bucket: bucket.clone(),
                    key: ObjectKey::new(key).unwrap(),
                    attributes: common::attributes(),
                    checksum_algorithm: None,
                    checksum_kind: None,
                };
                let upload = test.store.create_upload(request).await.unwrap();
                let mut named = Vec::new();
                for number in 1..=parts {
                    let size = if number < parts { 5 * 1024 * 1024 + number } else { 70_000 };
                    let bytes = payload(seed + number as u64 * 1000, size);
                    let part = test.upload_part(&bucket, key, upload.id, number as u16, &bytes).await.unwrap();
                    named.push(CompletedPart { number: number as u16, etag: part.etag, checksum: None });
                    whole.extend_from_slice(&bytes);
                }
                let request = CompleteRequest {
                    bucket: bucket.clone(),
                    key: ObjectKey::new(key).unwrap(),
                    upload: upload.id,
                    parts: named,
                    checksum: None,
                    size_bytes: Some(whole.len() as u64),
                    condition: Condition::default(),
                    customer_key: None,
                };
                let put = test.store.complete_upload(request).await.unwrap();
                assert!(put.etag.ends_with(&format!("-{parts}")), "{}", put.etag);
                let id = put.version.unwrap_or(VersionId::NULL);
                model.write(key, Version { id, etag: put.etag, bytes: Some(whole) });
            }
            Op::Versioning { enabled } => {
                let state = if enabled { Versioning::Enabled } else { Versioning::Suspended };
                test.store.change_bucket(&bucket, BucketChange::Versioning(state)).await.unwrap();
                model.versioning = state;
            }
            Op::Range { key, first, len } => {
                let key = KEYS[key];
                let portion = Portion::Range(RangeSpec::From { first, last: Some(first + len - 1) });
                match (model.current(key), test.store.get(get(&bucket, key, None, portion)).await) {
                    (Some(version), Ok((info, body))) => {
                        let bytes = version.bytes.as_deref().unwrap_or_default();
                        let end = (first + len).min(bytes.len() as u64);
                        assert_eq!((info.range.start, info.range.end), (first, end));
                        assert!(body_bytes(body).await == bytes[first as usize..end as usize], "{key} {first}+{len}");
                    }
                    (Some(version), Err(StoreError::InvalidRange { .. })) => {
                        assert!(first >= version.bytes.as_ref().map_or(0, Vec::len) as u64);
                    }
                    (None, Err(StoreError::NoSuchKey { .. })) => {}
                    (_, got) => panic!("range: {:?}", got.map(|g| g.0)),
                }
            }
            Op::Restart => test.reopen().await,
        }
    }
    check_everything(&test, &bucket, &model).await;
    // What was overwritten or deleted leaves nothing on the drives.
    test.reap().await;
    check_everything(&test, &bucket, &model).await;
    test.check_no_leaks(&bucket).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_says(ops in ops()) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(run(ops));
    }
}
