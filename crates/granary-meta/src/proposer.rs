//! The only way to change metadata, as those above see it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_types::Clock;
use parking_lot::Mutex;

use crate::apply::apply_one;
use crate::command::{Command, Envelope, Outcome};
use crate::error::Result;
use crate::index::{Index, IndexHandle, IndexOptions};

/// Orders commands, makes them durable, applies them.
///
/// # Contract
/// - `propose` resolves once the command is durable *and* applied; what its outcome says is then in the index
///   that `index()` loads, for every reader.
/// - [`Outcome::Refused`] means that nothing changed. An error of `propose` means that nothing changed
///   either, with two exceptions: after [`crate::MetaError::Unavailable`] and [`crate::MetaError::Closed`] the
///   command may yet be applied, as after a lost connection. Dropping the future does not withdraw the command.
/// - Commands of one caller, proposed one after the other's outcome, are applied in that order.
/// - After `read_barrier` resolves, the index holds all that was acknowledged to anybody before it was called.
pub trait Proposer: Send + Sync + 'static {
    /// Proposes one command; the proposer adds the time.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome>> {
        self.propose_audited(command, None)
    }

    /// Proposes one command together with the audit event of its request: both become durable in one frame.
    fn propose_audited(&self, command: Command, audit: Option<Bytes>) -> BoxFuture<'_, Result<Outcome>>;

    /// Resolves when reads of the index are linearizable.
    fn read_barrier(&self) -> BoxFuture<'_, Result<()>>;

    /// The live index.
    fn index(&self) -> IndexHandle;
}

/// The memory twin: no log, an index in memory, lost when dropped. For tests of those above.
pub struct MemoryProposer {
    index: IndexHandle,
    clock: Arc<dyn Clock>,
    turn: Mutex<()>,
}

impl MemoryProposer {
    /// An empty one.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self> {
        let options = IndexOptions { cache_bytes: 32 << 20, env: Some(rocksdb::Env::mem_env()?), ..Default::default() };
        let index = Index::open(std::path::Path::new("/granary-memory-index"), Some([0; 16]), &options)?;
        Ok(Self { index: IndexHandle::new(Arc::new(index)), clock, turn: Mutex::new(()) })
    }
}

impl Proposer for MemoryProposer {
    fn propose_audited(&self, command: Command, audit: Option<Bytes>) -> BoxFuture<'_, Result<Outcome>> {
        let run = || {
            let index = self.index.load()?;
            let _turn = self.turn.lock();
            apply_one(&index, index.applied() + 1, &Envelope { at: self.clock.now(), command, audit })
        };
        Box::pin(std::future::ready(run()))
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn index(&self) -> IndexHandle {
        self.index.clone()
    }
}
