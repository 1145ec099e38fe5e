//! The root key of a node: rotated while it serves.

use std::sync::Arc;

use granary_crypto::KeyProvider;
use serde::Serialize;

use super::open::place_keyring;
use super::{Node, NodeError};

/// What a rotation of the root key did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootRotation {
    /// What keeps the root key now.
    pub provider: String,
    /// Older root keys are gone: what they wrapped, wherever a copy of it lies, cannot be opened any more.
    pub retired: bool,
    /// Drives that could not be written; while there are any, older root keys stay.
    pub missed: Vec<String>,
}

impl Node {
    /// What keeps the root key.
    #[must_use]
    pub fn key_provider(&self) -> String {
        self.store.inner.provider.describe()
    }

    /// Makes a fresh root key and wraps everything anew that root keys wrap: the keyring, the buckets' locks, the named
    /// keys. No object is touched. When every drive has it, older root keys are forgotten. Cut short at any point it
    /// leaves all that is needed to read, and can be run again.
    ///
    /// # Errors
    /// The provider's, or that the drives or the log could not be written.
    pub async fn rotate_root_key(&self) -> Result<RootRotation, NodeError> {
        let _turn = self.acts.lock().await;
        let inner = &self.store.inner;
        inner.with_provider(|provider: &dyn KeyProvider| provider.rotate()).await?;
        let old = Arc::clone(&self.keyring.read());
        let keyring = inner.with_provider(move |provider| old.rewrap(provider)).await?;
        let mut missed = Vec::new();
        let drives = self.open.lock().clone();
        let mut placed = 0usize;
        for open in &drives {
            match place_keyring(&open.path, &keyring) {
                Ok(()) => placed += 1,
                Err(error) => missed.push(error.to_string()),
            }
        }
        let needed = drives.len().min(usize::from(self.options.store.scheme.m) + 1);
        if placed < needed {
            return Err(NodeError::Store(crate::StoreError::Unavailable(format!(
                "too few drives took the keyring: {}",
                missed.join("; ")
            ))));
        }
        *self.keyring.write() = Arc::new(keyring);
        missed.extend(inner.rewrap_all().await?);
        let retired = missed.is_empty();
        if retired {
            inner.with_provider(|provider: &dyn KeyProvider| provider.retire()).await?;
        }
        tracing::warn!(provider = %self.key_provider(), retired, "the root key was rotated");
        Ok(RootRotation { provider: self.key_provider(), retired, missed })
    }
}
