//! The command line for AI work: `granary checkpoint`, `dataset`, `preset`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::NodeArgs;
use crate::preset::Lock;

/// `granary checkpoint ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Name the newest complete checkpoint of a run, by step number
    Latest {
        /// The run: BUCKET/FOLDER
        run: String,
        /// The file that says that a folder is complete, instead of the usual ones
        #[arg(long, value_name = "NAME")]
        marker: Option<String>,
        /// The ending of checkpoints in one file, instead of the usual ones
        #[arg(long, value_name = "ENDING")]
        suffix: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary dataset ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Freeze a dataset: write and sign its manifest; from then on nothing under it changes
    Freeze {
        /// The dataset: BUCKET/PREFIX
        dataset: String,
        /// A frozen dataset that it was made from (may be given several times)
        #[arg(long = "from", value_name = "BUCKET/PREFIX")]
        sources: Vec<String>,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Check a frozen dataset against its manifest, on a node or offline
    Verify(VerifyArgs),
    /// Show what a dataset was made from, and what that was made from
    Lineage {
        /// The dataset: BUCKET/PREFIX
        dataset: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List frozen datasets
    List {
        /// Of this bucket only
        bucket: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Print the node's public key, which signatures are checked with
    Key {
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Let a frozen dataset change again; its signed manifest stays
    Thaw {
        /// The dataset: BUCKET/PREFIX
        dataset: String,
        /// Yes, really
        #[arg(long, required = true)]
        yes: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary dataset verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The dataset on the node: BUCKET/PREFIX
    #[arg(required_unless_present = "manifest", conflicts_with = "manifest")]
    pub(crate) dataset: Option<String>,
    /// Read every byte, not only what the metadata says
    #[arg(long, conflicts_with = "manifest")]
    pub(crate) deep: bool,
    /// Offline: the manifest as a file
    #[arg(long, value_name = "FILE", requires = "signature")]
    pub(crate) manifest: Option<PathBuf>,
    /// Offline: the signature beside it
    #[arg(long, value_name = "FILE", requires = "manifest")]
    pub(crate) signature: Option<PathBuf>,
    /// Offline: the public key that must have signed, as `granary dataset key` prints it
    #[arg(long, value_name = "HEX", requires = "manifest")]
    pub(crate) public_key: Option<String>,
    /// Offline: a folder with the dataset's files, as they lie under the prefix
    #[arg(long, value_name = "DIR", requires = "manifest")]
    pub(crate) files: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `granary cache ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show what is in the read cache, by bucket
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Read a folder's objects into memory, as much as fits
    Warm {
        /// What: BUCKET/FOLDER
        place: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// As warm, and keep it there until it is evicted; at most half of the cache
    Pin {
        /// What: BUCKET/FOLDER
        place: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Give up what is in memory of a folder's objects
    Evict {
        /// What: BUCKET/FOLDER
        place: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary preset ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum PresetCommand {
    /// List the presets that come with Granary
    List,
    /// Print a preset's file, to copy and change
    Show {
        /// Its name
        name: String,
    },
    /// Make a preset's buckets, and bring those that exist to its settings
    Apply(ApplyArgs),
}

/// `granary preset apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Name of a preset, or a file (ending in .toml)
    pub(crate) preset: String,
    /// Put in front of the buckets' names: PROJECT-raw and so on
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// Regions that the buckets' bytes are pinned to, separated by commas, instead of the preset's; one of them must be the node's
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Mode of object lock, instead of the preset's
    #[arg(long, value_enum)]
    pub(crate) lock: Option<Lock>,
    /// Retention of new objects in days, instead of the preset's; 0: only what requests ask for
    #[arg(long, value_name = "DAYS")]
    pub(crate) lock_days: Option<u64>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
