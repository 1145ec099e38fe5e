//! Parts of the twin: what its `open` gives (bytes in memory), and whether a version may go.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use granary_meta::command::Refusal;
use granary_meta::records::{Retention, RetentionMode};
use granary_store::api::{BodyOut, ObjectInfo, ObjectReader, Result};
use granary_types::Timestamp;

/// An object of the twin that stays open.
pub struct Opened {
    info: ObjectInfo,
    bytes: Bytes,
}

impl Opened {
    pub fn shared((info, bytes): (ObjectInfo, Bytes)) -> Arc<dyn ObjectReader> {
        Arc::new(Self { info, bytes })
    }
}

impl ObjectReader for Opened {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, start: u64, end: u64) -> BoxFuture<'_, Result<BodyOut>> {
        let bytes = self.bytes.slice(usize::try_from(start).unwrap()..usize::try_from(end).unwrap());
        Box::pin(std::future::ready(Ok(futures::stream::iter([Ok(bytes)]).boxed())))
    }
}

/// Whether a version with this lock may be deleted.
pub fn check_retention(retention: Option<Retention>, hold: bool, now: Timestamp, bypass: bool) -> Result<()> {
    if hold {
        return Err(Refusal::Locked("legal hold").into());
    }
    match retention {
        Some(r) if r.until > now && (r.mode == RetentionMode::Compliance || !bypass) => {
            Err(Refusal::Locked("retention").into())
        }
        _ => Ok(()),
    }
}
