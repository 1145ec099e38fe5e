//! The form in which keys may leave `granary-crypto`: wrapped.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A key encrypted under another key. Safe to store; its debug form shows only a length.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WrappedKey(pub Vec<u8>);

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({} bytes)", self.0.len())
    }
}
