//! Aligned, pooled, owned buffers.

/// Placeholder until the drive lands.
#[derive(Debug)]
pub struct AlignedBuf;
/// Placeholder until the drive lands.
#[derive(Debug, Clone)]
pub struct AlignedBytes;
