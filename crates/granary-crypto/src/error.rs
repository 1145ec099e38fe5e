//! What can go wrong with keys and sealed bytes. No message holds key material.

use std::path::PathBuf;

use granary_types::ErrorKind;

/// The result of calls that handle keys.
pub type Result<T> = std::result::Result<T, CryptoError>;

/// Sealed bytes failed authentication: damaged, cut, moved, or sealed with another key. Which of these
/// cannot be told apart, by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes failed authentication")]
pub struct OpenError;

/// Errors of the key hierarchy.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// A wrapped key or blob failed authentication.
    #[error("{what} failed authentication: damaged, or wrapped for another purpose or by another key")]
    Open {
        /// What was being opened.
        what: &'static str,
    },
    /// The key that the caller brought (a customer's key, a named key with its context) is not the one the data key
    /// was locked with.
    #[error("the key given is not the one that this was encrypted with")]
    WrongKey,
    /// A wrapped key names a root key that the provider does not hold.
    #[error("wrapped by root key {0}, which this key provider does not hold")]
    UnknownRootKey(crate::provider::RootKeyId),
    /// A wrapped key, keyring or key file of a form this program does not know.
    #[error("{what}: {why}")]
    Format {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The root key file can be read by others than its owner.
    #[error("root key file {} can be read or written by others (mode {mode:04o}): run `chmod 600 {}`", .path.display(), .path.display())]
    KeyFileExposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The root key file exists and must not be overwritten.
    #[error("root key file {} exists already; it is never overwritten", .0.display())]
    KeyFileExists(PathBuf),
    /// The operating system refused something on the key file.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// No copy of the keyring is valid; says what was wrong with the last one.
    #[error("no valid keyring among {copies} copies: {last}")]
    NoKeyring {
        /// Copies looked at.
        copies: usize,
        /// What was wrong with the last of them.
        last: String,
    },
    /// Valid keyrings of different clusters lie on the drives.
    #[error("the drives hold keyrings of different clusters ({0} and {1}): a drive of another cluster is attached")]
    ForeignKeyring(granary_types::ClusterId, granary_types::ClusterId),
    /// The key provider does not do this; says what to do instead.
    #[error("this key provider does not do that: {0}")]
    Unsupported(&'static str),
    /// The key provider (a device or a service) could not be reached.
    #[error("key provider: {0}")]
    Provider(String),
}

impl CryptoError {
    /// The small kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { .. } | Self::Format { .. } | Self::NoKeyring { .. } => ErrorKind::Corrupt,
            Self::UnknownRootKey(_) => ErrorKind::NotFound,
            Self::KeyFileExposed { .. } | Self::WrongKey => ErrorKind::Denied,
            Self::KeyFileExists(_) | Self::ForeignKeyring(..) => ErrorKind::Conflict,
            Self::Io { .. } => ErrorKind::Internal,
            Self::Provider(_) => ErrorKind::Unavailable,
            Self::Unsupported(_) => ErrorKind::Invalid,
        }
    }
}
