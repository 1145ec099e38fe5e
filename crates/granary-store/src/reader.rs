//! A version of an object that stays open: what was looked up once is read here and there, as batches do.
//!
//! While it is open the reaper leaves its parts alone, so that it reads what it was opened on even when the key has other bytes by
//! now or none. Keys are asked for with each read: without their provider it fails closed, as any read.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use granary_meta::records::BucketRecord;
use granary_types::ByteRange;

use crate::api::{BodyOut, GetRequest, ObjectInfo, ObjectReader, Result, Unlock};
use crate::egress::Kept;
use crate::error::StoreError;
use crate::inner::Inner;

struct Opened {
    inner: Arc<Inner>,
    bucket: Arc<BucketRecord>,
    info: ObjectInfo,
    inline: Option<Bytes>,
    unlock: Unlock,
    /// Keeps the reaper away.
    _kept: Vec<Kept>,
}

impl Inner {
    /// Opens the version that `request` means; its portion is not looked at.
    ///
    /// # Errors
    /// As [`Inner::get`].
    pub(crate) fn open(self: &Arc<Self>, request: &GetRequest) -> Result<Arc<dyn ObjectReader>> {
        let bucket = self.bucket(&request.bucket)?;
        let (info, inline, kept) = self.look_up_kept(&bucket, request)?;
        let (inner, unlock) = (Arc::clone(self), request.unlock.clone());
        Ok(Arc::new(Opened { inner, bucket, info, inline, unlock, _kept: kept }))
    }
}

impl ObjectReader for Opened {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, start: u64, end: u64) -> BoxFuture<'_, Result<BodyOut>> {
        async move {
            if start > end || end > self.info.object.size_bytes {
                let size_bytes = self.info.object.size_bytes;
                return Err(StoreError::Internal(format!("bytes {start} to {end} of an object of {size_bytes}")));
            }
            if start == end {
                return Ok(futures::stream::empty().boxed());
            }
            let range = ByteRange { start, end };
            self.inner.read(&self.bucket, &self.info.object, self.inline.clone(), range, &self.unlock).await
        }
        .boxed()
    }
}
