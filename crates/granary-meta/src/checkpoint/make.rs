//! Making a checkpoint: a RocksDB checkpoint beside the live index, copied to the folders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::copy::copy;
use super::folder::CheckpointFolder;
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
    let newest = folders.iter().filter_map(|f| CheckpointFolder::new(&f.path).numbers().last().copied()).max();
    let number = newest.unwrap_or(0) + 1;
    let mut made = Made { cut: None, copied_bytes: 0, failed: Vec::new() };
    let mut targets: Vec<Target<'_>> =
        folders.iter().map(|f| Target { folder: f, place: CheckpointFolder::new(&f.path) }).collect();
    made.drop_failed(&mut targets, |target| target.place.begin(&incarnation, number));
    let files = made.copy_files(&source, &incarnation, number, &mut targets, known)?;
    let manifest = Manifest { log_id: index.log_id(), number, position, incarnation, files };
    let sealed = manifest.encode(key, rand::random());
    made.drop_failed(&mut targets, |target| target.place.complete_with(&manifest, &sealed));
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

/// A folder that has taken all so far.
struct Target<'a> {
    folder: &'a MirrorFolder,
    place: CheckpointFolder,
}

impl Made {
    /// Does something for each target; those that fail are targets no more.
    fn drop_failed(&mut self, targets: &mut Vec<Target<'_>>, act: impl Fn(&Target<'_>) -> Result<()>) {
        targets.retain(|target| match act(target) {
            Ok(()) => true,
            Err(error) => {
                self.failed.push((target.folder.clone(), error));
                false
            }
        });
    }

    /// Copies each file of `source` to the targets that do not have it; the entries of the manifest.
    fn copy_files(
        &mut self,
        source: &Path,
        incarnation: &str,
        number: u64,
        targets: &mut Vec<Target<'_>>,
        known: &mut Known,
    ) -> Result<Vec<FileEntry>> {
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
            let before = known.0.get(&id).filter(|_| shared).copied();
            let len = std::fs::metadata(&path).map_err(MetaError::io("look at", &path))?.len();
            let wanted = |target: &Target<'_>| target.place.wanted(incarnation, number, &name, len, shared);
            let (takers, places): (Vec<usize>, Vec<PathBuf>) =
                targets.iter().enumerate().filter_map(|(i, target)| Some((i, wanted(target)?))).unzip();
            let (crc, bytes) = match before.filter(|_| places.is_empty()) {
                Some(known) => known,
                None => {
                    let copied = copy(&path, &places)?;
                    let now = (copied.crc, copied.bytes);
                    if before.is_some_and(|before| before != now) {
                        return Err(MetaError::Checkpoint(format!(
                            "{name} is not what it was when it was first copied"
                        )));
                    }
                    self.copied_bytes += copied.bytes * (places.len() - copied.failed.len()) as u64;
                    let mut failed: Vec<(usize, MetaError)> =
                        copied.failed.into_iter().map(|(place, error)| (takers[place], error)).collect();
                    failed.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
                    for (index, error) in failed {
                        self.failed.push((targets.remove(index).folder.clone(), error));
                    }
                    now
                }
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
}
