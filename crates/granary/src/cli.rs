//! The command line. Names and defaults here are a fixed face that scripts rely on.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use granary_bench::checkpoint::CheckpointArgs;
use granary_bench::training::TrainingArgs;
use granary_types::Scheme;

use crate::audit::cli::AuditCommand;
use crate::cli_access::{Common, GroupCommand, KeyCreate, PolicyCommand, UserCommand, WhichKey};
use crate::cli_ai::{CacheCommand, CheckpointCommand, DatasetCommand, PresetCommand};
use crate::cli_upstream::UpstreamCommand;
use crate::residency_cli::ResidencyCommand;

/// A self-hosted, S3-compatible object store for AI work: training data in, checkpoints out.
#[derive(Debug, Parser)]
#[command(name = "granary", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node for a developer, with nothing to configure
    Dev(DevArgs),
    /// Run a node as a settings file says
    Serve(ServeArgs),
    /// Create, list and delete users
    #[command(subcommand)]
    User(UserCommand),
    /// Create, list and delete groups of users
    #[command(subcommand)]
    Group(GroupCommand),
    /// Policies: who may do what, and why
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Look after the drives of a running node
    #[command(subcommand)]
    Drive(DriveCommand),
    /// Look after keys: those that everything is sealed with, and those that clients use
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look after the buckets of a running node
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Rebuild what is missing or damaged, and say what was done
    Heal(HealArgs),
    /// Say how a running node is
    Status(StatusArgs),
    /// Verify, query and export the audit trail
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say where data lies, and narrow where it may
    #[command(subcommand)]
    Residency(ResidencyCommand),
    /// Show what each training run asks of a running node, and what it waits for
    Top(TopArgs),
    /// Exit 0 if a node serves, 1 if not (for health checks)
    Health(HealthArgs),
    /// The last resort, on a stopped node: rebuild a lost index from the drives alone
    Rebuild(RebuildArgs),
    /// Find checkpoints
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Freeze datasets, check them, walk what was made from what
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// The read cache: look, warm, pin, evict
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Make buckets with fitting settings
    #[command(subcommand)]
    Preset(PresetCommand),
    /// Measure any S3 endpoint as a training job would see it
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print every setting with its default and what it means
    Config,
}

/// `granary bench ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Emulate accelerators that train, and say how many stay busy
    Training(TrainingArgs),
    /// Save and restore checkpoints, and say for how long accelerators stand still
    Checkpoint(CheckpointArgs),
}

/// `granary dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Folder for everything: keys and drive folders
    #[arg(long, value_name = "DIR", default_value = "./granary-data")]
    pub(crate) data: PathBuf,
    /// Address and port of the S3 endpoint [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address and port of the admin endpoint [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Number of drive folders to make under the data folder at the first start [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) drives: Option<u16>,
    /// Erasure scheme: K data and M parity blocks; any M drives may be lost [default: 4+2]
    #[arg(long, value_name = "K+M")]
    pub(crate) erasure: Option<Scheme>,
    /// Make buckets with fitting settings: raw, processed, artefacts, cache
    #[arg(long, value_enum)]
    pub(crate) preset: Option<Preset>,
    /// TLS with a certificate of the node's own on loopback, too
    #[arg(long)]
    pub(crate) tls: bool,
    /// Show the secret key even when it is not new
    #[arg(long)]
    pub(crate) show_secret: bool,
}

/// Sets of buckets made at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// `raw` (versioned, written once), `processed`, `artefacts` (ETags that cost no MD5), `cache`
    Ai,
}

/// `granary rebuild`.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Data folder of a node that was run with `granary dev`
    #[arg(long, value_name = "DIR", conflicts_with = "config", required_unless_present = "config")]
    pub(crate) data: Option<PathBuf>,
    /// Settings file of a node that was run with `granary serve`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Complete multipart uploads whose parts are all there from the first on. Whether they had been completed is
    /// not known from the drives; without this they come back as open uploads
    #[arg(long)]
    pub(crate) complete_uploads: bool,
}

/// `granary serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Settings file (TOML); `granary config` prints one to start from
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Make buckets with fitting settings: raw, processed, artefacts, cache
    #[arg(long, value_enum)]
    pub(crate) preset: Option<Preset>,
}

/// Where the running node is, and where its root keys are.
#[derive(Debug, Args, Clone)]
pub(crate) struct NodeArgs {
    /// Address and port of the node's admin endpoint [default: as the node in DIR says, else 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR:PORT", env = "GRANARY_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// Data folder of the node, for its root keys (GRANARY_ROOT_ACCESS_KEY and GRANARY_ROOT_SECRET_KEY win)
    #[arg(long, value_name = "DIR", env = "GRANARY_DATA", default_value = "./granary-data")]
    pub(crate) data: PathBuf,
    /// Settings file of the node, instead of --data
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Talk TLS to the admin endpoint and trust this certificate [default: as the node in DIR says]
    #[arg(long, value_name = "FILE", env = "GRANARY_CA")]
    pub(crate) ca: Option<PathBuf>,
}

/// `granary status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `granary top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show one table and end
    #[arg(long)]
    pub(crate) once: bool,
    /// As JSON, one object for each interval
    #[arg(long)]
    pub(crate) json: bool,
    /// Seconds that each table is about
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(crate) interval: f64,
    /// Rows at most
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) rows: usize,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `granary health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `granary key ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Say what keeps the root key, and which keys the buckets have
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Make a fresh root key, or a fresh key for a bucket; nothing stored is rewritten, keys are only wrapped anew
    Rotate {
        /// The bucket; the root key when left out
        #[arg(long)]
        bucket: Option<String>,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Destroy the keys of a bucket: nothing in it can ever be read again
    Destroy {
        /// The bucket
        #[arg(long)]
        bucket: String,
        /// The bucket's name once more, because there is no way back
        #[arg(long, value_name = "BUCKET")]
        yes_destroy: String,
        /// Leave the root key as it is: copies of the bucket's lock that were made before (backups of keyrings, blocks
        /// that the file system has not overwritten yet) can then still be opened
        #[arg(long)]
        keep_root: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Make a root key file, for `keys.provider` `environment` or `credential`
    NewRoot {
        /// The file; never overwritten
        file: PathBuf,
    },
    /// Look after the keys that clients may name for SSE-KMS
    #[command(subcommand)]
    Kms(KmsCommand),
    /// Make an access key for a user, or bring a known one along
    Create(KeyCreate),
    /// List access keys, without their secrets
    List {
        /// Of this user only
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Switch an access key off
    Disable(WhichKey),
    /// Switch an access key on again
    Enable(WhichKey),
    /// Delete an access key
    Delete(WhichKey),
}

/// `granary key kms ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum KmsCommand {
    /// Make a key; it never leaves the node
    Create {
        /// What clients name it by
        id: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the keys
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Forbid the use of a key: what it locks can be neither read nor written
    Disable {
        /// The key
        id: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Allow the use of a key again
    Enable {
        /// The key
        id: String,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary heal`.
#[derive(Debug, Args)]
pub(crate) struct HealArgs {
    /// Read and check every shard, not only whether all are there
    #[arg(long)]
    pub(crate) deep: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `granary drive ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum DriveCommand {
    /// List the drives with their health and space
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Format an empty folder as a new drive and take it into use
    Add {
        /// The folder, on the node
        path: PathBuf,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Retire a drive, take a new one into use, and rebuild onto it what the old one held
    Replace {
        /// The drive: its number (such as d3), its id, or its folder
        drive: String,
        /// Folder of the new drive, on the node
        path: PathBuf,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Read every byte of a drive (or of all) and check it; what is damaged is queued for repair
    Scrub {
        /// The drive: its number (such as d3), its id, or its folder; all drives when left out
        drive: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary bucket ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    /// How much a bucket may hold
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Another S3 endpoint that a bucket reads through to
    #[command(subcommand)]
    Upstream(UpstreamCommand),
}

/// `granary bucket quota ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Set a bucket's quotas; one that is not named stays as it is
    Set {
        /// The bucket
        bucket: String,
        /// Bytes of all versions and parts of open uploads, such as 10GiB; `none`: no limit
        #[arg(long, value_name = "SIZE", required_unless_present = "objects", value_parser = parse_quota)]
        bytes: Option<Quota>,
        /// Versions, delete markers among them; `none`: no limit
        #[arg(long, value_name = "N", value_parser = parse_quota)]
        objects: Option<Quota>,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Show a bucket's quotas and what of them is used
    Show {
        /// The bucket
        bucket: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota(pub(crate) Option<u64>);

fn parse_quota(text: &str) -> Result<Quota, String> {
    if text == "none" {
        return Ok(Quota(None));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        "PiB" | "P" => 50,
        _ => return Err("a number with or without KiB, MiB, GiB, TiB or PiB, or `none`".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a whole number, or `none`".to_owned())?;
    number.checked_mul(1 << shift).map(|n| Quota(Some(n))).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_fixed_face() {
        for line in [
            "granary dev",
            "granary dev --data d --listen 127.0.0.1:1 --admin 127.0.0.1:2 --drives 3 --erasure 2+1 --preset ai",
            "granary serve --config granary.toml",
            "granary drive list",
            "granary drive add /mnt/7 --admin 127.0.0.1:9001",
            "granary drive replace d3 /mnt/7",
            "granary drive scrub",
            "granary heal",
            "granary key status",
            "granary key rotate --bucket b",
            "granary key destroy --bucket b --yes-destroy b",
            "granary key kms create k1",
            "granary key kms list --json",
            "granary bucket quota set b --bytes 10GiB --objects none",
            "granary bucket quota show b --json",
            "granary bucket upstream set b --endpoint https://h --bucket n --prefix p/ --region r --regions r,s --access-key-file a --secret-key-file s --write-back --path-style --ca-file c --revalidate 60 --absent 5",
            "granary bucket upstream show b --json",
            "granary bucket upstream clear b --discard-pending",
            "granary status --json",
            "granary checkpoint latest b/run --json",
            "granary dataset freeze b/p --from raw/a --from raw/b",
            "granary dataset verify b/p --deep",
            "granary dataset verify --manifest m --signature s --public-key 00 --files d",
            "granary dataset lineage b/p",
            "granary dataset thaw b/p --yes",
            "granary preset list",
            "granary cache status",
            "granary cache pin b/p",
            "granary preset apply ai --project p --region eu --lock compliance --lock-days 7",
            "granary user create alice",
            "granary user create alice --account root --json",
            "granary user list",
            "granary user delete alice",
            "granary group add team --user alice",
            "granary key create --user alice",
            "granary key create --user alice --access-key AK1 --secret-key-file f",
            "granary key list --user alice",
            "granary key list",
            "granary key disable AK1",
            "granary key disable --user alice --access-key AK1",
            "granary key delete --user alice --access-key AK1",
            "granary policy attach readwrite --user alice",
            "granary policy attach --user alice readwrite --admin 127.0.0.1:9001",
            "granary policy detach readwrite --group team",
            "granary policy put mine --file f.json",
            "granary policy list",
            "granary policy show mine",
            "granary policy explain --as AK1 --action s3:GetObject --resource arn:aws:s3:::b/k --context aws:SourceIp=1.2.3.4",
            "granary audit verify --public-key k a.parquet a.seal.json",
            "granary audit query --since 1h --bucket b --key k --principal p --outcome refused --json",
            "granary audit export --since 2026-11-20",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "granary",
            "granary dev --erasure 40+2",
            "granary dev --drives 0",
            "granary serve",
            "granary dataset verify",
            "granary dataset verify --manifest m",
            "granary dataset thaw b/p",
            "granary policy attach readwrite",
            "granary policy attach readwrite --user a --group b",
            "granary key create --user alice --access-key AK1",
            "granary key delete",
            "granary dev --preset x",
            "granary bucket quota set b",
            "granary bucket upstream set b --endpoint https://h",
            "granary bucket upstream set b --endpoint https://h --bucket n --access-key-file a",
            "granary bucket upstream set b --endpoint https://h --bucket n --secret-key s",
            "granary bucket quota set b --bytes 10XiB",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
