//! The command line of users, groups, access keys and policies. Names here are a fixed face that scripts rely on.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::NodeArgs;

/// Which node, and how to say it.
#[derive(Debug, Args, Clone)]
pub(crate) struct Common {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `granary user ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user. It may do nothing until a policy is attached to it
    Create {
        /// Name
        name: String,
        /// Put it into an account, by name (`root`: the root keys') or number; without this it owns what it makes
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// List the users
    List {
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Delete a user with its access keys. Its buckets stay
    Delete {
        /// Name, or ACCOUNT/NAME
        name: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
}

/// `granary group ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group
    Create {
        /// Name
        name: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// List the groups
    List {
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Delete a group
    Delete {
        /// Name
        name: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Put a user into a group
    Add {
        /// Group
        name: String,
        /// User
        #[arg(long, value_name = "NAME")]
        user: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Take a user out of a group
    Remove {
        /// Group
        name: String,
        /// User
        #[arg(long, value_name = "NAME")]
        user: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
}

/// Which access key.
#[derive(Debug, Args, Clone)]
pub(crate) struct WhichKey {
    /// Access key
    #[arg(value_name = "ACCESS_KEY", required_unless_present = "access_key", conflicts_with = "access_key")]
    pub(crate) key: Option<String>,
    /// Access key, as an option
    #[arg(long, value_name = "ACCESS_KEY")]
    pub(crate) access_key: Option<String>,
    /// User that has it
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Where to find the node.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `granary key create`.
#[derive(Debug, Args, Clone)]
pub(crate) struct KeyCreate {
    /// User that gets it
    #[arg(long, value_name = "NAME")]
    pub(crate) user: String,
    /// An access key to bring along, instead of a new one
    #[arg(long, value_name = "ACCESS_KEY", requires = "secret_key_file")]
    pub(crate) access_key: Option<String>,
    /// File with the secret key to bring along
    #[arg(long, value_name = "FILE", requires = "access_key")]
    pub(crate) secret_key_file: Option<PathBuf>,
    /// From when on it is refused: 2026-12-31, 2026-12-31T00:00:00Z, or a span such as 90d or 12h
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
    /// Make it a service account of the user, with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) service_account: Option<String>,
    /// File with a policy that narrows what the user may
    #[arg(long, value_name = "FILE")]
    pub(crate) policy_file: Option<PathBuf>,
    /// Where to find the node.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Whom a policy is for.
#[derive(Debug, Args, Clone)]
#[group(required = true, multiple = false)]
pub(crate) struct Whom {
    /// User
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Group
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
}

/// `granary policy ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Give a user or group a policy: admin, readwrite, readonly, auditor, or one of your own
    Attach {
        /// Policy
        policy: String,
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Take a policy away
    Detach {
        /// Policy
        policy: String,
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Write a policy of your own, or exchange its document
    Put {
        /// Name
        name: String,
        /// File with the policy document (AWS policy JSON); `-` reads standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// List the policies, built-in ones too
    List {
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Show a policy's document
    Show {
        /// Policy
        name: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Delete a policy of your own that nobody has
    Delete {
        /// Policy
        name: String,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
    /// Say whether somebody may do something, and which statement of which policy decides
    Explain {
        /// Access key or user; `root`, `anonymous`
        #[arg(long = "as", value_name = "KEY")]
        who: String,
        /// Action, such as s3:GetObject
        #[arg(long)]
        action: String,
        /// Resource: arn:aws:s3:::bucket/key, or bucket/key
        #[arg(long, value_name = "ARN")]
        resource: String,
        /// What the request would bring, such as aws:SourceIp=10.0.0.1; as often as needed
        #[arg(long, value_name = "KEY=VALUE")]
        context: Vec<String>,
        /// Where to find the node.
        #[command(flatten)]
        common: Common,
    },
}
