//! A store over drives in memory, for tests.

#![allow(dead_code, clippy::missing_panics_doc)]

pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use granary_crypto::{MemoryKeyProvider, Secret32, Shelf};
use granary_drive::api::ShardStore as _;
use granary_drive::buf::BufPool;
use granary_drive::testing::MemoryDrive;
use granary_meta::command::{Command, Condition, Outcome};
use granary_meta::records::{Attributes, BucketOptions, PartRecord, Sse};
use granary_meta::{MemoryProposer, Proposer};
use granary_store::api::{
    BodyIn, BodyOut, Claims, CopyRequest, CopyResponse, CopySource, CreateBucketRequest, ObjectStore as _, PutRequest,
    PutResponse, ReadCondition, Unlock, UploadPartRequest,
};
use granary_store::keys::SharedShelf;
use granary_store::{Store, StoreError, StoreOptions};
use granary_stripe::{DriveSet, StripeOptions, StripeStore};
use granary_types::{BucketName, ClusterId, DriveNo, ObjectKey, Scheme, SystemClock, UploadId};
use parking_lot::Mutex;

pub struct TestStore {
    pub store: Store,
    pub meta: Arc<MemoryProposer>,
    pub drives: Vec<(DriveNo, Arc<MemoryDrive>)>,
    provider: Arc<MemoryKeyProvider>,
    shelf: SharedShelf,
    header_key: Secret32,
    options: StoreOptions,
}

pub fn attributes() -> Attributes {
    Attributes { owner: "tester".to_owned(), ..Attributes::default() }
}

/// Bytes that differ at every place and for every seed.
pub fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A body in frames of uneven sizes.
pub fn body(bytes: &[u8]) -> BodyIn {
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut size = 1000;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        frames.push(Ok(Bytes::copy_from_slice(now)));
        rest = later;
        size = size * 3 % 100_003 + 1;
    }
    futures::stream::iter(frames).boxed()
}

pub async fn body_bytes(body: BodyOut) -> Vec<u8> {
    body.try_fold(Vec::new(), |mut all, frame| async move {
        all.extend_from_slice(&frame);
        Ok(all)
    })
    .await
    .expect("the body is whole")
}

pub fn no_claims() -> Claims {
    Claims { md5: None, checksum: None, algorithm: None, trailer: None }
}

impl TestStore {
    pub async fn new() -> Self {
        Self::with(Scheme { k: 4, m: 2 }, 7).await
    }

    pub async fn with(scheme: Scheme, drives_count: usize) -> Self {
        Self::with_options(scheme, drives_count, |_| {}).await
    }

    pub async fn with_options(scheme: Scheme, drives_count: usize, change: impl FnOnce(&mut StoreOptions)) -> Self {
        let meta = Arc::new(MemoryProposer::new(Arc::new(SystemClock)).expect("an index in memory"));
        let mut drives = Vec::new();
        for _ in 0..drives_count {
            let drive = Arc::new(MemoryDrive::new(1 << 30));
            let Outcome::Drive(no) = meta.propose(Command::RegisterDrive { drive: drive.id() }).await.unwrap() else {
                panic!("a drive gets a number");
            };
            drives.push((no, drive));
        }
        let provider = Arc::new(MemoryKeyProvider::generate());
        let header_key = Secret32::random();
        let mut options = StoreOptions {
            scheme,
            garbage_quarantine: Duration::ZERO,
            orphan_grace: Duration::ZERO,
            ..StoreOptions::default()
        };
        change(&mut options);
        let shelf = SharedShelf::new(Mutex::new(Shelf::new(ClusterId([7; 16]))));
        let store = Self::open(&meta, &drives, &provider, &shelf, &header_key, &options);
        Self { store, meta, drives, provider, shelf, header_key, options }
    }

    fn open(
        meta: &Arc<MemoryProposer>,
        drives: &[(DriveNo, Arc<MemoryDrive>)],
        provider: &Arc<MemoryKeyProvider>,
        shelf: &SharedShelf,
        header_key: &Secret32,
        options: &StoreOptions,
    ) -> Store {
        let set = DriveSet::new();
        for (no, drive) in drives {
            set.insert(*no, drive.clone());
        }
        let pool = BufPool::new(64 << 20);
        let stripes = StripeStore::new(Arc::new(set), pool, StripeOptions::default());
        let clock = Arc::new(SystemClock);
        Store::new(meta.clone(), stripes, provider.clone(), shelf.clone(), header_key, clock, options.clone())
    }

    /// A new store over the same drives and metadata, as after a restart.
    pub async fn reopen(&mut self) {
        self.store = Self::open(&self.meta, &self.drives, &self.provider, &self.shelf, &self.header_key, &self.options);
    }

    pub async fn create_bucket(&self, name: &BucketName) {
        self.create_bucket_with(name, BucketOptions::default()).await;
    }

    pub async fn create_bucket_with(&self, name: &BucketName, options: BucketOptions) {
        let request = CreateBucketRequest {
            name: name.clone(),
            owner: "tester".to_owned(),
            region: None,
            options,
            documents: std::collections::BTreeMap::new(),
        };
        self.store.create_bucket(request).await.expect("the bucket is created");
    }

    pub async fn put(
        &self,
        bucket: &BucketName,
        key: &str,
        bytes: &[u8],
        condition: Condition,
    ) -> Result<PutResponse, StoreError> {
        let request = PutRequest {
            bucket: bucket.clone(),
            key: ObjectKey::new(key).unwrap(),
            size_bytes: bytes.len() as u64,
            attributes: attributes(),
            claims: no_claims(),
            condition,
            customer_key: None,
            body: body(bytes),
        };
        self.store.put(request).await
    }

    pub async fn copy(&self, bucket: &BucketName, from: &str, to: &str) -> Result<CopyResponse, StoreError> {
        let request = CopyRequest {
            source: CopySource {
                bucket: bucket.clone(),
                key: ObjectKey::new(from).unwrap(),
                version: None,
                condition: ReadCondition::default(),
                range: None,
                unlock: Unlock::Plain,
            },
            bucket: bucket.clone(),
            key: ObjectKey::new(to).unwrap(),
            replace_attributes: None,
            replace_tags: None,
            algorithm: None,
            lock: attributes(),
            sse: Sse::S3,
            sse_asked: false,
            storage_class: None,
            class_asked: false,
            customer_key: None,
            condition: Condition::default(),
        };
        self.store.copy(request).await
    }

    pub async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &str,
        upload: UploadId,
        number: u16,
        bytes: &[u8],
    ) -> Result<PartRecord, StoreError> {
        let request = UploadPartRequest {
            bucket: bucket.clone(),
            key: ObjectKey::new(key).unwrap(),
            upload,
            number,
            size_bytes: bytes.len() as u64,
            claims: no_claims(),
            customer_key: None,
            body: body(bytes),
        };
        Ok(self.store.upload_part(request).await?.part)
    }

    /// Frees all garbage now.
    pub async fn reap(&self) {
        while self.store.reap_now().await.expect("the reaper runs") > 0 {}
    }

    /// Shards on all drives.
    pub fn shards_count(&self) -> usize {
        self.drives.iter().map(|(_, drive)| drive.shards_count()).sum()
    }

    /// Every shard on every drive is named by a living part.
    pub async fn check_no_leaks(&self, _bucket: &BucketName) {
        let index = self.meta.index().load().unwrap();
        for (no, drive) in &self.drives {
            for info in drive.scan(None, 1_000_000).await.unwrap() {
                let shard = info.spec.shard;
                let reference = index.part_ref(shard.part).unwrap();
                let reference = reference.unwrap_or_else(|| panic!("shard {shard} on {no} belongs to nobody"));
                assert_eq!(reference.placement.drives[usize::from(shard.index)], *no);
            }
        }
    }
}
