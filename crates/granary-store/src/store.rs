//! [`Store`]: the one implementation of [`ObjectStore`].

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use granary_crypto::{KeyProvider, Secret32};
use granary_meta::Proposer;
use granary_meta::command::{BucketChange, VersionChange};
use granary_meta::records::{BucketRecord, UploadRecord};
use granary_stripe::StripeStore;
use granary_types::{BucketName, Clock, ObjectKey, UploadId, VersionId};

use crate::ai::AiError;
use crate::ai::warm::{CacheAct, Warmed};
use crate::api::{
    AppendRequest, BodyOut, CompleteRequest, CopyRequest, CopyResponse, CopySource, CreateBucketRequest,
    CreateUploadRequest, CustomerKey, DeleteRequest, DeleteResponse, GetRequest, ListPage, ListPartsPage, ListRequest,
    ListUploadsPage, ListUploadsRequest, ListVersionsPage, ListVersionsRequest, ObjectInfo, ObjectParts, ObjectReader,
    ObjectStore, PutRequest, PutResponse, RenameRequest, Result, UploadPartRequest, UploadedPart,
};
use crate::heal::{HealMode, HealState};
use crate::inner::{Inner, StoreOptions};
use crate::keys::{BucketKeyInfo, SharedShelf};
use crate::node::status::HealStatus;
use crate::sse::KmsKeyInfo;
use crate::stats::StoreStats;
use crate::upstream::{DefaultSse, Upstream, UpstreamStats, Wire};

/// The object store of a node. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

impl Store {
    /// A store over open drives and metadata. `shelf` holds the buckets' locks; `header_key` seals the metadata copies in shard headers.
    /// Background work (reaper, sweep, repair) starts with [`Store::start_background`].
    #[must_use]
    pub fn new(
        meta: Arc<dyn Proposer>,
        stripes: StripeStore,
        provider: Arc<dyn KeyProvider>,
        shelf: SharedShelf,
        header_key: &Secret32,
        clock: Arc<dyn Clock>,
        options: StoreOptions,
    ) -> Self {
        Self::with_heal(meta, stripes, provider, shelf, header_key, clock, options, Arc::default())
    }

    /// As [`Store::new`], with the repair queue that the stripes report damage to.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn with_heal(
        meta: Arc<dyn Proposer>,
        stripes: StripeStore,
        provider: Arc<dyn KeyProvider>,
        shelf: SharedShelf,
        header_key: &Secret32,
        clock: Arc<dyn Clock>,
        options: StoreOptions,
        heal: Arc<HealState>,
    ) -> Self {
        Self { inner: Arc::new(Inner::new(meta, stripes, provider, shelf, header_key, clock, options, heal)) }
    }

    /// Walks all parts and repairs them, now.
    ///
    /// # Errors
    /// What stopped the walk; parts that could not be repaired are told by [`Store::heal_status`].
    pub async fn heal_now(&self, mode: HealMode) -> Result<()> {
        self.inner.walk(mode, false).await
    }

    /// How far repair has come.
    #[must_use]
    pub fn heal_status(&self) -> HealStatus {
        self.inner.heal.status()
    }

    /// Counters since start.
    #[must_use]
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.inner.stats)
    }

    /// Frees the garbage that has rested, now. Returns how many parts were freed.
    ///
    /// # Errors
    /// The index's, or that the log takes no commands.
    pub async fn reap_now(&self) -> Result<usize> {
        self.inner.reap().await
    }

    /// The named keys (SSE-KMS).
    ///
    /// # Errors
    /// The index's.
    pub fn kms_keys(&self) -> Result<Vec<KmsKeyInfo>> {
        self.inner.list_kms_keys()
    }

    /// Makes a named key (SSE-KMS). `false` if there is one of that name already.
    ///
    /// # Errors
    /// `Invalid` for a name that cannot be, `KeysUnavailable`, or the log's.
    pub async fn create_kms_key(&self, id: &str) -> Result<bool> {
        self.inner.create_kms_key_once(id).await
    }

    /// Allows or forbids the use of a named key: what it locks cannot be read or written while it is disabled.
    ///
    /// # Errors
    /// `NoSuchKmsKey`, or the log's.
    pub async fn enable_kms_key(&self, id: &str, enabled: bool) -> Result<()> {
        self.inner.enable_kms_key(id, enabled).await
    }

    /// Gives a bucket a fresh key for new data keys; returns its generation.
    ///
    /// # Errors
    /// `NoSuchBucket`, `KeysUnavailable`, or the log's.
    pub async fn rotate_bucket_key(&self, name: &BucketName) -> Result<u32> {
        self.inner.rotate_bucket_key(name).await
    }

    /// Destroys a bucket's keys, and with them its bytes, for ever. Returns the drives that could not be written.
    ///
    /// # Errors
    /// `NoSuchBucket`; `Locked` for a bucket with object lock; `Unavailable` if too few drives could be written.
    pub async fn destroy_bucket_key(&self, name: &BucketName) -> Result<Vec<String>> {
        self.inner.destroy_bucket_key(name).await
    }

    /// Every bucket's keys, as they are shown.
    ///
    /// # Errors
    /// The index's.
    pub async fn bucket_keys(&self) -> Result<Vec<BucketKeyInfo>> {
        self.inner.list_bucket_keys().await
    }

    /// A bucket with what it holds.
    ///
    /// # Errors
    /// `NoSuchBucket`, or that the index is being restored.
    pub fn bucket_usage(&self, name: &BucketName) -> Result<(Arc<BucketRecord>, granary_meta::Usage)> {
        let bucket = self.inner.bucket(name)?;
        let usage = self.inner.index()?.usage(bucket.id);
        Ok((bucket, usage))
    }

    /// What the buckets hold that share blocks, or once did.
    ///
    /// # Errors
    /// The index's.
    pub fn block_usage(&self) -> Result<Vec<(BucketName, granary_meta::BlockUsage)>> {
        let index = self.inner.index()?;
        let mut all = Vec::new();
        for bucket in index.list_buckets() {
            let usage = index.block_usage(bucket.id).map_err(crate::inner::from_meta)?;
            if usage != granary_meta::BlockUsage::default() || bucket.documents.contains_key(crate::dedup::DEDUP) {
                all.push((bucket.name.clone(), usage));
            }
        }
        Ok(all)
    }

    /// Says who talks to upstreams, and how a bucket's default encryption is told. Once.
    pub fn set_upstream_client(&self, client: Arc<dyn Upstream>, default_sse: DefaultSse) {
        let is_first = self.inner.wire.set(Wire { client, default_sse }).is_ok();
        assert!(is_first, "the client is set once");
    }

    /// Counters of buckets with upstreams.
    #[must_use]
    pub fn upstream_stats(&self) -> &UpstreamStats {
        &self.inner.upstream_stats
    }

    /// One round of lifecycle, now (or the rest of one that was interrupted).
    ///
    /// # Errors
    /// The index's, or that the log takes no commands.
    pub async fn lifecycle_now(&self) -> Result<()> {
        self.inner.lifecycle_round().await
    }

    /// The settings it runs with.
    #[must_use]
    pub fn options(&self) -> &StoreOptions {
        &self.inner.options
    }
}

impl ObjectStore for Store {
    fn create_bucket(&self, request: CreateBucketRequest) -> BoxFuture<'_, Result<()>> {
        self.inner.create_bucket(request).boxed()
    }

    fn bucket(&self, name: &BucketName) -> Result<Arc<BucketRecord>> {
        self.inner.bucket_anywhere(name)
    }

    fn list_buckets(&self) -> Result<Vec<Arc<BucketRecord>>> {
        Ok(self.inner.index()?.list_buckets())
    }

    fn delete_bucket<'a>(&'a self, name: &'a BucketName) -> BoxFuture<'a, Result<()>> {
        self.inner.delete_bucket(name).boxed()
    }

    fn change_bucket<'a>(&'a self, name: &'a BucketName, change: BucketChange) -> BoxFuture<'a, Result<()>> {
        self.inner.change_bucket(name, change).boxed()
    }

    fn lifecycle_day(&self) -> std::time::Duration {
        self.inner.options.lifecycle_day
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, Result<PutResponse>> {
        self.inner.put(request).boxed()
    }

    fn append(&self, request: AppendRequest) -> BoxFuture<'_, Result<PutResponse>> {
        self.inner.append(request).boxed()
    }

    fn rename(&self, request: RenameRequest) -> BoxFuture<'_, Result<()>> {
        self.inner.rename(request).boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<(ObjectInfo, BodyOut)>> {
        self.inner.get(request).boxed()
    }

    fn open(&self, request: GetRequest) -> BoxFuture<'_, Result<std::sync::Arc<dyn ObjectReader>>> {
        async move {
            self.inner.ensure_here(&request.bucket, &request.key, request.version).await?;
            self.inner.open(&request)
        }
        .boxed()
    }

    fn head(&self, request: GetRequest) -> BoxFuture<'_, Result<ObjectInfo>> {
        async move { self.inner.head(&request).await }.boxed()
    }

    fn copy(&self, request: CopyRequest) -> BoxFuture<'_, Result<CopyResponse>> {
        self.inner.copy(request).boxed()
    }

    fn delete(&self, request: DeleteRequest) -> BoxFuture<'_, Result<DeleteResponse>> {
        self.inner.delete(request).boxed()
    }

    fn change_version<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        version: Option<VersionId>,
        change: VersionChange,
    ) -> BoxFuture<'a, Result<Option<VersionId>>> {
        self.inner.change_version(bucket, key, version, change).boxed()
    }

    fn object_parts<'a>(&'a self, info: &'a ObjectInfo, after: u32, limit: u32) -> BoxFuture<'a, Result<ObjectParts>> {
        std::future::ready(self.inner.object_parts(info, after, limit)).boxed()
    }

    fn list<'a>(&'a self, bucket: &'a BucketName, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage>> {
        self.inner.list(bucket, request).boxed()
    }

    fn list_versions<'a>(
        &'a self,
        bucket: &'a BucketName,
        request: &'a ListVersionsRequest,
    ) -> BoxFuture<'a, Result<ListVersionsPage>> {
        std::future::ready(self.inner.list_versions(bucket, request)).boxed()
    }

    fn create_upload(&self, request: CreateUploadRequest) -> BoxFuture<'_, Result<UploadRecord>> {
        self.inner.create_upload(request).boxed()
    }

    fn upload_part(&self, request: UploadPartRequest) -> BoxFuture<'_, Result<UploadedPart>> {
        self.inner.upload_part(request).boxed()
    }

    fn upload_part_copy<'a>(
        &'a self,
        source: CopySource,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
        number: u16,
        customer_key: Option<CustomerKey>,
    ) -> BoxFuture<'a, Result<UploadedPart>> {
        self.inner.upload_part_copy(source, bucket, key, upload, number, customer_key).boxed()
    }

    fn complete_upload(&self, request: CompleteRequest) -> BoxFuture<'_, Result<PutResponse>> {
        self.inner.complete_upload(request).boxed()
    }

    fn abort_upload<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
    ) -> BoxFuture<'a, Result<()>> {
        self.inner.abort_upload(bucket, key, upload).boxed()
    }

    fn list_parts<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
        marker: u16,
        limit: u32,
    ) -> BoxFuture<'a, Result<ListPartsPage>> {
        std::future::ready(self.inner.list_parts(bucket, key, upload, marker, limit)).boxed()
    }

    fn list_uploads<'a>(
        &'a self,
        bucket: &'a BucketName,
        request: &'a ListUploadsRequest,
    ) -> BoxFuture<'a, Result<ListUploadsPage>> {
        std::future::ready(self.inner.list_uploads(bucket, request)).boxed()
    }

    fn tend_cache<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        act: CacheAct,
    ) -> BoxFuture<'a, std::result::Result<Warmed, AiError>> {
        self.tend(bucket, prefix, act).boxed()
    }
}
