//! Putting an index back together from the checkpoints of all folders: of every file any good copy.

use std::path::{Path, PathBuf};

use granary_drive::raw::sync_dir;
use granary_types::DriveId;

use super::copy::copy;
use super::folder::CheckpointFolder;
use super::manifest::Manifest;
use crate::error::{MetaError, Result};
use crate::options::{MetaKey, MirrorFolder};

/// The complete checkpoints of `folders` that belong to `log_id` (any, if `None`), newest first, each with the
/// drive it was found on.
pub(crate) fn candidates(
    folders: &[MirrorFolder],
    key: &MetaKey,
    log_id: Option<[u8; 16]>,
) -> Vec<(DriveId, Manifest)> {
    let mut found: Vec<(DriveId, Manifest)> = Vec::new();
    for folder in folders {
        for manifest in CheckpointFolder::new(&folder.path).complete(key) {
            let wanted = log_id.is_none_or(|id| id == manifest.log_id);
            if wanted && !found.iter().any(|(_, m)| *m == manifest) {
                found.push((folder.drive_id, manifest));
            }
        }
    }
    found.sort_by_key(|(_, found)| std::cmp::Reverse((found.position, found.number)));
    found
}

/// Whether a copy with that checksum lies at `to` now.
fn is_copied(from: &Path, to: &Path, crc: u32) -> bool {
    copy(from, &[to.to_owned()]).is_ok_and(|copied| copied.failed.is_empty() && copied.crc == crc)
}

/// Copies a checkpoint's files into the new directory `to`, taking each from any folder that has it undamaged.
///
/// # Errors
/// [`MetaError::Checkpoint`] if some file is good nowhere; the system's. `to` is then not there.
pub(crate) fn restore(manifest: &Manifest, folders: &[MirrorFolder], to: &Path) -> Result<()> {
    let part: PathBuf = to.with_file_name(format!("{}.restore", to.file_name().unwrap_or_default().to_string_lossy()));
    let _ = std::fs::remove_dir_all(&part);
    std::fs::create_dir_all(&part).map_err(MetaError::io("create", &part))?;
    for file in &manifest.files {
        let target = part.join(&file.name);
        let good = folders.iter().any(|folder| {
            let from = CheckpointFolder::new(&folder.path).path_of(manifest, file);
            let right = std::fs::metadata(&from).is_ok_and(|m| m.len() == file.bytes);
            right && is_copied(&from, &target, file.crc)
        });
        if !good {
            let _ = std::fs::remove_dir_all(&part);
            return Err(MetaError::Checkpoint(format!("no folder has an undamaged copy of {}", file.name)));
        }
    }
    sync_dir(&part).map_err(MetaError::io("sync", &part))?;
    std::fs::rename(&part, to).map_err(MetaError::io("rename", &part))?;
    let parent = to.parent().unwrap_or(to);
    sync_dir(parent).map_err(MetaError::io("sync", parent))
}
