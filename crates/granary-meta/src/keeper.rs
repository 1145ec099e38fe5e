//! Finds or builds a usable index: the live one, else the newest good checkpoint, else the whole log; then
//! brings it up to the end of the log. The same code opens the store and replaces an index that failed while running.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_types::DriveId;

use crate::apply::apply_one;
use crate::checkpoint::restore::{candidates, restore};
use crate::command::Outcome;
use crate::error::{MetaError, Result};
use crate::index::{Index, IndexOptions};
use crate::log::reader::{LogEnd, LogReader};
use crate::options::{IndexSource, MetaKey, MirrorFolder};

/// An index, brought up to the end of the log.
pub(crate) struct Built {
    pub index: Arc<Index>,
    pub source: IndexSource,
    pub end: LogEnd,
    /// Commands that were applied to it.
    pub replayed: u64,
    /// Bytes of the log that they stand in: a checkpoint now would spare the next start reading them.
    pub replayed_bytes: u64,
    /// What was wrong with others.
    pub problems: Vec<String>,
}

/// How an index is built.
pub(crate) struct Plan<'p> {
    pub folders: &'p [MirrorFolder],
    pub key: &'p MetaKey,
    pub options: &'p IndexOptions,
    /// The log's identity, where it is known.
    pub log_id: Option<[u8; 16]>,
    /// Try the live index (at opening), or build another one beside it.
    pub live: bool,
    /// A folder that is used last (the one whose index failed).
    pub avoid: Option<&'p Path>,
    pub accept_loss: bool,
}

/// The folder's live indexes: number in the order they were made, and path.
fn live_indexes(folder: &MirrorFolder) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder.path.join("index")).into_iter().flatten().flatten();
    let number = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let (number, random) = name.split_once('-')?;
        random.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        u64::from_str_radix(number, 16).ok()
    };
    entries.map(|e| e.path()).filter_map(|p| number(&p).map(|n| (n, p))).collect()
}

/// All live indexes of `folders`, newest first.
pub(crate) fn all_live(folders: &[MirrorFolder]) -> Vec<(DriveId, PathBuf)> {
    let mut found: Vec<(u64, DriveId, PathBuf)> = folders
        .iter()
        .flat_map(|f| live_indexes(f).into_iter().map(|(number, path)| (number, f.drive_id, path)))
        .collect();
    found.sort_by_key(|found| std::cmp::Reverse(found.0));
    found.into_iter().map(|(_, drive, path)| (drive, path)).collect()
}

/// Removes everything in the folders' `index` directories but `keep`.
pub(crate) fn remove_others(folders: &[MirrorFolder], keep: &Path) {
    for folder in folders {
        for entry in std::fs::read_dir(folder.path.join("index")).into_iter().flatten().flatten() {
            if entry.path() != keep
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "an old index could not be removed");
            }
        }
    }
}

impl Plan<'_> {
    /// Where a new index would go, best place first.
    fn places(&self) -> Vec<(DriveId, PathBuf)> {
        let number = self.folders.iter().flat_map(live_indexes).map(|(n, _)| n).max().unwrap_or(0) + 1;
        let name = format!("{number:08x}-{:08x}", rand::random::<u32>());
        let avoided = |f: &MirrorFolder| self.avoid.is_some_and(|a| a.starts_with(&f.path));
        let (last, first): (Vec<_>, Vec<_>) = self.folders.iter().partition(|f| avoided(f));
        first.into_iter().chain(last).map(|f| (f.drive_id, f.path.join("index").join(&name))).collect()
    }

    /// Builds the index. `applied` hears of every command replayed and its outcome.
    ///
    /// # Errors
    /// [`MetaError::LogDamaged`]; the last problem if nothing worked.
    pub(crate) fn build(&self, log: &mut LogReader, applied: &mut dyn FnMut(u64, Outcome)) -> Result<Built> {
        let mut problems = Vec::new();
        if self.live {
            for (drive, path) in all_live(self.folders) {
                match self.try_one(&path, self.log_id, log, applied) {
                    Ok(built) => return Ok(built.from(IndexSource::Live(drive), problems)),
                    Err(error @ MetaError::LogDamaged(_)) => return Err(error),
                    Err(error) => problems.push(format!("index at {}: {error}", path.display())),
                }
            }
        }
        let checkpoints = candidates(self.folders, self.key, self.log_id);
        for (drive, manifest) in &checkpoints {
            for (_, place) in self.places() {
                let restored = restore(manifest, self.folders, &place);
                match restored.and_then(|()| self.try_one(&place, Some(manifest.log_id), log, applied)) {
                    Ok(built) if built.index.applied() < manifest.position => {
                        problems.push(format!("checkpoint {} holds less than it says", manifest.number));
                    }
                    Ok(built) => {
                        return Ok(built.from(IndexSource::Checkpoint(drive.to_owned(), manifest.position), problems));
                    }
                    Err(error @ MetaError::LogDamaged(_)) => return Err(error),
                    Err(error) => {
                        problems.push(format!("checkpoint {} at {}: {error}", manifest.number, place.display()));
                        let _ = std::fs::remove_dir_all(&place);
                        // Another place helps against a full or failing disk, not against a bad checkpoint.
                        if matches!(error, MetaError::Checkpoint(_)) {
                            break;
                        }
                    }
                }
            }
        }
        if log.first_position().is_some_and(|first| first != 1) {
            let why =
                format!("the log begins after its first command and no index or checkpoint is good: {problems:?}");
            return Err(MetaError::LogDamaged(why));
        }
        if log.is_empty() && !problems.is_empty() {
            return Err(MetaError::Layout(format!("no log, and no index or checkpoint is good: {problems:?}")));
        }
        for (_, place) in self.places() {
            match self.try_one(&place, self.log_id, log, applied) {
                Ok(built) => {
                    let source = if log.is_empty() { IndexSource::Fresh } else { IndexSource::Log };
                    return Ok(built.from(source, problems));
                }
                Err(error @ MetaError::LogDamaged(_)) => return Err(error),
                Err(error) => problems.push(format!("new index at {}: {error}", place.display())),
            }
        }
        Err(MetaError::Unavailable(format!("no index could be built: {}", problems.join("; "))))
    }

    fn try_one(
        &self,
        path: &Path,
        log_id: Option<[u8; 16]>,
        log: &mut LogReader,
        applied: &mut dyn FnMut(u64, Outcome),
    ) -> Result<Done> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(MetaError::io("create", parent))?;
        }
        let index = Index::open(path, log_id, self.options)?;
        let before = index.applied();
        if log.first_position().is_some_and(|first| before + 1 < first) {
            return Err(MetaError::Checkpoint(format!("ends at position {before}, before the log begins")));
        }
        let (mut replayed, mut replayed_bytes) = (0, 0);
        let mut end = log.read(
            self.accept_loss,
            |frame| {
                let before = replayed;
                for (position, envelope) in (frame.head.first..).zip(&frame.commands) {
                    if position > index.applied() {
                        let outcome = apply_one(&index, position, envelope)?;
                        replayed += 1;
                        applied(position, outcome);
                    }
                }
                if replayed > before {
                    replayed_bytes += frame.head.disk_bytes() as u64;
                }
                Ok(())
            },
            |_, _, _| Ok(()),
        )?;
        let next = end.next_position.max(1);
        if before >= next {
            let why = format!("the log ends at position {}, but the index has applied {before}", next - 1);
            if !self.accept_loss {
                return Err(MetaError::LogDamaged(why));
            }
            end.lost.get_or_insert(why);
        }
        end.next_position = next.max(index.applied() + 1);
        end.next_frame = end.next_frame.max(1);
        Ok(Done { index: Arc::new(index), end, replayed, replayed_bytes })
    }
}

struct Done {
    index: Arc<Index>,
    end: LogEnd,
    replayed: u64,
    replayed_bytes: u64,
}

impl Done {
    fn from(self, source: IndexSource, problems: Vec<String>) -> Built {
        let Self { index, end, replayed, replayed_bytes } = self;
        Built { index, source, end, replayed, replayed_bytes, problems }
    }
}
