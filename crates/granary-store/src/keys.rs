//! The buckets' keys: made, kept in memory for a bounded time, rotated, destroyed, and wrapped anew under another
//! root key.
//!
//! A bucket's keys are in its record, wrapped by the bucket's lock; the lock is on the shelf (`bucket-keys.json` beside
//! the drives), wrapped by the root key, and nowhere else. Guarantees: a bucket is not created before its lock is
//! durable on as many drives as may be lost and one more; a lock that is destroyed is gone from memory and from every
//! drive that could be written, and those that could not are named.

use std::sync::Arc;
use std::time::Instant;

use granary_crypto::shelf::{Shelf, unwrap_lock, wrap_lock};
use granary_crypto::{BucketKeys, Secret32};
use granary_drive::raw;
use granary_meta::command::{BucketChange, Command};
use granary_meta::records::BucketRecord;
use granary_types::{BucketId, BucketName, WrappedKey};
use parking_lot::Mutex;
use serde::Serialize;

use crate::api::Result;
use crate::error::StoreError;
use crate::inner::{Inner, from_crypto};
use crate::sse::SseError;

/// File name of the shelf on each drive.
pub(crate) const SHELF_FILE: &str = "bucket-keys.json";

/// The shelf as it is now. Shared with who opens the store.
pub type SharedShelf = Arc<Mutex<Shelf>>;

/// A bucket's keys as they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BucketKeyInfo {
    /// The bucket.
    pub bucket: String,
    /// Generation of the key that wraps new data keys; 0 where the keys cannot be opened.
    pub generation: u32,
    /// How many keys there are: older ones open what they wrapped.
    pub keys: usize,
    /// When the keys were destroyed (microseconds), if they were.
    pub destroyed_us: Option<u64>,
}

impl Inner {
    /// The bucket's keys, opened and then kept for a bounded time.
    pub(crate) async fn bucket_keys(&self, bucket: &BucketRecord) -> Result<Arc<BucketKeys>> {
        if let Some((keys, since, of)) = self.bucket_keys.read().get(&bucket.id)
            && since.elapsed() < self.options.key_cache
            && *of == bucket.key
        {
            return Ok(Arc::clone(keys));
        }
        let lock = self.bucket_lock(bucket.id).await?;
        let keys = BucketKeys::unwrap(&lock, bucket.id, &bucket.key).map_err(from_crypto)?;
        let keys = Arc::new(keys);
        let mut cache = self.bucket_keys.write();
        // Destroyed while it was being opened: what is read already goes out, nothing is kept.
        if self.shelf.lock().lock(bucket.id).is_none() {
            return Err(SseError::BucketKeyDestroyed.into());
        }
        cache.insert(bucket.id, (Arc::clone(&keys), Instant::now(), bucket.key.clone()));
        Ok(keys)
    }

    async fn bucket_lock(&self, bucket: BucketId) -> Result<Secret32> {
        let wrapped = {
            let shelf = self.shelf.lock();
            match (shelf.lock(bucket), shelf.destroyed(bucket)) {
                (Some(wrapped), _) => wrapped.clone(),
                (None, Some(_)) => return Err(SseError::BucketKeyDestroyed.into()),
                (None, None) => {
                    return Err(StoreError::Corrupt(format!("no drive has the lock of bucket {:016x}", bucket.0)));
                }
            }
        };
        self.with_provider(move |provider| unwrap_lock(provider, bucket, &wrapped)).await
    }

    /// Keys for a new bucket: its lock is on the shelf when this returns.
    pub(crate) async fn new_bucket_keys(&self, bucket: BucketId) -> Result<WrappedKey> {
        let lock = Secret32::random();
        let wrapped = BucketKeys::generate().wrap(&lock, bucket);
        let locked = self.with_provider(move |provider| wrap_lock(provider, bucket, &lock)).await?;
        self.change_shelf(false, |shelf| shelf.with([(bucket, locked)]))?;
        Ok(wrapped)
    }

    /// Takes a deleted bucket's lock off the shelf. What fails is done by the next change of the shelf.
    pub(crate) fn forget_bucket_keys(&self, bucket: BucketId) {
        self.bucket_keys.write().remove(&bucket);
        self.cache.evict_bucket(bucket);
        if let Err(error) = self.change_shelf(true, |shelf| shelf.without(bucket)) {
            tracing::warn!(%error, "a deleted bucket's lock is still on some drives");
        }
    }

    /// Changes the shelf and writes it to every drive folder; returns those that did not take it. `keep`: the change
    /// holds in this process even where too few drives took it (what is to be forgotten is forgotten).
    pub(crate) fn change_shelf(&self, keep: bool, change: impl FnOnce(&Shelf) -> Shelf) -> Result<Vec<String>> {
        let mut shelf = self.shelf.lock();
        let next = change(&shelf);
        let folders = self.folders.read().clone();
        let bytes = next.to_bytes();
        let mut missed = Vec::new();
        for folder in &folders {
            if let Err(error) = raw::write_atomically(&folder.join(SHELF_FILE), &bytes) {
                tracing::error!(folder = %folder.display(), %error, "the bucket keys were not written to this drive");
                missed.push(format!("{}: {error}", folder.display()));
            }
        }
        let needed = folders.len().min(usize::from(self.options.scheme.m) + 1);
        let enough = folders.len() - missed.len() >= needed;
        if enough || keep {
            *shelf = next;
        } else {
            // Some drives may have it: no other content is ever written under its number.
            *shelf = shelf.passing(next.generation());
        }
        if enough {
            Ok(missed)
        } else {
            Err(StoreError::Unavailable(format!("too few drives took the bucket keys: {}", missed.join("; "))))
        }
    }

    /// Writes the shelf to the drives that have none or an older one.
    pub(crate) fn save_shelf(&self) {
        let bytes = self.shelf.lock().to_bytes();
        for folder in self.folders.read().iter() {
            let path = folder.join(SHELF_FILE);
            if std::fs::read(&path).is_ok_and(|there| there == bytes) {
                continue;
            }
            if let Err(error) = raw::write_atomically(&path, &bytes) {
                tracing::warn!(folder = %folder.display(), %error, "the bucket keys were not written to this drive");
            }
        }
    }

    /// Gives a bucket a fresh key for new data keys; older ones stay, and open what they wrapped.
    pub(crate) async fn rotate_bucket_key(&self, name: &BucketName) -> Result<u32> {
        let _turn = self.keys_turn.lock().await;
        let bucket = self.bucket(name)?;
        let lock = self.bucket_lock(bucket.id).await?;
        let keys = BucketKeys::unwrap(&lock, bucket.id, &bucket.key).map_err(from_crypto)?;
        let keys = keys.rotated().map_err(from_crypto)?;
        let change = BucketChange::Key(keys.wrap(&lock, bucket.id));
        self.propose(Command::ChangeBucket { name: name.clone(), change }).await?;
        self.bucket_keys.write().remove(&bucket.id);
        self.save_bucket_table();
        Ok(keys.active().generation())
    }

    /// Destroys a bucket's keys, and with them its bytes, for ever. Returns the drives that could not be written and
    /// may still hold the lock.
    pub(crate) async fn destroy_bucket_key(&self, name: &BucketName) -> Result<Vec<String>> {
        let _turn = self.keys_turn.lock().await;
        let bucket = self.bucket(name)?;
        if bucket.options.object_lock {
            let why = "the bucket has object lock: its keys cannot be destroyed";
            return Err(granary_meta::command::Refusal::Locked(why).into());
        }
        let at_us = self.clock.now().as_micros();
        let result = self.change_shelf(true, |shelf| shelf.destroying(bucket.id, at_us));
        self.bucket_keys.write().remove(&bucket.id);
        self.cache.evict_bucket(bucket.id);
        tracing::warn!(bucket = %name, "the keys of a bucket were destroyed");
        result
    }

    /// Wraps every lock and every named key anew under the active root key; returns the drives that were missed.
    pub(crate) async fn rewrap_all(&self) -> Result<Vec<String>> {
        let _turn = self.keys_turn.lock().await;
        let old: Vec<(BucketId, WrappedKey)> =
            self.shelf.lock().buckets().map(|(id, wrapped)| (id, wrapped.clone())).collect();
        let rewrapped = self
            .with_provider(move |provider| {
                let anew = |(id, wrapped): (BucketId, WrappedKey)| {
                    Ok((id, wrap_lock(provider, id, &unwrap_lock(provider, id, &wrapped)?)?))
                };
                old.into_iter().map(anew).collect::<granary_crypto::Result<Vec<_>>>()
            })
            .await?;
        // A bucket that was deleted meanwhile does not come back.
        let missed = self.change_shelf(false, |shelf| {
            shelf.with(rewrapped.into_iter().filter(|(id, _)| shelf.lock(*id).is_some()))
        })?;
        self.rewrap_kms_keys().await?;
        Ok(missed)
    }

    /// Every bucket's keys, as they are shown.
    pub(crate) async fn list_bucket_keys(&self) -> Result<Vec<BucketKeyInfo>> {
        let mut shown = Vec::new();
        for bucket in self.index()?.list_buckets() {
            let destroyed_us = self.shelf.lock().destroyed(bucket.id);
            let (generation, keys) = match self.bucket_keys(&bucket).await {
                Ok(keys) => (keys.active().generation(), keys.count()),
                Err(_) => (0, 0),
            };
            shown.push(BucketKeyInfo { bucket: bucket.name.to_string(), generation, keys, destroyed_us });
        }
        Ok(shown)
    }
}
