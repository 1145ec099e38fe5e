//! What buckets ask to be kept: checkpoints by rule, caches within their size. A worker goes round and removes the
//! rest by ordinary deletes, which locks, frozen datasets and retention refuse as they refuse anybody's.
//!
//! A run's only complete checkpoint is never removed: the newest `keep_last` (at least one) stay, and what is not
//! complete is never counted among them. A checkpoint in a folder loses its commit marker first, so that one that is half
//! removed is not taken for a whole one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use granary_meta::command::{Command, Condition, EtagMatch};
use granary_meta::records::BucketRecord;
use granary_meta::upstream::{UPSTREAM_DOCUMENT, Upstreamed};
use granary_types::{BucketId, BucketName, ObjectKey, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::ai::AiError;
use crate::ai::latest::{Checkpoint, LatestRequest, abandoned, all_complete};
use crate::api::{DeleteRequest, ListRequest, ObjectStore as _};
use crate::store::Store;

/// Name of the bucket document with [`Retention`].
pub const RETENTION: &str = "granary-retention";
/// Name of the bucket document with [`CacheRule`].
pub const CACHE: &str = "granary-cache";
/// Objects that one round removes from one cache, at most.
const EVICTED_MAX: usize = 65_536;
/// Uses remembered, at most.
const USES_MAX: usize = 1 << 20;
const HOUR_US: u64 = 3_600_000_000;

/// Which checkpoints of each run (each folder at the top of the bucket) stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The newest complete ones, so many; at least 1.
    pub keep_last: u64,
    /// Those whose step is a multiple of this; 0: none.
    #[serde(default)]
    pub keep_every: u64,
    /// Folders without a commit marker go when they are older than the newest complete checkpoint and nothing in them is
    /// younger than so many hours; 0: never.
    #[serde(default)]
    pub abandoned_hours: u64,
}

/// How large a cache may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRule {
    /// Bytes of all objects; above it the longest unused go, down to nine tenths of it.
    pub cache_bytes: u64,
    /// Objects that nobody has used for so many days go in any case; 0: never.
    #[serde(default)]
    pub expire_days: u64,
}

/// When objects of caches were last read: since this process started, as much as fits.
pub(crate) struct Uses {
    hasher: RandomState,
    at: Mutex<HashMap<u64, u32>>,
}

impl Default for Uses {
    fn default() -> Self {
        Self { hasher: RandomState::new(), at: Mutex::default() }
    }
}

impl Uses {
    /// Notes a read.
    pub(crate) fn touch(&self, bucket: BucketId, key: &str, now: Timestamp) {
        let name = self.hasher.hash_one((bucket, key));
        let mut at = self.at.lock();
        if at.len() >= USES_MAX && !at.contains_key(&name) {
            // Rare, and what is forgotten counts as used when it was written.
            at.clear();
        }
        at.insert(name, u32::try_from(now.as_secs()).unwrap_or(u32::MAX));
    }

    fn last(&self, bucket: BucketId, key: &str, created: Timestamp) -> u64 {
        let name = self.hasher.hash_one((bucket, key));
        self.at.lock().get(&name).map_or(0, |secs| u64::from(*secs)).max(created.as_secs())
    }
}

/// What a round did, for the log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Checkpoints removed.
    pub checkpoints: u64,
    /// Objects removed, those of checkpoints included.
    pub objects: u64,
}

/// Goes round until told to stop.
pub(crate) async fn run(store: Store, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(store.inner.options.keeper_interval).await;
        let done = round(&store).await;
        if done != Round::default() {
            tracing::info!(checkpoints = done.checkpoints, objects = done.objects, "removed by the buckets' rules");
        }
    }
}

/// One round over all buckets. What fails is logged and tried again in the next.
pub async fn round(store: &Store) -> Round {
    let mut done = Round::default();
    let Ok(buckets) = store.list_buckets() else { return done };
    for bucket in buckets {
        // Checkpoints of an upstream that is not written to are not ours to remove.
        let is_ours = match Upstreamed::of(&bucket) {
            Upstreamed::No => true,
            Upstreamed::Yes(rule) => rule.write_back,
            Upstreamed::Unreadable => false,
        };
        if let Some(rule) = rule::<Retention>(&bucket, RETENTION).filter(|_| is_ours)
            && let Err(error) = thin_out(store, &bucket, &rule, &mut done).await
        {
            tracing::warn!(bucket = %bucket.name, %error, "checkpoints were not thinned out");
        }
        if let Some(rule) = rule::<CacheRule>(&bucket, CACHE)
            && let Err(error) = shrink(store, &bucket, &rule, &mut done).await
        {
            tracing::warn!(bucket = %bucket.name, %error, "the cache was not brought to its size");
        }
    }
    done
}

fn rule<T: for<'de> Deserialize<'de>>(bucket: &BucketRecord, name: &str) -> Option<T> {
    let document = bucket.documents.get(name)?;
    serde_json::from_slice(document)
        .map_err(|error| tracing::warn!(bucket = %bucket.name, name, %error, "a rule cannot be read"))
        .ok()
}

/// Whether a checkpoint stays, being the `i`th newest of the complete ones.
fn stays(rule: &Retention, i: usize, step: u64) -> bool {
    (i as u64) < rule.keep_last.max(1) || (rule.keep_every > 0 && step.is_multiple_of(rule.keep_every))
}

async fn thin_out(store: &Store, bucket: &BucketRecord, rule: &Retention, done: &mut Round) -> Result<(), AiError> {
    let mut list = ListRequest { delimiter: Some("/".to_owned()), max_keys: 1000, ..ListRequest::default() };
    loop {
        let page = store.list(&bucket.name, &list).await?;
        for run in page.common_prefixes {
            let request = LatestRequest { prefix: run, ..LatestRequest::default() };
            let all = all_complete(store, &bucket.name, &request).await?;
            for (i, checkpoint) in all.iter().enumerate() {
                if !stays(rule, i, checkpoint.step) {
                    remove_checkpoint(store, &bucket.name, checkpoint, done).await?;
                }
            }
            if let (Some(newest), true) = (all.first(), rule.abandoned_hours > 0) {
                let before = store.inner.clock.now().0.saturating_sub(rule.abandoned_hours.saturating_mul(HOUR_US));
                for folder in abandoned(store, &bucket.name, &request, newest, Timestamp(before)).await? {
                    remove_folder(store, &bucket.name, &folder, done).await?;
                }
            }
        }
        match page.next_after {
            Some(after) => list.after = Some(after),
            None => return Ok(()),
        }
    }
}

async fn remove_checkpoint(
    store: &Store,
    bucket: &BucketName,
    checkpoint: &Checkpoint,
    done: &mut Round,
) -> Result<(), AiError> {
    // If it was written anew since it was looked at, it stays.
    let etag = Some(EtagMatch::OneOf(vec![checkpoint.etag.clone()]));
    let first = checkpoint.marker.as_ref().unwrap_or(&checkpoint.key);
    if !remove(store, bucket, first, etag).await {
        return Ok(());
    }
    done.objects += 1;
    done.checkpoints += 1;
    if checkpoint.marker.is_some() {
        remove_folder(store, bucket, &checkpoint.key, done).await?;
    }
    Ok(())
}

async fn remove_folder(store: &Store, bucket: &BucketName, folder: &str, done: &mut Round) -> Result<(), AiError> {
    let mut list = ListRequest { prefix: folder.to_owned(), max_keys: 1000, ..ListRequest::default() };
    loop {
        let page = store.list(bucket, &list).await?;
        for (key, _) in &page.objects {
            done.objects += u64::from(remove(store, bucket, key, None).await);
        }
        match page.next_after {
            Some(after) => list.after = Some(after),
            None => return Ok(()),
        }
    }
}

/// Removes an object; `false` if it was refused.
async fn remove(store: &Store, bucket: &BucketName, key: &str, if_match: Option<EtagMatch>) -> bool {
    let Ok(name) = ObjectKey::new(key.to_owned()) else { return false };
    let condition = Condition { if_match, ..Condition::default() };
    let request = DeleteRequest { bucket: bucket.clone(), key: name, version: None, condition, bypass: false };
    match store.delete(request).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%bucket, key, %error, "not removed");
            false
        }
    }
}

/// Removes a copy of an upstream's object, and tells the upstream nothing; `false` if it was refused.
async fn drop_copy(store: &Store, bucket: &BucketRecord, key: &str, created: Timestamp) -> bool {
    let Ok(name) = ObjectKey::new(key.to_owned()) else { return false };
    let command = Command::DropFetched { bucket: bucket.id, key: name, created };
    match store.inner.propose(command).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(bucket = %bucket.name, key, %error, "not removed");
            false
        }
    }
}

/// Removes what nobody used for long, and the longest unused while the cache is too large.
async fn shrink(store: &Store, bucket: &BucketRecord, rule: &CacheRule, done: &mut Round) -> Result<(), AiError> {
    let now = store.inner.clock.now().as_secs();
    let expired_before = match rule.expire_days {
        0 => 0,
        days => now.saturating_sub(days.saturating_mul(86_400)),
    };
    let mut sum = 0u64;
    let is_upstreamed = bucket.documents.contains_key(UPSTREAM_DOCUMENT);
    // The longest unused, the youngest of them on top: (last use, key, bytes, since when it is a copy).
    let mut oldest: BinaryHeap<(u64, String, u64, Option<Timestamp>)> = BinaryHeap::new();
    let mut list = ListRequest { max_keys: 1000, ..ListRequest::default() };
    loop {
        let page = store.inner.list_here(bucket, &list)?;
        for (key, version) in page.objects {
            let Some(object) = version.object() else { continue };
            sum = sum.saturating_add(object.size_bytes);
            // Of a bucket with an upstream only copies go: nobody else may have the rest.
            let copied = version.fetched().map(|_| version.created);
            if copied.is_none() && is_upstreamed {
                continue;
            }
            let used = store.inner.uses.last(bucket.id, &key, version.created);
            oldest.push((used, key, object.size_bytes, copied));
            if oldest.len() > EVICTED_MAX {
                oldest.pop();
            }
        }
        match page.next_after {
            Some(after) => list.after = Some(after),
            None => break,
        }
    }
    let target = if sum > rule.cache_bytes { rule.cache_bytes / 10 * 9 } else { u64::MAX };
    let mut oldest: Vec<_> = oldest.into_iter().map(Reverse).collect();
    oldest.sort_unstable_by(|a, b| b.cmp(a));
    for Reverse((used, key, size_bytes, copied)) in oldest {
        if sum <= target && used >= expired_before {
            break;
        }
        let is_gone = match copied {
            Some(created) => drop_copy(store, bucket, &key, created).await,
            None => remove(store, &bucket.name, &key, None).await,
        };
        if is_gone {
            sum = sum.saturating_sub(size_bytes);
            done.objects += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_every_kth() {
        let rule = Retention { keep_last: 2, keep_every: 100, abandoned_hours: 0 };
        let kept = |rule: &Retention, steps: &[u64]| -> Vec<u64> {
            steps.iter().enumerate().filter(|(i, step)| stays(rule, *i, **step)).map(|(_, step)| *step).collect()
        };
        assert_eq!(kept(&rule, &[350, 300, 250, 200, 150, 100]), [350, 300, 200, 100]);
        let none = Retention { keep_last: 0, keep_every: 0, abandoned_hours: 0 };
        assert_eq!(kept(&none, &[7, 6, 5]), [7], "the only one always stays");
    }

    #[test]
    fn uses_are_remembered_and_bounded() {
        let uses = Uses::default();
        let bucket = BucketId(1);
        assert_eq!(uses.last(bucket, "a", Timestamp::from_secs(5)), 5);
        uses.touch(bucket, "a", Timestamp::from_secs(9));
        assert_eq!(uses.last(bucket, "a", Timestamp::from_secs(5)), 9);
        assert_eq!(uses.last(BucketId(2), "a", Timestamp::from_secs(5)), 5);
    }
}
