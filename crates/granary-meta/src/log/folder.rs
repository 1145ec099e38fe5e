//! One mirror's folder of log files: names, spares, beginning and giving up files.
//!
//! A file is made as a *spare* (`spare-…`), zero-filled and durable; it gets its header block while it is still
//! a spare and then its name, so that every `….log` has a whole header or never held a frame. Files that are
//! cut off become spares again; frames left in them carry another file number and are never taken for new ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_drive::raw::{RawFile, sync_dir};

use super::frame::{FILE_HEADER_BYTES, FileHead};
use crate::error::{MetaError, Result};

/// Log files of a folder are in this sub-folder.
const LOG_DIR: &str = "log";

/// The log's folder on one drive.
#[derive(Debug, Clone)]
pub(crate) struct LogFolder {
    dir: PathBuf,
}

impl LogFolder {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { dir: folder.join(LOG_DIR) }
    }

    pub(crate) fn create(&self) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(MetaError::io("create", &self.dir))?;
        match self.dir.parent() {
            Some(parent) => sync_dir(parent).map_err(MetaError::io("sync", parent)),
            None => Ok(()),
        }
    }

    pub(crate) fn path_of(&self, file: u64) -> PathBuf {
        self.dir.join(format!("{file:016x}.log"))
    }

    /// Numbers of the log files here, ascending. Empty if the folder is not there.
    pub(crate) fn files(&self) -> Vec<u64> {
        let mut files: Vec<u64> =
            self.names().iter().filter_map(|name| u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()).collect();
        files.sort_unstable();
        files
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// A spare of `bytes` that is there already, if any.
    pub(crate) fn find_spare(&self, bytes: u64) -> Option<RawFile> {
        self.names().iter().filter(|n| n.starts_with("spare-") && !n.ends_with(".part")).find_map(|name| {
            let file = RawFile::open(&self.dir.join(name)).ok()?;
            (file.len_bytes().ok()? == bytes).then_some(file)
        })
    }

    /// Makes a spare: zero-filled, durable.
    pub(crate) fn make_spare(&self, bytes: u64) -> Result<RawFile> {
        let name = format!("spare-{:016x}", rand::random::<u64>());
        let part = self.dir.join(format!("{name}.part"));
        let path = self.dir.join(name);
        let made = RawFile::create_zeroed(&part, bytes);
        made.map_err(MetaError::io("fill", &part))?;
        std::fs::rename(&part, &path).map_err(MetaError::io("rename", &part))?;
        sync_dir(&self.dir).map_err(MetaError::io("sync", &self.dir))?;
        RawFile::open(&path).map_err(MetaError::io("open", &path))
    }

    /// Removes spares that were not finished, and all but `keep` of the others.
    pub(crate) fn tidy_spares(&self, keep: usize) {
        let mut kept = 0;
        for name in self.names() {
            if name.ends_with(".part") || name.ends_with(".tmp") || (name.starts_with("spare-") && kept >= keep) {
                let _ = std::fs::remove_file(self.dir.join(&name));
            } else if name.starts_with("spare-") {
                kept += 1;
            }
        }
    }

    /// Makes `spare` the log file that `head` says.
    pub(crate) fn begin(&self, spare: RawFile, head: &FileHead) -> Result<Arc<RawFile>> {
        let path = self.path_of(head.file);
        spare.write_dsync_at(0, &head.encode()).map_err(MetaError::io("write", spare.path()))?;
        std::fs::rename(spare.path(), &path).map_err(MetaError::io("rename", spare.path()))?;
        sync_dir(&self.dir).map_err(MetaError::io("sync", &self.dir))?;
        RawFile::open(&path).map(Arc::new).map_err(MetaError::io("open", &path))
    }

    /// Gives a log file up: it becomes a spare, or is removed where there are enough.
    pub(crate) fn give_up(&self, file: u64, bytes: u64) {
        let path = self.path_of(file);
        let enough = self.find_spare(bytes).is_some();
        let right = std::fs::metadata(&path).is_ok_and(|m| m.len() == bytes);
        let done = if enough || !right {
            std::fs::remove_file(&path)
        } else {
            std::fs::rename(&path, self.dir.join(format!("spare-{:016x}", rand::random::<u64>())))
        };
        // A file that stays is cut again at the next opening.
        if let Err(error) = done {
            tracing::warn!(path = %path.display(), %error, "a log file could not be given up");
        }
    }

    /// The whole content of a log file.
    pub(crate) fn read(&self, file: u64) -> Result<Vec<u8>> {
        let path = self.path_of(file);
        std::fs::read(&path).map_err(MetaError::io("read", path))
    }

    /// The header of a log file, if it has a valid one.
    pub(crate) fn head(&self, file: u64) -> Option<FileHead> {
        use std::os::unix::fs::FileExt;
        let mut block = [0; FILE_HEADER_BYTES];
        std::fs::File::open(self.path_of(file)).ok()?.read_exact_at(&mut block, 0).ok()?;
        FileHead::decode(&block).filter(|h| h.file == file)
    }

    /// Writes a log file whole: either it is there afterwards with this content, or as before.
    pub(crate) fn write(&self, file: u64, content: &[u8]) -> Result<()> {
        use std::io::Write;
        let path = self.path_of(file);
        let temporary = path.with_extension("tmp");
        let write = || {
            let mut out = std::fs::File::create(&temporary)?;
            out.write_all(content)?;
            out.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            sync_dir(&self.dir)
        };
        write().map_err(MetaError::io("write", &path))
    }

    /// Removes everything of the log from this folder.
    pub(crate) fn clear(&self) {
        for name in self.names() {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
    }
}
