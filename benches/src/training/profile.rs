//! Kinds of training: how samples lie in objects, how they are read, how long an accelerator computes on a batch.
//!
//! `unet3d` and `resnet50` have the figures of MLPerf Storage's H100 configurations (github.com/mlcommons/storage,
//! configs/dlio/workload, v2.0): record sizes, samples per file, batch sizes, reading threads, compute times. `llm` and `webdataset` are
//! ours, since MLPerf has no such training workloads; what they assume is said at each.

use clap::ValueEnum;
use serde::Serialize;
use std::time::Duration;

/// A kind of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Volumes of some 147 MB, one to an object, read whole (MLPerf Storage)
    Unet3d,
    /// Images of some 115 KB, 1,251 to an object, read as streams (MLPerf Storage)
    Resnet50,
    /// Sequences of 8,192 tokens of 4 bytes, read from anywhere in large objects
    Llm,
    /// Images of some 115 KB, 512 to a tar shard, read as streams, or at random with --by
    Webdataset,
}

/// How samples are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Each object whole: one request, one sample
    Object,
    /// Each object from end to end, its samples in their order
    Stream,
    /// Each sample by itself, as a range of its object
    Range,
    /// Each sample by itself, as a member of its shard (Granary: granary-member)
    Member,
    /// A batch's samples in one request (Granary: granary-batch)
    Batch,
    /// A batch of a shuffled epoch over a frozen dataset (Granary: granary-epoch)
    Epoch,
}

/// How samples lie in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// One after the other.
    Plain,
    /// As members of a tar file.
    Tar,
}

/// All figures of a profile, or what was asked for instead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    pub(crate) sample_bytes: u64,
    /// Of samples that have an object each.
    pub(crate) sample_bytes_deviation: u64,
    pub(crate) samples_per_object: u64,
    pub(crate) batch: u64,
    pub(crate) compute_s: f64,
    /// Workers that read for one accelerator, each a batch at a time.
    pub(crate) readers: usize,
    pub(crate) by: By,
}

impl Profile {
    /// Its figures.
    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::Unet3d => Shape {
                layout: Layout::Plain,
                sample_bytes: 146_600_628,
                sample_bytes_deviation: 68_341_808,
                samples_per_object: 1,
                batch: 7,
                compute_s: 0.323,
                readers: 4,
                by: By::Object,
            },
            Self::Resnet50 => Shape {
                layout: Layout::Plain,
                sample_bytes: 114_660,
                sample_bytes_deviation: 0,
                samples_per_object: 1_251,
                batch: 400,
                compute_s: 0.224,
                readers: 8,
                by: By::Stream,
            },
            // 16 × 8,192 tokens × 6 × 10⁹ operations for a model of 10⁹ parameters, at 40 % of an H100's 989 × 10¹² a second.
            Self::Llm => Shape {
                layout: Layout::Plain,
                sample_bytes: 32_768,
                sample_bytes_deviation: 0,
                samples_per_object: 8_192,
                batch: 16,
                compute_s: 1.988,
                readers: 2,
                by: By::Range,
            },
            // ResNet-50 as above, from shards.
            Self::Webdataset => Shape {
                layout: Layout::Tar,
                sample_bytes: 114_660,
                sample_bytes_deviation: 0,
                samples_per_object: 512,
                batch: 400,
                compute_s: 0.224,
                readers: 8,
                by: By::Stream,
            },
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unet3d => "unet3d",
            Self::Resnet50 => "resnet50",
            Self::Llm => "llm",
            Self::Webdataset => "webdataset",
        }
    }
}

impl Shape {
    /// What cannot be, and what could.
    ///
    /// # Errors
    /// The problem, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let fine = |wrong: bool, what: &str| if wrong { Err(what.to_owned()) } else { Ok(()) };
        fine(self.sample_bytes == 0 || self.samples_per_object == 0, "samples and objects must not be empty")?;
        fine(self.batch == 0 || self.batch > 4096, "--batch is from 1 to 4096")?;
        fine(self.readers == 0 || self.readers > 256, "--readers is from 1 to 256")?;
        fine(!(0.0..=3600.0).contains(&self.compute_s), "--compute-ms is from 0 (as fast as batches come) to 3600000")?;
        let whole = self.samples_per_object > 1 && self.by == By::Object;
        fine(
            whole,
            "--by object reads one sample from each object: this profile has several in each; try stream or range",
        )?;
        let no_shards = self.layout == Layout::Plain && matches!(self.by, By::Member | By::Epoch);
        fine(no_shards, "--by member and --by epoch read tar shards: use --profile webdataset")?;
        fine(self.object_bytes(0) > 5 << 30, "an object would be larger than 5 GiB: use fewer --samples-per-object")
    }

    pub(crate) fn compute(&self) -> Duration {
        Duration::from_secs_f64(self.compute_s)
    }

    /// Bytes of sample `index` of object `object`.
    pub(crate) fn sample_bytes_of(&self, object: u64) -> u64 {
        if self.sample_bytes_deviation == 0 || self.samples_per_object > 1 {
            return self.sample_bytes;
        }
        // Twelve uniform numbers make a normal one, near enough; cut where a file could not be that small or large.
        let mut random = crate::payload::SplitMix::new(object.wrapping_mul(0x9E37_79B9) ^ 0xF11E);
        let normal: f64 = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
        let bytes = self.sample_bytes as f64 + normal * self.sample_bytes_deviation as f64;
        (bytes as u64).clamp(self.sample_bytes / 8, self.sample_bytes * 2)
    }

    /// Where sample `index` begins in its object.
    pub(crate) const fn sample_offset(&self, index: u64) -> u64 {
        match self.layout {
            Layout::Plain => index * self.sample_bytes,
            Layout::Tar => index * self.entry_bytes() + TAR_BLOCK,
        }
    }

    /// Bytes of object `object`.
    pub(crate) fn object_bytes(&self, object: u64) -> u64 {
        match self.layout {
            Layout::Plain if self.samples_per_object == 1 => self.sample_bytes_of(object),
            Layout::Plain => self.samples_per_object * self.sample_bytes,
            Layout::Tar => self.samples_per_object * self.entry_bytes() + 2 * TAR_BLOCK,
        }
    }

    const fn entry_bytes(&self) -> u64 {
        TAR_BLOCK + self.sample_bytes.div_ceil(TAR_BLOCK) * TAR_BLOCK
    }
}

/// Bytes of a block of a tar file.
pub(crate) const TAR_BLOCK: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_hold_together() {
        for profile in Profile::value_variants() {
            let shape = profile.shape();
            assert_eq!(shape.check(), Ok(()), "{profile:?}");
            assert_eq!(profile.to_possible_value().map(|v| v.get_name().to_owned()).as_deref(), Some(profile.name()));
            let last = shape.samples_per_object - 1;
            let end = shape.sample_offset(last) + shape.sample_bytes_of(0);
            assert!(end <= shape.object_bytes(0) && shape.object_bytes(0) - end < 1536 + 512);
        }
        let wrong = Shape { by: By::Object, ..Profile::Llm.shape() };
        assert!(wrong.check().unwrap_err().contains("--by object"));
        assert!(Shape { batch: 0, ..Profile::Llm.shape() }.check().is_err());
    }

    #[test]
    fn sizes_of_volumes_are_spread_about_their_mean() {
        let shape = Profile::Unet3d.shape();
        let sizes: Vec<f64> = (0..2_000).map(|n| shape.sample_bytes_of(n) as f64).collect();
        let mean = sizes.iter().sum::<f64>() / 2_000.0;
        assert!((mean / 146_600_628.0 - 1.0).abs() < 0.05, "{mean}");
        assert_eq!(shape.sample_bytes_of(7), shape.sample_bytes_of(7));
    }
}
