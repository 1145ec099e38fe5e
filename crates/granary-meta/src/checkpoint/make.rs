//! Making a checkpoint: a RocksDB checkpoint beside the live index, copied to the folders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::folder::{CheckpointFolder, measure};
use super::manifest::{FileEntry, Manifest};
use crate::error::{MetaError, Result};
use crate::index::Index;
use crate::options::{MetaKey, MirrorFolder};

/// What a checkpoint came to.
#[derive(Debug)]
pub(crate) struct Made {
    /// The log may be cut up to here: every folder holds a checkpoint at least as new.
    pub cut: Option<u64>,
    /// Bytes copied, all folders together.
    pub copied_bytes: u64,
    /// Folders that did not take it.
    pub failed: Vec<(MirrorFolder, MetaError)>,
}

/// Remembers the checksums of files that never change, so that each is read once.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<(String, String), (u32, u64)>);

/// Copies the state of `index` to `folders`; `keep` complete ones stay on each.
///
/// # Errors
/// If RocksDB cannot make it, or the live folder has no room for its links. Failures of single folders are in [`Made`].
pub(crate) fn make(
    index: &Index,
    folders: &[MirrorFolder],
    key: &MetaKey,
    keep: usize,
    known: &mut Known,
) -> Result<Made> {
    let incarnation = index.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let source = index.path().with_file_name(format!("{incarnation}.checkpoint"));
    remove(&source)?;
    let position = index.applied();
    // RocksDB flushes all memtables first: with the WAL off, what is not flushed would not be in it.
    index.flush()?;
    let made = rocksdb::checkpoint::Checkpoint::new(index.db()).and_then(|c| c.create_checkpoint(&source));
    made.map_err(|e| index.noticed(e))?;
    let files = entries(&source, &incarnation, known)?;
    let newest = folders.iter().filter_map(|f| CheckpointFolder::new(&f.path).numbers().last().copied()).max();
    let manifest = Manifest { log_id: index.log_id(), number: newest.unwrap_or(0) + 1, position, incarnation, files };
    let sealed = manifest.encode(key, rand::random());
    let mut made = Made { cut: None, copied_bytes: 0, failed: Vec::new() };
    for folder in folders {
        let place = CheckpointFolder::new(&folder.path);
        match place.add(&source, &manifest, &sealed) {
            Ok(copied) => made.copied_bytes += copied,
            Err(error) => made.failed.push((folder.clone(), error)),
        }
    }
    remove(&source)?;
    if made.failed.is_empty() {
        for folder in folders {
            let place = CheckpointFolder::new(&folder.path);
            place.prune(key, keep);
            let oldest = place.complete(key).iter().map(|m| m.position).min();
            made.cut = made.cut.min(oldest).or(oldest);
        }
    }
    Ok(made)
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(MetaError::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn entries(source: &Path, incarnation: &str, known: &mut Known) -> Result<Vec<FileEntry>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(source)
        .map_err(MetaError::io("list", source))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    paths.sort();
    let mut files = Vec::new();
    let mut seen = HashMap::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shared = name.ends_with(".sst") || name.ends_with(".blob");
        let id = (incarnation.to_owned(), name.clone());
        let (crc, bytes) = match known.0.get(&id).filter(|_| shared) {
            Some(known) => *known,
            None => measure(&path)?,
        };
        if shared {
            seen.insert(id, (crc, bytes));
        }
        files.push(FileEntry { name, bytes, crc, shared });
    }
    // Files that are gone are never named again.
    known.0 = seen;
    Ok(files)
}
