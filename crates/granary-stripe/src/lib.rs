//! A part as `k + m` shards over drives. Row 2; sees sealed bytes only and holds no keys.
//!
//! Guarantees: a committed part is durable on every drive of its placement that was up, never fewer than
//! `write_quorum`; any `m` shards may be lost or damaged in any way and reads still give the bytes that
//! were written; damage is reported once found; repair says it succeeded only after reading back what it
//! wrote. Format: `docs/format/stripe.md`. Left to others: sealing and opening chunks (and so the last
//! word on whether bytes are right), recording placements, deciding what to repair and when.

pub mod codec;
pub mod drives;
pub mod error;
pub mod layout;
pub mod placement;
pub mod read;
pub mod rebuild;
pub mod repair;
pub mod stats;
pub mod store;
pub mod write;

pub use drives::{DriveEntry, DriveSet};
pub use error::{Result, StripeError};
pub use layout::{ChunkPlace, PartLayout, StripePlace, scheme_for};
pub use read::{ChunkStream, SealedRun};
pub use repair::{FreeOutcome, RepairOutcome, RepairPlan};
pub use stats::{DamageKind, DamageReport, StripeStats};
pub use store::{StripeOptions, StripeStore};
pub use write::PartWriter;
