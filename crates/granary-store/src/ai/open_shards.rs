//! Objects that the items of one batch have in common: looked up, indexed and opened once, then read here and there.
//!
//! An object is looked up again after [`FRESH`]: what was deleted or overwritten is seen no later than that, however long a
//! batch takes. Leaves whole objects, which are read once each, to plain reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_types::{BucketName, ByteRange, ObjectKey, RangeSpec, VersionId};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::ai::AiError;
use crate::ai::shard::{ShardIndex, Shards, TRIES_MAX};
use crate::ai::source::Found;
use crate::ai::tar::Member;
use crate::api::{BodyOut, GetRequest, ObjectReader, ObjectStore, Portion, ReadCondition, Unlock};
use crate::error::StoreError;

/// For so long an object is not looked up again.
const FRESH: Duration = Duration::from_secs(1);
/// Objects that are open at once, at most.
const OPEN_MAX: usize = 64;

type Key = (ObjectKey, Option<VersionId>);

struct OpenShard {
    reader: Arc<dyn ObjectReader>,
    index: OnceCell<Arc<ShardIndex>>,
    opened: Instant,
}

/// The objects of one batch.
pub(super) struct OpenShards {
    shards: Shards,
    bucket: BucketName,
    open: Mutex<HashMap<Key, Arc<OpenShard>>>,
}

impl OpenShards {
    pub(super) fn new(shards: Shards, bucket: BucketName) -> Self {
        Self { shards, bucket, open: Mutex::default() }
    }

    pub(super) fn bucket(&self) -> &BucketName {
        &self.bucket
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &**self.shards.store()
    }

    /// A member's bytes, or a range of them; beside them the object, the member, and the range of it.
    ///
    /// # Errors
    /// As [`Shards::get`].
    pub(super) async fn member(
        &self,
        key: &ObjectKey,
        version: Option<VersionId>,
        name: &str,
        range: Option<RangeSpec>,
    ) -> Result<(Arc<dyn ObjectReader>, Member, ByteRange, BodyOut), AiError> {
        let mut tries = 0;
        let (shard, index) = loop {
            tries += 1;
            let shard = self.shard(key, version).await?;
            match shard.index.get_or_try_init(|| self.index(key, &shard)).await.map(Arc::clone) {
                Ok(index) => break (shard, index),
                // Overwritten while it was being indexed.
                Err(AiError::Changed) if tries < TRIES_MAX => self.forget(key, version),
                Err(error) => return Err(error),
            }
        };
        let member = index.find(name)?;
        let range = match range {
            None => ByteRange::whole(member.size_bytes),
            Some(spec) => {
                spec.resolve(member.size_bytes).ok_or(StoreError::InvalidRange { size_bytes: member.size_bytes })?
            }
        };
        let body = shard.reader.read(member.offset + range.start, member.offset + range.end).await?;
        Ok((Arc::clone(&shard.reader), member, range, body))
    }

    /// Bytes `start..end` of an object.
    ///
    /// # Errors
    /// [`AiError::Changed`] if it does not reach as far; the store's.
    pub(super) async fn place(
        &self,
        key: &ObjectKey,
        version: Option<VersionId>,
        start: u64,
        end: u64,
    ) -> Result<(Arc<dyn ObjectReader>, BodyOut), AiError> {
        let shard = self.shard(key, version).await?;
        if end > shard.reader.info().object.size_bytes {
            return Err(AiError::Changed);
        }
        let body = shard.reader.read(start, end).await?;
        Ok((Arc::clone(&shard.reader), body))
    }

    async fn index(&self, key: &ObjectKey, shard: &OpenShard) -> Result<Arc<ShardIndex>, AiError> {
        let found = Found { bucket: self.bucket.clone(), key: key.clone(), info: shard.reader.info().clone() };
        self.shards.index(&found).await
    }

    async fn shard(&self, key: &ObjectKey, version: Option<VersionId>) -> Result<Arc<OpenShard>, AiError> {
        let id = (key.clone(), version);
        if let Some(known) = self.open.lock().get(&id).filter(|shard| shard.opened.elapsed() < FRESH) {
            return Ok(Arc::clone(known));
        }
        let request = GetRequest {
            bucket: self.bucket.clone(),
            key: id.0.clone(),
            version,
            portion: Portion::Whole,
            condition: ReadCondition::default(),
            unlock: Unlock::Plain,
        };
        let reader = self.store().open(request).await?;
        let shard = Arc::new(OpenShard { reader, index: OnceCell::new(), opened: Instant::now() });
        let mut open = self.open.lock();
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(id, Arc::clone(&shard));
        Ok(shard)
    }

    fn forget(&self, key: &ObjectKey, version: Option<VersionId>) {
        self.open.lock().remove(&(key.clone(), version));
    }
}
