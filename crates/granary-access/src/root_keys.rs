//! The root key pair: from the environment, else from a file that only its owner can read, else made
//! once and kept there.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use zeroize::Zeroizing;

use crate::credentials::{AccessKeyError, Secret, check_access_key};

/// Environment variable of the root access key.
pub const ENV_ACCESS_KEY: &str = "GRANARY_ROOT_ACCESS_KEY";
/// Environment variable of the root secret key.
pub const ENV_SECRET_KEY: &str = "GRANARY_ROOT_SECRET_KEY";

/// Bytes of a root key file, at most.
const FILE_BYTES_MAX: u64 = 4096;

/// Why there are no root keys.
#[derive(Debug, thiserror::Error)]
pub enum RootKeysError {
    /// One variable without the other.
    #[error("set both {ENV_ACCESS_KEY} and {ENV_SECRET_KEY}, or neither")]
    Half,
    /// A malformed key.
    #[error(transparent)]
    Malformed(#[from] AccessKeyError),
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read the file.
    #[error("{0} can be read by others: run `chmod 600` on it, and think about exchanging the keys")]
    Exposed(PathBuf),
    /// The file is not two lines.
    #[error("{0} is not a root key file: two lines are wanted, the access key and the secret key")]
    NotTwoLines(PathBuf),
}

/// The root key pair.
#[derive(Debug, Clone)]
pub struct RootKeys {
    /// Access key.
    pub access_key: String,
    /// Secret.
    pub secret: Secret,
    /// They were made just now: show them once.
    pub is_new: bool,
}

impl RootKeys {
    /// From values (as of the environment), else from `file`, else fresh ones that are written to `file`
    /// with mode 0600.
    ///
    /// # Errors
    /// [`RootKeysError`]; an existing file is never overwritten.
    pub fn obtain(access_key: Option<String>, secret: Option<String>, file: &Path) -> Result<Self, RootKeysError> {
        match (access_key, secret) {
            (Some(access_key), Some(secret)) => Self::new(access_key, secret, false),
            (None, None) => match Self::read(file) {
                Err(RootKeysError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Self::create(file),
                other => other,
            },
            _ => Err(RootKeysError::Half),
        }
    }

    fn new(access_key: String, secret: String, is_new: bool) -> Result<Self, RootKeysError> {
        check_access_key(&access_key)?;
        Ok(Self { access_key, secret: Secret::new(secret)?, is_new })
    }

    fn read(file: &Path) -> Result<Self, RootKeysError> {
        let io = |source| RootKeysError::Io { path: file.to_owned(), source };
        let metadata = std::fs::metadata(file).map_err(io)?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(RootKeysError::Exposed(file.to_owned()));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(RootKeysError::NotTwoLines(file.to_owned()));
        }
        let text = Zeroizing::new(std::fs::read_to_string(file).map_err(io)?);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match (lines.next(), lines.next(), lines.next()) {
            (Some(access_key), Some(secret), None) => Self::new(access_key.to_owned(), secret.to_owned(), false),
            _ => Err(RootKeysError::NotTwoLines(file.to_owned())),
        }
    }

    fn create(file: &Path) -> Result<Self, RootKeysError> {
        let io = |source| RootKeysError::Io { path: file.to_owned(), source };
        let keys = Self::new(format!("GRAN{}", random(16, UPPER)), random(40, MIXED), true)?;
        let text = Zeroizing::new(format!("{}\n{}\n", keys.access_key, keys.secret.expose()));
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(io)?;
        out.write_all(text.as_bytes()).map_err(io)?;
        out.sync_all().map_err(io)?;
        Ok(keys)
    }
}

pub(crate) const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
pub(crate) const MIXED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

pub(crate) fn random(len: usize, alphabet: &[u8]) -> String {
    let mut rng = rand::rng();
    (0..len).map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("root-keys");
        let made = RootKeys::obtain(None, None, &file).unwrap();
        assert!(made.is_new);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = RootKeys::obtain(None, None, &file).unwrap();
        assert!(!again.is_new);
        assert_eq!(again.access_key, made.access_key);
        assert!(again.secret.matches(made.secret.expose()));
    }

    #[test]
    fn environment_wins_and_must_be_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("root-keys");
        let keys = RootKeys::obtain(Some("admin".into()), Some("password123".into()), &file).unwrap();
        assert_eq!(keys.access_key, "admin");
        assert!(!file.exists());
        assert!(matches!(RootKeys::obtain(Some("admin".into()), None, &file), Err(RootKeysError::Half)));
    }

    #[test]
    fn exposed_and_malformed_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("root-keys");
        RootKeys::obtain(None, None, &file).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(RootKeys::obtain(None, None, &file), Err(RootKeysError::Exposed(_))));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, "one line\n").unwrap();
        assert!(matches!(RootKeys::obtain(None, None, &file), Err(RootKeysError::NotTwoLines(_))));
    }
}
