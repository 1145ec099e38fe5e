//! What an answer is made of. How events are framed (`application/vnd.amazon.eventstream`) is the front door's.

use bytes::Bytes;

/// What has been done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Bytes read of the object.
    pub scanned_bytes: u64,
    /// Bytes of records, after decompression.
    pub processed_bytes: u64,
    /// Bytes of records in the answer.
    pub returned_bytes: u64,
}

/// A piece of the answer. The last one is `End`, without which the answer is not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Whole or partial records, in order.
    Records(Bytes),
    /// How far it is, where the client asked to know.
    Progress(Counts),
    /// Still at work: keeps the connection open while there is nothing to say.
    Cont,
    /// What it took.
    Stats(Counts),
    /// The answer is whole.
    End,
}
