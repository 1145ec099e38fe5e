//! `drive.json`: whose drive a folder is. The one plain file on a drive; it holds ids, no secrets.

use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use granary_types::{ClusterId, DriveId};
use serde::{Deserialize, Serialize};

use crate::api::{DriveError, Result};
use crate::raw;

/// The newest format this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the file in a drive's folder.
pub const FILE_NAME: &str = "drive.json";
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What `drive.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster the drive belongs to.
    pub cluster: ClusterId,
    /// The drive.
    pub drive: DriveId,
    /// Proof (a MAC of the drive's id) that an index key is the drive's.
    pub index_key_check: String,
}

#[derive(Serialize, Deserialize)]
struct Json {
    format_version: u32,
    cluster_id: String,
    drive_id: String,
    index_key_check: String,
}

impl Identity {
    /// A new identity under `index_key`.
    #[must_use]
    pub fn new(cluster: ClusterId, drive: DriveId, index_key: &[u8; 32]) -> Self {
        Self { cluster, drive, index_key_check: key_check(drive, index_key) }
    }

    /// Where the file of a drive folder is.
    #[must_use]
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(FILE_NAME)
    }

    /// The file's content.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = Json {
            format_version: FORMAT_VERSION,
            cluster_id: self.cluster.to_string(),
            drive_id: self.drive.to_string(),
            index_key_check: self.index_key_check.clone(),
        };
        let mut text = serde_json::to_string_pretty(&json).expect("strings and a number");
        text.push('\n');
        text
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// [`DriveError::Format`], saying what is wrong; a newer version is named as such.
    pub fn from_json(text: &str) -> Result<Self> {
        let format = |what: String| DriveError::Format(format!("{FILE_NAME}: {what}"));
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| format(format!("not JSON ({e})")))?;
        let version = value.get("format_version").and_then(serde_json::Value::as_u64);
        match version {
            None => return Err(format("no format_version".to_owned())),
            Some(0) => return Err(format("format_version 0 does not exist".to_owned())),
            Some(v) if v > u64::from(FORMAT_VERSION) => {
                return Err(format(format!(
                    "the drive has format version {v}, this program knows up to {FORMAT_VERSION}: use a newer granary"
                )));
            }
            Some(_) => {}
        }
        let json: Json = serde_json::from_value(value).map_err(|e| format(e.to_string()))?;
        Ok(Self {
            cluster: json.cluster_id.parse().map_err(|e| format(format!("{e}")))?,
            drive: json.drive_id.parse().map_err(|e| format(format!("{e}")))?,
            index_key_check: json.index_key_check,
        })
    }

    /// Reads the identity of a drive folder; `None` where it has none.
    ///
    /// # Errors
    /// As [`Identity::from_json`], or what the system answers.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = Self::path(folder);
        let io = |error: std::io::Error| DriveError::Io {
            what: format!("reading {}", path.display()),
            source: std::sync::Arc::new(error),
        };
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(DriveError::Format(format!("{FILE_NAME}: {} bytes long", meta.len())));
            }
            Ok(_) => {}
        }
        Self::from_json(&std::fs::read_to_string(&path).map_err(io)?).map(Some)
    }

    /// Writes the identity, durably and whole.
    ///
    /// # Errors
    /// What the system answers.
    pub fn store(&self, folder: &Path) -> std::io::Result<()> {
        raw::write_atomically(&Self::path(folder), self.to_json().as_bytes())
    }

    /// Refuses a foreign cluster or a wrong index key.
    ///
    /// # Errors
    /// [`DriveError::Format`], saying which.
    pub fn check(&self, folder: &Path, cluster: ClusterId, index_key: &[u8; 32]) -> Result<()> {
        if self.cluster != cluster {
            return Err(DriveError::Format(format!(
                "{} is drive {} of cluster {}, not of this cluster {cluster}",
                folder.display(),
                self.drive,
                self.cluster
            )));
        }
        if self.index_key_check != key_check(self.drive, index_key) {
            return Err(DriveError::Format(format!(
                "the index key given is not that of drive {} in {}",
                self.drive,
                folder.display()
            )));
        }
        Ok(())
    }
}

fn key_check(drive: DriveId, index_key: &[u8; 32]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, index_key);
    let mut context = hmac::Context::with_key(&key);
    context.update(b"granary drive index key check v1");
    context.update(drive.as_bytes());
    granary_types::hex::encode(&context.sign().as_ref()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
        let identity = Identity::new(ClusterId([1; 16]), DriveId([2; 16]), &[3; 32]);
        identity.store(dir.path()).unwrap();
        let back = Identity::load(dir.path()).unwrap().unwrap();
        assert_eq!(back, identity);
        back.check(dir.path(), ClusterId([1; 16]), &[3; 32]).unwrap();
        let foreign = back.check(dir.path(), ClusterId([9; 16]), &[3; 32]).unwrap_err().to_string();
        assert!(foreign.contains("of cluster 0101"), "{foreign}");
        let key = back.check(dir.path(), ClusterId([1; 16]), &[4; 32]).unwrap_err().to_string();
        assert!(key.contains("index key"), "{key}");
    }

    #[test]
    fn newer_versions_and_nonsense_are_named() {
        let newer = Identity::from_json(r#"{"format_version": 7, "anything": 1}"#).unwrap_err().to_string();
        assert!(newer.contains("format version 7") && newer.contains("newer granary"), "{newer}");
        for bad in ["", "{}", "[]", r#"{"format_version": 0}"#, r#"{"format_version": 1, "cluster_id": "x"}"#] {
            assert!(Identity::from_json(bad).is_err(), "{bad}");
        }
    }
}
