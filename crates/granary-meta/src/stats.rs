//! Counters, to be read by whoever exports metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of the log, the index and the checkpoints since start. Plain atomics, relaxed.
        #[derive(Debug, Default)]
        pub struct MetaStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl MetaStats {
            /// Every counter by name.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

stats! {
    /// Commands put into the queue.
    proposed,
    /// Commands refused because the queue was full.
    busy,
    /// Commands applied.
    applied,
    /// Commands the state machine refused.
    refused,
    /// Frames written to all mirrors that were up.
    frames,
    /// Bytes of those frames, once.
    frame_bytes,
    /// Microseconds spent waiting for frames to be durable.
    frame_wait_us,
    /// Microseconds spent applying.
    apply_us,
    /// Log files begun.
    log_files,
    /// Mirrors dropped after a failure.
    mirrors_lost,
    /// Mirrors brought in as replacement.
    mirrors_joined,
    /// Mirrors up now.
    mirrors_up,
    /// Checkpoints complete on all their folders.
    checkpoints,
    /// Checkpoints that failed on some folder.
    checkpoints_failed,
    /// Bytes copied for checkpoints.
    checkpoint_bytes,
    /// Times the index was restored while running.
    failovers,
}

impl MetaStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
