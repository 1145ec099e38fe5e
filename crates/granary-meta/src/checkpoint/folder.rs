//! Checkpoints on one drive: `checkpoint/files/<incarnation>/` holds the files that never change, shared by all
//! checkpoints; `checkpoint/<number>/` holds the others and the manifest.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use granary_drive::raw::{sync_dir, write_atomically};

use super::manifest::{FileEntry, Manifest};
use crate::error::{MetaError, Result};
use crate::options::MetaKey;

const MANIFEST_FILE: &str = "CHECKPOINT";

/// The checkpoints of one folder.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointFolder {
    dir: PathBuf,
}

impl CheckpointFolder {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { dir: folder.join("checkpoint") }
    }

    fn of(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}"))
    }

    fn pool(&self, incarnation: &str) -> PathBuf {
        self.dir.join("files").join(incarnation)
    }

    /// Where a file of a checkpoint lies.
    pub(crate) fn path_of(&self, manifest: &Manifest, file: &FileEntry) -> PathBuf {
        self.place_of(&manifest.incarnation, manifest.number, &file.name, file.shared)
    }

    fn place_of(&self, incarnation: &str, number: u64, name: &str, shared: bool) -> PathBuf {
        match shared {
            true => self.pool(incarnation).join(name),
            false => self.of(number).join(name),
        }
    }

    /// Numbers of the checkpoints begun here, complete or not, ascending.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let mut numbers: Vec<u64> =
            names.filter(|n| n.len() == 16).filter_map(|n| u64::from_str_radix(&n, 16).ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Complete checkpoints here, ascending. Those that do not open are passed over.
    pub(crate) fn complete(&self, key: &MetaKey) -> Vec<Manifest> {
        let read = |number: u64| {
            let bytes = std::fs::read(self.of(number).join(MANIFEST_FILE)).ok()?;
            match Manifest::decode(&bytes, key) {
                Ok(manifest) => Some(manifest).filter(|m| m.number == number),
                Err(error) => {
                    tracing::warn!(dir = %self.of(number).display(), %error, "a checkpoint manifest is unusable");
                    None
                }
            }
        };
        self.numbers().into_iter().filter_map(read).collect()
    }

    /// Makes the folders of a checkpoint that files can be copied to.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn begin(&self, incarnation: &str, number: u64) -> Result<()> {
        for dir in [self.pool(incarnation), self.of(number)] {
            std::fs::create_dir_all(&dir).map_err(MetaError::io("create", &dir))?;
        }
        Ok(())
    }

    /// Where a file that is still to be copied goes; `None` if it is here.
    pub(crate) fn wanted(
        &self,
        incarnation: &str,
        number: u64,
        name: &str,
        bytes: u64,
        shared: bool,
    ) -> Option<PathBuf> {
        let to = self.place_of(incarnation, number, name, shared);
        // A pool file is renamed into place when it is whole and durable.
        let is_here = shared && std::fs::metadata(&to).is_ok_and(|m| m.len() == bytes);
        (!is_here).then_some(to)
    }

    /// All files are here: writes the manifest.
    ///
    /// # Errors
    /// The system's; the checkpoint is then not complete here.
    pub(crate) fn complete_with(&self, manifest: &Manifest, sealed: &[u8]) -> Result<()> {
        let own = self.of(manifest.number);
        for dir in [&self.pool(&manifest.incarnation), &own, &self.dir.join("files"), &self.dir] {
            sync_dir(dir).map_err(MetaError::io("sync", dir))?;
        }
        let path = own.join(MANIFEST_FILE);
        write_atomically(&path, sealed).map_err(MetaError::io("write", &path))
    }

    /// Keeps the newest `keep` complete checkpoints and the files they name; removes the rest.
    pub(crate) fn prune(&self, key: &MetaKey, keep: usize) {
        let complete = self.complete(key);
        let kept = &complete[complete.len().saturating_sub(keep.max(1))..];
        let Some(newest) = kept.last() else { return };
        let numbers: HashSet<u64> = kept.iter().map(|m| m.number).collect();
        for number in self.numbers() {
            // One that is being written has the highest number of all.
            if number < newest.number && !numbers.contains(&number) {
                let _ = std::fs::remove_dir_all(self.of(number));
            }
        }
        let named: HashSet<PathBuf> =
            kept.iter().flat_map(|m| m.files.iter().map(move |f| self.path_of(m, f))).collect();
        for incarnation in list(&self.dir.join("files")) {
            let files = list(&incarnation);
            for file in files.iter().filter(|f| !named.contains(*f)) {
                let _ = std::fs::remove_file(file);
            }
            // Fails, as it should, where files are left.
            let _ = std::fs::remove_dir(&incarnation);
        }
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}
