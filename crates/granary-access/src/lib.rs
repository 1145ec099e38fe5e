//! Placeholder line, replaced by the crate.
