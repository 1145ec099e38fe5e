//! Where bytes may lie: what each drive declares, and the one check that every placement passes through.
//!
//! Each drive carries `region.sealed`: region and jurisdiction of the node that took it into use, its own id and the cluster's, sealed under
//! the keyring. A drive that declares another region than its node, or whose declaration cannot be opened, takes part in nothing. With
//! all drives of a node in the node's region, a bucket's bytes lie where it is pinned exactly if the node's region is among its
//! pins: [`Inner::check_region`]. What places bytes elsewhere (copies to other nodes, tiers, caches) has to ask it, too.

use std::path::Path;

use granary_crypto::BlobKey;
use granary_drive::raw;
use granary_meta::records::BucketRecord;
use granary_types::{ClusterId, DriveId};
use serde::{Deserialize, Serialize};

use crate::api::Result;
use crate::error::StoreError;
use crate::inner::Inner;

/// File name on each drive.
pub(crate) const REGION_FILE: &str = "region.sealed";
const AAD: &[u8] = b"granary drive region v1";
/// Bytes of the file, at most.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// What a drive says of where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveRegion {
    /// Cluster.
    pub cluster: String,
    /// The drive itself, so that nobody can copy another's file onto it.
    pub drive: String,
    /// Region.
    pub region: String,
    /// Jurisdiction, in the operator's words.
    pub jurisdiction: String,
}

/// What was found on a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "detail")]
pub enum Declared {
    /// A declaration that opens and names this drive.
    Verified(DriveRegion),
    /// None: the drive was never taken into use by a node that declares.
    Missing,
    /// One that does not open, or names another drive: somebody has been at it.
    Tampered(String),
}

/// What a drive declares, read from the drive.
pub(crate) fn declared(folder: &Path, key: &BlobKey, cluster: ClusterId, drive: DriveId) -> Declared {
    let file = folder.join(REGION_FILE);
    let bytes = match std::fs::metadata(&file) {
        Ok(found) if found.len() > FILE_BYTES_MAX => return Declared::Tampered("the file is too long".to_owned()),
        Ok(_) => match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => return Declared::Tampered(error.to_string()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Declared::Missing,
        Err(error) => return Declared::Tampered(error.to_string()),
    };
    let Ok(plain) = key.open(AAD, &bytes) else {
        return Declared::Tampered("it does not open under this cluster's keys".to_owned());
    };
    match postcard::from_bytes::<DriveRegion>(&plain) {
        Ok(found) if found.drive == drive.to_string() && found.cluster == cluster.to_string() => {
            Declared::Verified(found)
        }
        Ok(found) => Declared::Tampered(format!("it was made for drive {}", found.drive)),
        Err(error) => Declared::Tampered(error.to_string()),
    }
}

/// What a node declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRegion<'a> {
    pub(crate) region: &'a str,
    pub(crate) jurisdiction: &'a str,
    /// Take drives that declare another region: the node has moved, or was named wrongly.
    pub(crate) moved: bool,
}

/// Lets a drive take part, or says why not. One without a declaration gets the node's.
pub(crate) fn admit(
    folder: &Path,
    key: &BlobKey,
    cluster: ClusterId,
    drive: DriveId,
    node: &NodeRegion<'_>,
) -> std::result::Result<Option<String>, String> {
    let own = DriveRegion {
        cluster: cluster.to_string(),
        drive: drive.to_string(),
        region: node.region.to_owned(),
        jurisdiction: node.jurisdiction.to_owned(),
    };
    let note = match declared(folder, key, cluster, drive) {
        Declared::Verified(found) if found == own => return Ok(None),
        Declared::Missing => None,
        Declared::Verified(found) if found.region == own.region || node.moved => Some(format!(
            "drive {} was declared to be in region {} ({}), and is now in {} ({})",
            folder.display(),
            found.region,
            found.jurisdiction,
            own.region,
            own.jurisdiction
        )),
        Declared::Verified(found) => {
            return Err(format!(
                "drive {} was declared to be in region {}, and node.region is {}: it takes part in nothing. Where the node has \
                 moved, say so once with node.moved_region = true",
                folder.display(),
                found.region,
                own.region
            ));
        }
        Declared::Tampered(why) => {
            return Err(format!(
                "the region declared by drive {} ({REGION_FILE}) was tampered with: {why}. It takes part in nothing; remove the file \
                 only if you know where the drive has been",
                folder.display()
            ));
        }
    };
    let plain = postcard::to_stdvec(&own).map_err(|error| error.to_string())?;
    raw::write_atomically(&folder.join(REGION_FILE), &key.seal(AAD, &plain)).map_err(|error| error.to_string())?;
    Ok(note)
}

impl Inner {
    /// Whether bytes of a bucket may lie, or be served, here: **the** check. Fails closed.
    ///
    /// # Errors
    /// [`StoreError::WrongRegion`], naming where they may.
    pub(crate) fn check_region(&self, bucket: &BucketRecord) -> Result<()> {
        let pins = &bucket.options.regions;
        match pins.first() {
            Some(first) if !pins.contains(&self.options.region) => {
                Err(StoreError::WrongRegion { region: first.clone() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_crypto::Secret32;

    const HOME: NodeRegion<'static> = NodeRegion { region: "eu-home-1", jurisdiction: "DE", moved: false };

    #[test]
    fn a_drive_declares_once_and_contradictions_stay_out() {
        let folder = tempfile::tempdir().unwrap();
        let key = BlobKey::new(&Secret32::from_bytes([1; 32]));
        let (cluster, drive) = (ClusterId::random(), DriveId::random());
        assert_eq!(admit(folder.path(), &key, cluster, drive, &HOME), Ok(None));
        assert_eq!(admit(folder.path(), &key, cluster, drive, &HOME), Ok(None));
        let away = NodeRegion { region: "us-away-1", ..HOME };
        assert!(admit(folder.path(), &key, cluster, drive, &away).unwrap_err().contains("eu-home-1"));
        // Another drive's declaration, other keys, a flipped bit.
        assert!(admit(folder.path(), &key, cluster, DriveId::random(), &HOME).unwrap_err().contains("tampered"));
        let other = BlobKey::new(&Secret32::from_bytes([2; 32]));
        assert!(matches!(declared(folder.path(), &other, cluster, drive), Declared::Tampered(_)));
        let file = folder.path().join(REGION_FILE);
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert!(admit(folder.path(), &key, cluster, drive, &HOME).is_err());
        bytes[last] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let moved = NodeRegion { moved: true, ..away };
        assert!(admit(folder.path(), &key, cluster, drive, &moved).unwrap().is_some());
        assert!(
            matches!(declared(folder.path(), &key, cluster, drive), Declared::Verified(d) if d.region == "us-away-1")
        );
    }
}
