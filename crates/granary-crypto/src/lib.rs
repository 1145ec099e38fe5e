//! Envelope encryption. Row 1; no `unsafe`, and no I/O but the root key file.
//!
//! ```text
//! root key (KeyProvider)          held by the owner: a file now; environment, PKCS#11, Vault later
//!   ├─ wraps the system keys      (Keyring: log, index, drive index, drive headers, cluster secret)
//!   ├─ wraps named keys           (KmsKey: what clients name for SSE-KMS)
//!   └─ wraps bucket locks         (Shelf: in one file beside the drives; destroying one shreds the bucket)
//!        └─ wrap bucket keys      (BucketKeys: in the bucket's record; the newest wraps, all open)
//!             └─ wrap data keys   (DataKey: one per part; locked with a named or a customer's key first, or not)
//!                  └─ seals chunks (ChunkCipher: AES-256-GCM, nonce and AAD from part and position)
//! ```
//!
//! Guarantees: keys leave this crate only wrapped ([`granary_types::WrappedKey`]); secrets are wiped when
//! dropped and never appear in `Debug`; every opening is authenticated. Formats: `docs/format/chunk.md`
//! and `docs/format/keyring.md`. Left to others: where files lie, caching of opened keys, what is sealed.

pub mod blob;
pub mod blocks;
pub mod bucket;
pub mod chunk;
pub mod error;
pub mod file;
pub mod keyring;
pub mod keys;
pub mod locked;
pub mod locks;
pub mod provider;
pub mod secret;
pub mod shelf;
pub mod signing;
mod xaes;

pub use blob::{BLOB_OVERHEAD_BYTES, BlobKey, NonceKey, open_blob, seal_blob};
pub use blocks::BlockNamer;
pub use bucket::BucketKeys;
pub use chunk::ChunkCipher;
pub use error::{CryptoError, OpenError, Result};
pub use file::{FileKeyProvider, TextKeyProvider};
pub use keyring::{Keyring, SystemKeys};
pub use keys::{BucketKey, DataKey};
pub use locks::{CustomerKey, KmsKey, Lock};
pub use provider::{KeyProvider, MemoryKeyProvider, RootKeyId, RootKeys};
pub use secret::Secret32;
pub use shelf::Shelf;
pub use signing::{Signer, is_signature};
