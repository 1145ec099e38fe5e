//! Tests of whole drives.

mod crash;
mod golden;
mod local;
mod space;

use std::path::Path;
use std::sync::Arc;

use granary_types::{ClusterId, DriveId};

use crate::io::IoEngine;
use crate::testing::SimEngine;
use crate::{BufPool, LocalDrive, OpenOptions};

pub(crate) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
pub(crate) const KEY: [u8; 32] = [0x4b; 32];

/// Options for a small drive.
pub(crate) fn options(path: &Path, engine: Arc<dyn IoEngine>) -> OpenOptions {
    let mut options = OpenOptions::new(path, CLUSTER, KEY, engine, BufPool::new(64 << 20));
    options.format = true;
    options.drive_id = Some(DriveId([0xd1; 16]));
    options.segment_bytes = 8 << 20;
    options.reserve_bytes = 1 << 20;
    options.header_key = Some(zeroize::Zeroizing::new([0x4d; 32]));
    options
}

pub(crate) fn open(path: &Path, engine: Arc<dyn IoEngine>) -> LocalDrive {
    LocalDrive::open(options(path, engine)).unwrap()
}

pub(crate) fn sim(seed: u64) -> (SimEngine, Arc<dyn IoEngine>) {
    let sim = SimEngine::new(seed);
    let engine: Arc<dyn IoEngine> = Arc::new(sim.clone());
    (sim, engine)
}
