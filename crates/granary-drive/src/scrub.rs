//! Scrub: reads every shard of a store and checks it, at a bounded rate, from where it left off.
//!
//! Works on any [`ShardStore`]. It only finds; repairing is the stripe's business, which knows the other shards.
//! The cursor is the last shard done: keep it and a later scrub goes on behind it. Shards written meanwhile
//! behind the cursor are met in the next round.

use std::time::Duration;

use granary_types::ShardId;
use tokio::time::Instant;

use crate::api::{DriveError, Result, ShardStore, VerifyReport};

/// Shards listed at once.
const PAGE: usize = 256;

/// How a scrub runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Reads no more than this, on average; 0 for no bound.
    pub bytes_per_second: u64,
    /// Goes on after this shard; `None` from the front.
    pub after: Option<ShardId>,
}

/// What a scrub has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Shards checked.
    pub shards: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Shards with damage.
    pub damaged: u64,
    /// Where to go on; `None` when the end was reached.
    pub cursor: Option<ShardId>,
}

/// Checks shards from the cursor to the end. `found` is called for every shard checked, and ends the scrub by
/// returning false (the report's cursor then says where to go on). Safe to drop at any time.
///
/// # Errors
/// What the store answers where it cannot be scanned or is offline. Damage is no error.
pub async fn scrub(
    store: &dyn ShardStore,
    options: ScrubOptions,
    mut found: impl FnMut(ShardId, &VerifyReport) -> bool,
) -> Result<ScrubReport> {
    let begun = Instant::now();
    let mut report = ScrubReport { cursor: options.after, ..ScrubReport::default() };
    loop {
        let page = store.scan(report.cursor, PAGE).await?;
        if page.is_empty() {
            report.cursor = None;
            return Ok(report);
        }
        for info in page {
            let shard = info.spec.shard;
            let checked = match store.verify(shard).await {
                Ok(checked) => checked,
                // Freed since it was listed.
                Err(DriveError::NotFound(_)) => {
                    report.cursor = Some(shard);
                    continue;
                }
                Err(error @ DriveError::Offline { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(%shard, %error, "scrub could not check a shard");
                    VerifyReport { header_bad: true, ..VerifyReport::default() }
                }
            };
            report.shards += 1;
            report.bytes += checked.checked_bytes;
            report.damaged += u64::from(!checked.is_clean());
            report.cursor = Some(shard);
            if !found(shard, &checked) {
                return Ok(report);
            }
            if options.bytes_per_second > 0 {
                tokio::time::sleep_until(begun + due_after(report.bytes, options.bytes_per_second)).await;
            }
        }
    }
}

/// When so many bytes may have been read at a rate.
fn due_after(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::{spec, write};
    use crate::testing::{Fault, FaultDrive, FaultOp, MemoryDrive};
    use std::sync::Arc;

    #[test]
    fn the_rate_is_an_average() {
        assert_eq!(due_after(0, 100), Duration::ZERO);
        assert_eq!(due_after(150, 100), Duration::from_millis(1500));
    }

    #[tokio::test]
    async fn all_are_checked_once_across_an_interruption() {
        let drive = MemoryDrive::new(64 << 20);
        for _ in 0..20 {
            write(&drive, &spec(65_536), 65_536).await.unwrap();
        }
        let mut seen = Vec::new();
        let options = ScrubOptions { bytes_per_second: 1 << 40, after: None };
        let first = scrub(&drive, options, |shard, _| {
            seen.push(shard);
            seen.len() < 7
        })
        .await
        .unwrap();
        assert_eq!((first.shards, first.cursor), (7, seen.last().copied()));
        let second = scrub(&drive, ScrubOptions { bytes_per_second: 0, after: first.cursor }, |shard, _| {
            seen.push(shard);
            true
        })
        .await
        .unwrap();
        assert_eq!((second.shards, second.cursor, second.damaged), (13, None, 0));
        assert!(seen.windows(2).all(|w| w[0] < w[1]) && seen.len() == 20);
    }

    #[tokio::test]
    async fn damage_is_reported_and_a_drive_that_goes_ends_it() {
        let memory = MemoryDrive::new(64 << 20);
        let drive = FaultDrive::new(Arc::new(memory.clone()));
        for _ in 0..5 {
            write(&drive, &spec(65_536), 65_536).await.unwrap();
        }
        let first = drive.scan(None, 1).await.unwrap()[0].spec.shard;
        let rotten = DriveError::Corrupt { shard: first, offset: 0 };
        drive.inject(FaultOp::Verify, Some(first), 0, 1, Fault::Error(rotten));
        let all = ScrubOptions { bytes_per_second: 0, after: None };
        let report = scrub(&drive, all, |_, _| true).await.unwrap();
        assert_eq!((report.shards, report.damaged), (5, 1));
        memory.set_health(crate::DriveHealth::Offline("pulled".to_owned()));
        assert!(matches!(scrub(&drive, all, |_, _| true).await, Err(DriveError::Offline { .. })));
    }
}
