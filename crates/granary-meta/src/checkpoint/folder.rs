//! Checkpoints on one drive: `checkpoint/files/<incarnation>/` holds the files that never change, shared by all
//! checkpoints; `checkpoint/<number>/` holds the others and the manifest.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use granary_drive::raw::{sync_dir, write_atomically};

use super::manifest::{FileEntry, Manifest};
use crate::error::{MetaError, Result};
use crate::options::MetaKey;

const MANIFEST_FILE: &str = "CHECKPOINT";
const COPY_BYTES: usize = 1 << 20;

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
        match file.shared {
            true => self.pool(&manifest.incarnation).join(&file.name),
            false => self.of(manifest.number).join(&file.name),
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

    /// Copies what is not here yet of the checkpoint in `source`, then writes its manifest. Returns the bytes copied.
    ///
    /// # Errors
    /// The system's; the checkpoint is then not complete here.
    pub(crate) fn add(&self, source: &Path, manifest: &Manifest, sealed: &[u8]) -> Result<u64> {
        let pool = self.pool(&manifest.incarnation);
        let own = self.of(manifest.number);
        for dir in [&pool, &own] {
            std::fs::create_dir_all(dir).map_err(MetaError::io("create", dir))?;
        }
        let mut copied = 0;
        for file in &manifest.files {
            let to = self.path_of(manifest, file);
            // A pool file is renamed into place when it is whole and durable.
            if file.shared && std::fs::metadata(&to).is_ok_and(|m| m.len() == file.bytes) {
                continue;
            }
            let crc = copy(&source.join(&file.name), &to)?;
            if crc != file.crc {
                return Err(MetaError::Checkpoint(format!("{} changed while it was copied", file.name)));
            }
            copied += file.bytes;
        }
        for dir in [&pool, &own, &self.dir.join("files"), &self.dir] {
            sync_dir(dir).map_err(MetaError::io("sync", dir))?;
        }
        let path = own.join(MANIFEST_FILE);
        write_atomically(&path, sealed).map_err(MetaError::io("write", &path))?;
        Ok(copied)
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

/// Copies a file so that it is there whole and durable (its directory aside), or not at all; its CRC-32C.
///
/// # Errors
/// The system's.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<u32> {
    let temporary = to.with_file_name(format!("{}.part", to.file_name().unwrap_or_default().to_string_lossy()));
    let mut out = File::create(&temporary).map_err(MetaError::io("create", &temporary))?;
    let crc = read_through(from, |bytes| out.write_all(bytes).map_err(MetaError::io("write", &temporary)))?;
    out.sync_all().map_err(MetaError::io("sync", &temporary))?;
    std::fs::rename(&temporary, to).map_err(MetaError::io("rename", &temporary))?;
    Ok(crc)
}

/// A file's CRC-32C and length.
///
/// # Errors
/// The system's.
pub(crate) fn measure(path: &Path) -> Result<(u32, u64)> {
    let mut bytes = 0;
    let crc = read_through(path, |b| {
        bytes += b.len() as u64;
        Ok(())
    })?;
    Ok((crc, bytes))
}

fn read_through(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<u32> {
    let mut file = File::open(path).map_err(MetaError::io("open", path))?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    loop {
        let count = file.read(&mut buffer).map_err(MetaError::io("read", path))?;
        if count == 0 {
            return Ok(crc.finalize() as u32);
        }
        crc.update(&buffer[..count]);
        take(&buffer[..count])?;
    }
}
