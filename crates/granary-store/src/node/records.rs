//! Small named records of the metadata, for those above the store.

use std::sync::Arc;

use bytes::Bytes;
use granary_meta::command::Command;

use crate::api::Result;
use crate::inner::{Inner, from_meta};

/// Records by name, in the log and the index like everything else. Small ones: they are read whole.
#[derive(Clone)]
pub struct SystemRecords {
    pub(super) inner: Arc<Inner>,
}

impl SystemRecords {
    /// All records whose names begin with `prefix`, in name order.
    ///
    /// # Errors
    /// The index's.
    pub fn load(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        self.inner.index()?.systems(prefix).map_err(from_meta)
    }

    /// Writes (or with `None` removes) a record; durable on return.
    ///
    /// # Errors
    /// That the log takes no commands.
    pub async fn set(&self, name: String, value: Option<Bytes>) -> Result<()> {
        self.inner.propose(Command::SetSystem { name, value }).await.map(|_| ())
    }
}
