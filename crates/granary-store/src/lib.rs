//! Object semantics over stripes and metadata: buckets, versions, multipart, conditions, the reaper.
//!
//! Row 3. Seals and opens chunks (plaintext never goes below this crate), checks what clients claim about
//! their bytes, and proposes commands. Knows no HTTP.

pub mod api;
pub mod error;

pub use api::ObjectStore;
pub use error::StoreError;
