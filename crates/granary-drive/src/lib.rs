//! One drive: segments, io_uring, group commit, recovery, reclaim, scrub. Row 1; the only crate with `unsafe`.

pub mod api;
pub mod buf;
