//! What the twin's `open` gives: bytes in memory.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use granary_store::api::{BodyOut, ObjectInfo, ObjectReader, Result};

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
