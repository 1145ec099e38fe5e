//! Commands, deterministic apply, the index, the log, checkpoints. Row 2.
//!
//! The log is the only way to change metadata: [`Proposer::propose`] makes a [`command::Command`] durable on
//! all log mirrors that are up, [`apply`] turns it into one write batch of the [`index`], and the outcome goes back.
//! Reads are plain methods of [`Index`]. [`MetaStore::open`] is the way in; [`MemoryProposer`] is the twin for tests.

pub mod apply;
mod checkpoint;
mod checkpointer;
pub mod command;
pub mod error;
pub mod events;
#[doc(hidden)]
pub mod fuzzing;
pub mod index;
mod keeper;
mod log;
pub mod options;
pub mod proposer;
pub mod records;
pub mod rescue;
pub mod stats;
pub mod store;
pub mod upstream;

pub use apply::AUDIT_KEEP_DAYS;
pub use apply::expire::{LIFECYCLE_DOCUMENT, document_digest};
pub use error::{MetaError, Result};
pub use index::list::{ObjectPage, UploadPage, VersionPage};
pub use index::{
    AuditSealed, AuditState, BlockUsage, DriveEntry, EventQueue, Index, IndexHandle, IndexOptions, Usage, WithInline,
};
pub use options::{IndexSource, MetaKey, MirrorFolder, OpenOptions, RecoveryReport};
pub use proposer::{MemoryProposer, Proposer};
pub use stats::MetaStats;
pub use store::MetaStore;
