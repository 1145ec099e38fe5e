//! The bytes that are queried.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;

/// Why bytes could not be read. What it says goes to the log; the client hears `InternalError`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// Bytes being read: frames of any size, as many bytes as were asked for or an error.
pub type Reading = BoxStream<'static, Result<Bytes, ReadError>>;

/// One immutable state of an object. All reads are of the same state.
pub trait Object: Send + Sync + 'static {
    /// Its size.
    fn size_bytes(&self) -> u64;

    /// Reads a range within the size. Nothing is read ahead of what is polled for (but what the store itself prefetches),
    /// and dropping the stream ends the read.
    fn read(&self, range: Range<u64>) -> Reading;
}
