//! The command line of `granary bucket upstream`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::NodeArgs;

/// `granary bucket upstream ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum UpstreamCommand {
    /// Let a bucket read through to another S3 endpoint and keep what it fetched
    Set(Box<UpstreamSet>),
    /// Show a bucket's upstream, what waits to be written there, and what was counted since the start
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
    /// Take a bucket's upstream away; what was fetched stays as the bucket's own
    Clear {
        /// The bucket
        bucket: String,
        /// Give up what waits to be written there
        #[arg(long)]
        discard_pending: bool,
        /// Which node.
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// `granary bucket upstream set`. What is not named is as it is by default, not as it was.
#[derive(Debug, Args)]
pub(crate) struct UpstreamSet {
    /// The bucket
    pub(crate) bucket: String,
    /// Where the upstream is: https://host[:port] (http:// on loopback)
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: String,
    /// The bucket there
    #[arg(long = "bucket", value_name = "NAME")]
    pub(crate) upstream_bucket: String,
    /// What keys there have before the key here, such as `datasets/`
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: String,
    /// Region that requests are signed for
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    pub(crate) region: String,
    /// Regions that bytes of the upstream lie in, with commas between them; of a pinned bucket they must be among its own [default: --region]
    #[arg(long, value_name = "REGIONS")]
    pub(crate) regions: Option<String>,
    /// File with the access key; else GRANARY_UPSTREAM_ACCESS_KEY; with neither, requests are not signed
    #[arg(long, value_name = "FILE", requires = "secret_key_file")]
    pub(crate) access_key_file: Option<PathBuf>,
    /// File with the secret key; else GRANARY_UPSTREAM_SECRET_KEY
    #[arg(long, value_name = "FILE", requires = "access_key_file")]
    pub(crate) secret_key_file: Option<PathBuf>,
    /// Name the bucket in the path of requests (as is done anyway)
    #[arg(long, conflicts_with = "virtual_host")]
    pub(crate) path_style: bool,
    /// Name the bucket in the host of requests
    #[arg(long)]
    pub(crate) virtual_host: bool,
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Allow http:// beyond loopback: everything travels in the clear
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Write what changes here to the upstream, too
    #[arg(long)]
    pub(crate) write_back: bool,
    /// Check with the upstream before a copy older than so many seconds is served [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) revalidate: Option<u64>,
    /// Remember for so many seconds that the upstream does not have a key
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) absent: u64,
    /// Give up what waits to be written to the upstream that was set before
    #[arg(long)]
    pub(crate) discard_pending: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
