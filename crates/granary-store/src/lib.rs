//! Object semantics over stripes and metadata: buckets, versions, multipart, conditions, the reaper.
//!
//! Row 3. Seals and opens chunks (plaintext never goes below this crate), checks what clients claim about
//! their bytes, and proposes commands. Knows no HTTP.

pub mod ai;
pub mod api;
pub mod audit;
pub mod error;

mod active;
mod append;
mod buckets;
pub mod cache;
mod condition;
pub mod dedup;
mod digest;
mod egress;
mod events;
mod header;
mod heal;
mod ingest;
mod inner;
pub mod keys;
pub mod lifecycle;
mod md5_farm;
pub mod meter;
mod multipart;
pub mod node;
mod objects;
pub mod origin;
mod reader;
mod reaper;
pub mod residency;
pub mod sse;
mod stats;
mod store;
mod tables;
pub mod upstream;

pub use api::{ObjectReader, ObjectStore};
pub use audit::{AuditLog, AuditOptions, AuditScope};
pub use error::StoreError;
pub use heal::HealMode;
pub use inner::StoreOptions;
pub use stats::StoreStats;
pub use store::Store;
