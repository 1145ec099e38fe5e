//! The metadata store of one node: log, index and checkpoints put together.

use std::sync::Arc;

use futures::future::BoxFuture;
use granary_types::DriveId;

use crate::command::{Command, Outcome};
use crate::error::Result;
use crate::index::IndexHandle;
use crate::options::{MirrorFolder, OpenOptions, RecoveryReport};
use crate::proposer::Proposer;
use crate::stats::MetaStats;

/// The metadata of one node, open.
#[derive(Debug)]
pub struct MetaStore {
    inner: private::Inner,
}

mod private {
    #[derive(Debug)]
    pub(super) enum Inner {}
}

impl MetaStore {
    /// Opens or begins the store (blocking: reads the log, may copy a checkpoint).
    ///
    /// # Errors
    /// [`crate::MetaError::LogDamaged`] and others, when what is there cannot be trusted.
    pub fn open(_options: OpenOptions) -> Result<(Self, RecoveryReport)> {
        Err(crate::MetaError::Unavailable("the local log is being written".to_owned()))
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<MetaStats> {
        match self.inner {}
    }

    /// The drives that hold the log now.
    #[must_use]
    pub fn mirrors(&self) -> Vec<DriveId> {
        match self.inner {}
    }

    /// Offers a folder as a replacement for a lost mirror (now or later).
    pub fn offer(&self, _folder: MirrorFolder) {
        match self.inner {}
    }

    /// Withdraws a drive: its folder is used no more (blocking until it is replaced or dropped).
    pub fn withdraw(&self, _drive: DriveId) {
        match self.inner {}
    }

    /// Makes a checkpoint now and cuts the log (blocking).
    ///
    /// # Errors
    /// When fewer than `mirrors` folders took it.
    pub fn checkpoint(&self) -> Result<()> {
        match self.inner {}
    }

    /// Takes no more commands, finishes those queued, makes a checkpoint (blocking).
    ///
    /// # Errors
    /// As `checkpoint`.
    pub fn close(&self) -> Result<()> {
        match self.inner {}
    }
}

impl Proposer for MetaStore {
    fn propose(&self, _command: Command) -> BoxFuture<'_, Result<Outcome>> {
        match self.inner {}
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<()>> {
        match self.inner {}
    }

    fn index(&self) -> IndexHandle {
        match self.inner {}
    }
}
