//! The audit trail as data: what an event is, how it reads as CloudTrail JSON, how events are sealed into segments, and how
//! segments are verified by somebody who has nothing but the files.
//!
//! Row 1, no I/O. The chain itself is [`granary_types::audit`]; that every mutation's event is in the log before
//! it is answered is `granary-meta`'s and `granary-store`'s doing. `docs/format/audit.md` has the formats.

mod cloudtrail;
mod event;
mod filter;
mod parquet;
mod seal;
mod segment;
mod verify;

pub use cloudtrail::cloudtrail;
pub use event::{Actor, Event, EventTls, Signature, Source};
pub use filter::Filter;
pub use parquet::ParquetError;
pub use seal::{ClockState, PublicKey, Seal, SealError, SealInput, SealedFile, Sealer, Statement, verify_signature};
pub use segment::{SegmentError, read_records, write as write_segment};
pub use verify::{Finding, InputFile, Question, Report, verify};
