//! Reading an object here and there: small windows where the reader hops, growing ones where it goes straight on.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use granary_meta::command::EtagMatch;
use granary_types::{BucketName, ObjectKey, RangeSpec, VersionId};

use crate::ai::AiError;
use crate::api::{BodyOut, GetRequest, ObjectInfo, ObjectStore, Portion, ReadCondition, Unlock};
use crate::error::StoreError;

/// The first window after a hop.
const WINDOW_BYTES_MIN: u64 = 64 << 10;
/// The largest window.
const WINDOW_BYTES_MAX: u64 = 16 << 20;
/// A gap of at most this is read over rather than hopped over.
const GAP_BYTES_MAX: u64 = 256 << 10;

/// One version of an object, as a look-up found it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// What was found.
    pub info: ObjectInfo,
}

impl Found {
    /// Looks the object up.
    ///
    /// # Errors
    /// The store's: no such bucket, key or version among them.
    pub async fn look_up(
        store: &dyn ObjectStore,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<Self, StoreError> {
        let info = store
            .head(GetRequest {
                bucket: bucket.clone(),
                key: key.clone(),
                version,
                portion: Portion::Whole,
                condition: ReadCondition::default(),
                unlock: Unlock::Plain,
            })
            .await?;
        Ok(Self { bucket: bucket.clone(), key: key.clone(), info })
    }

    /// Bytes `start..end` of this very version.
    ///
    /// # Errors
    /// [`AiError::Changed`] if the key has other bytes by now, else the store's.
    pub async fn read(&self, store: &dyn ObjectStore, start: u64, end: u64) -> Result<BodyOut, AiError> {
        if start >= end {
            return Ok(futures::stream::empty().boxed());
        }
        let request = GetRequest {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            version: self.info.version,
            portion: Portion::Range(RangeSpec::From { first: start, last: Some(end - 1) }),
            condition: ReadCondition {
                if_match: Some(EtagMatch::OneOf(vec![self.info.object.etag.clone()])),
                ..ReadCondition::default()
            },
            unlock: Unlock::Plain,
        };
        match store.get(request).await {
            Ok((info, body)) if info.created == self.info.created => Ok(body),
            Ok(_) | Err(StoreError::Precondition(_) | StoreError::NoSuchKey { .. } | StoreError::NoSuchVersion) => {
                Err(AiError::Changed)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// An object being read in pieces.
pub struct Source {
    store: Arc<dyn ObjectStore>,
    found: Found,
    body: Option<BodyOut>,
    frame: Bytes,
    /// Where `frame` begins.
    at: u64,
    /// Where the open window ends.
    window_end: u64,
    window_bytes: u64,
}

impl Source {
    /// A reader of `found`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, found: Found) -> Self {
        Self { store, found, body: None, frame: Bytes::new(), at: 0, window_end: 0, window_bytes: WINDOW_BYTES_MIN }
    }

    /// `len` bytes from `at`; the object must have them.
    ///
    /// # Errors
    /// As [`Found::read`].
    pub async fn bytes(&mut self, at: u64, len: usize) -> Result<Bytes, AiError> {
        let size_bytes = self.found.info.object.size_bytes;
        if at.checked_add(len as u64).is_none_or(|end| end > size_bytes) {
            return Err(StoreError::Internal(format!("{len} bytes from {at} of an object of {size_bytes}")).into());
        }
        if at < self.at || at - self.at > GAP_BYTES_MAX.max(self.frame.len() as u64) {
            self.body = None;
            self.frame = Bytes::new();
            self.window_bytes = WINDOW_BYTES_MIN;
            self.at = at;
            self.window_end = at;
        }
        let mut out = BytesMut::new();
        let mut from = at;
        loop {
            let skip = usize::try_from(from - self.at).unwrap_or(usize::MAX).min(self.frame.len());
            drop(self.frame.split_to(skip));
            self.at += skip as u64;
            if self.at == from {
                let wanted = len - out.len();
                let take = self.frame.split_to(wanted.min(self.frame.len()));
                self.at += take.len() as u64;
                from = self.at;
                if out.is_empty() && take.len() == len {
                    return Ok(take);
                }
                out.extend_from_slice(&take);
                if out.len() == len {
                    return Ok(out.freeze());
                }
            }
            self.next_frame().await?;
        }
    }

    async fn next_frame(&mut self) -> Result<(), AiError> {
        loop {
            if let Some(body) = &mut self.body {
                match body.next().await.transpose()? {
                    Some(frame) if frame.is_empty() => continue,
                    Some(frame) => {
                        self.frame = frame;
                        return Ok(());
                    }
                    None if self.at < self.window_end => {
                        return Err(StoreError::Internal("the store's stream ended short".to_owned()).into());
                    }
                    None => self.body = None,
                }
            }
            let size_bytes = self.found.info.object.size_bytes;
            self.window_end = self.at.saturating_add(self.window_bytes).min(size_bytes);
            self.window_bytes = (self.window_bytes * 2).min(WINDOW_BYTES_MAX);
            if self.window_end <= self.at {
                return Err(StoreError::Internal("reading past the object's end".to_owned()).into());
            }
            self.body = Some(self.found.read(&*self.store, self.at, self.window_end).await?);
        }
    }
}
