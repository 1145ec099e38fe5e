//! Reads of a bucket that has an upstream: from what is here, else from there.

use std::sync::Arc;

use granary_meta::records::{Attributes, BucketRecord, Fetched, Verified};
use granary_types::limits::KEY_BYTES_MAX;
use granary_types::{BucketName, ObjectKey, VersionId};
use tokio::sync::OwnedSemaphorePermit;

use super::BucketStats;
use super::fetch::{Copied, Joined, check_head, noticed, object_of, version_of};
use super::flights::{Landing, Waiting};
use super::rule::Source;
use crate::api::{BodyOut, GetRequest, ObjectInfo, Portion, Result, Unlock};
use crate::error::StoreError;
use crate::inner::{Inner, from_meta};

/// How often a read looks again because the key was changed under it.
const TURNS_MAX: usize = 8;

/// What there is to do for a read.
enum Look {
    /// Read what is here.
    Here,
    /// There is nothing, and the upstream is not to be asked.
    Absent,
    /// Ask the upstream, for an object or whether this copy is still right.
    Ask(Option<Copied>),
}

/// A landing that is a failure, as the error that a client gets.
pub(super) fn failure(bucket: &BucketRecord, landing: Landing) -> Option<StoreError> {
    match landing {
        Landing::Upstream(error) => Some(StoreError::Upstream { bucket: bucket.name.clone(), error }),
        Landing::Own(error) => Some(again(&error)),
        Landing::Absent => Some(StoreError::NoSuchKey { delete_marker: None }),
        Landing::Landed { .. } | Landing::Current | Landing::Overtaken => None,
    }
}

/// An error that several who wait get.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Refused(refusal) => StoreError::Refused(refusal.clone()),
        StoreError::Full => StoreError::Full,
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::KeysUnavailable(why) => StoreError::KeysUnavailable(why.clone()),
        StoreError::WrongRegion { region } => StoreError::WrongRegion { region: region.clone() },
        StoreError::Contradiction(why) => StoreError::Contradiction(why.clone()),
        other => StoreError::Internal(other.to_string()),
    }
}

impl Inner {
    /// A place among the fetches.
    pub(super) async fn fetch_permit(&self) -> Result<OwnedSemaphorePermit> {
        let acquire = Arc::clone(&self.fetches).acquire_owned();
        match tokio::time::timeout(self.options.ingest_wait, acquire).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(StoreError::Unavailable("the node is shutting down".to_owned())),
            Err(_) => Err(StoreError::Unavailable("too many fetches at once: please reduce the rate".to_owned())),
        }
    }

    fn look(&self, bucket: &BucketRecord, source: &Source, key: &ObjectKey, is_checked: bool) -> Result<Look> {
        let index = self.index()?;
        let is_frozen = bucket.frozen(key.as_str()).is_some();
        let Some(record) = index.current(bucket.id, key).map_err(from_meta)? else {
            let is_known = is_frozen
                || source.site.prefix.len() + key.as_str().len() > KEY_BYTES_MAX
                || self.upstream_memory.is_absent(bucket.id, key.as_str(), source.rule.id, self.clock.now())
                || index.is_unwritten(bucket.id, key.as_str()).map_err(from_meta)?;
            return Ok(if is_known { Look::Absent } else { Look::Ask(None) });
        };
        let (Some(fetched), Some(age_s)) = (record.fetched(), source.rule.revalidate_s) else { return Ok(Look::Here) };
        if is_checked || is_frozen {
            return Ok(Look::Here);
        }
        let known = self.upstream_memory.checked_at(bucket.id, key.as_str(), record.created);
        let since = known.unwrap_or(fetched.at);
        let is_due = self.clock.now().0.saturating_sub(since.0) >= age_s.saturating_mul(1_000_000);
        Ok(if is_due { Look::Ask(Some((record.created, fetched.etag.clone()))) } else { Look::Here })
    }

    /// Waits for a fetch, not for ever.
    async fn landed(&self, bucket: &BucketRecord, mut waiting: Waiting) -> Result<Landing> {
        let wait = self.options.upstream.wait;
        match tokio::time::timeout(wait, waiting.wait_for(Option::is_some)).await {
            Ok(Ok(landing)) => Ok(landing.clone().unwrap_or(Landing::Overtaken)),
            Ok(Err(_)) => Ok(Landing::Overtaken),
            Err(_) => Err(StoreError::Unavailable(format!(
                "the object is still being fetched from the upstream of bucket {}: please try again",
                bucket.name
            ))),
        }
    }

    /// `GetObject` of the current version.
    pub(crate) async fn get_through(
        self: &Arc<Self>,
        bucket: &Arc<BucketRecord>,
        source: &Arc<Source>,
        request: &GetRequest,
    ) -> Result<(ObjectInfo, BodyOut)> {
        let wants_tee = request.portion == Portion::Whole && matches!(request.unlock, Unlock::Plain);
        let mut is_checked = false;
        for turn in 0..TURNS_MAX {
            match self.look(bucket, source, &request.key, is_checked)? {
                Look::Here => {
                    BucketStats::add(&source.stats.hits, u64::from(turn == 0));
                    match self.get_here(bucket, request).await {
                        // It went between the look and the read.
                        Err(StoreError::NoSuchKey { delete_marker: None }) => {}
                        done => return done,
                    }
                }
                Look::Absent => return Err(StoreError::NoSuchKey { delete_marker: None }),
                Look::Ask(replaces) => {
                    BucketStats::add(&source.stats.misses, u64::from(turn == 0));
                    let Joined { waiting, tee } = self.fetch(bucket, source, &request.key, replaces, wants_tee)?;
                    if let Some(tee) = tee
                        && let Ok(Ok(tee)) = tokio::time::timeout(self.options.upstream.wait, tee).await
                    {
                        let size_bytes = tee.record.object().map_or(0, |object| object.size_bytes);
                        let info = self.info(bucket, tee.record, request)?;
                        return Ok((info, self.teed(bucket, &request.key, tee.frames, waiting, size_bytes)));
                    }
                    let landing = self.landed(bucket, waiting).await?;
                    is_checked = matches!(landing, Landing::Landed { .. } | Landing::Current);
                    if let Some(error) = failure(bucket, landing) {
                        return Err(error);
                    }
                }
            }
        }
        Err(StoreError::Unavailable("the object is being changed: please try again".to_owned()))
    }

    /// `HeadObject` of the current version. What is not here is asked for, and not fetched.
    pub(crate) async fn head_through(
        self: &Arc<Self>,
        bucket: &Arc<BucketRecord>,
        source: &Arc<Source>,
        request: &GetRequest,
    ) -> Result<ObjectInfo> {
        match self.look(bucket, source, &request.key, false)? {
            Look::Here => {}
            Look::Absent => return Err(StoreError::NoSuchKey { delete_marker: None }),
            Look::Ask(Some(replaces)) => {
                let joined = self.fetch(bucket, source, &request.key, Some(replaces), false)?;
                if let Some(error) = failure(bucket, self.landed(bucket, joined.waiting).await?) {
                    return Err(error);
                }
            }
            Look::Ask(None) => {
                BucketStats::add(&source.stats.misses, 1);
                return self.head_there(bucket, source, request).await;
            }
        }
        self.head_here(bucket, request)
    }

    async fn head_there(
        &self,
        bucket: &Arc<BucketRecord>,
        source: &Source,
        request: &GetRequest,
    ) -> Result<ObjectInfo> {
        let wire = self.wire(bucket)?;
        let _permit = self.fetch_permit().await?;
        let found = wire.client.head(&source.site, &source.site.key(request.key.as_str())).await;
        let found = found.and_then(|head| head.map(|head| check_head(&head).map(|()| head)).transpose());
        let head = match found {
            Ok(Some(head)) => head,
            Ok(None) => {
                self.note_absent(bucket, &request.key, source);
                return Err(StoreError::NoSuchKey { delete_marker: None });
            }
            Err(error) => {
                noticed(bucket, source, request.key.as_str(), &error);
                return Err(StoreError::Upstream { bucket: bucket.name.clone(), error });
            }
        };
        let attributes = Attributes {
            headers: head.headers.clone(),
            user_metadata: head.user_metadata.clone(),
            owner: bucket.owner.clone(),
            sse: (wire.default_sse)(bucket)?,
            ..Attributes::default()
        };
        let fetched = Fetched {
            etag: head.etag.clone(),
            modified: head.modified,
            at: self.clock.now(),
            // Nothing was, yet.
            verified: Verified::Length,
        };
        let info = self.info(bucket, version_of(object_of(&head, attributes), fetched), request)?;
        Ok(ObjectInfo { version: None, fetched: None, ..info })
    }

    /// Sees to it that an object that is about to be read from the index is there, if the upstream has it.
    pub(crate) async fn ensure_here(
        self: &Arc<Self>,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<()> {
        let bucket = self.bucket(bucket)?;
        let source = if version.is_some() { None } else { self.source(&bucket)? };
        let Some(source) = source else { return Ok(()) };
        let mut is_checked = false;
        for _ in 0..TURNS_MAX {
            let Look::Ask(replaces) = self.look(&bucket, &source, key, is_checked)? else { return Ok(()) };
            BucketStats::add(&source.stats.misses, 1);
            let joined = self.fetch(&bucket, &source, key, replaces, false)?;
            let landing = self.landed(&bucket, joined.waiting).await?;
            is_checked = matches!(landing, Landing::Landed { .. } | Landing::Current);
            if let Some(error) = failure(&bucket, landing) {
                return Err(error);
            }
        }
        Err(StoreError::Unavailable("the object is being changed: please try again".to_owned()))
    }
}
