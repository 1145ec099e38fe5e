//! Reading the log back: from all folders at once, taking of every frame the first valid copy.
//!
//! What is told apart here: a *torn tail* (the one frame in flight at a crash: never acknowledged, cut off), a
//! *bad copy* (another mirror has the frame: repaired), and *damage* (no mirror has a frame that others follow, or
//! a file is missing between others: refused loudly).

use std::collections::BTreeMap;

use granary_types::DriveId;

use super::folder::LogFolder;
use super::frame::{self, FILE_HEADER_BYTES, FileHead, Frame, Head};
use super::seal::{Purpose, Sealers, key_check};
use crate::error::{MetaError, Result};
use crate::options::{MetaKey, MirrorFolder};

/// The log as it lies in a set of folders.
pub(crate) struct LogReader {
    folders: Vec<(DriveId, LogFolder)>,
    /// File number → header.
    files: BTreeMap<u64, FileHead>,
    sealers: Sealers,
    key: MetaKey,
}

/// Where the log ends, and what was found on the way.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogEnd {
    /// Number of the next frame.
    pub next_frame: u64,
    /// Position of the next command.
    pub next_position: u64,
    /// Highest file number there is.
    pub last_file: u64,
    /// The newest mirror epoch and its drives.
    pub epoch: u32,
    pub mirrors: Vec<DriveId>,
    /// Frames read.
    pub frames: u64,
    /// A frame was cut off.
    pub torn_tail: bool,
    /// Files without a single frame at the end of the log.
    pub empty: Vec<u64>,
    /// Copies that are missing or bad, by drive (index in the folder list) and file.
    pub bad: Vec<(usize, u64)>,
    /// What was worked around because the caller accepts loss.
    pub lost: Option<String>,
}

/// One log file, put together from its copies.
pub(crate) struct Assembled {
    /// Header and frames; zeros behind them.
    pub content: Vec<u8>,
    /// Bytes of header and frames.
    pub used_bytes: usize,
}

impl LogReader {
    /// Looks at the folders' log files. Only headers are read.
    pub(crate) fn new(folders: &[MirrorFolder], key: &MetaKey) -> Self {
        let folders: Vec<_> = folders.iter().map(|f| (f.drive_id, LogFolder::new(&f.path))).collect();
        let mut files = BTreeMap::new();
        for (_, folder) in &folders {
            for file in folder.files() {
                if let Some(head) = folder.head(file) {
                    files.entry(file).or_insert(head);
                }
            }
        }
        Self { folders, files, sealers: Sealers::new(key, Purpose::Log), key: key.clone() }
    }

    /// Whether there is no log at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The log's identity.
    ///
    /// # Errors
    /// If the folders hold files of different logs, or the key is not the log's.
    pub(crate) fn log_id(&self) -> Result<Option<[u8; 16]>> {
        if self.files.values().any(|h| h.key_check != key_check(&self.key, &h.log_id)) {
            return Err(MetaError::Layout("the log was sealed with another key".to_owned()));
        }
        let mut ids = self.files.values().map(|h| h.log_id);
        let first = ids.next();
        match ids.find(|id| Some(*id) != first) {
            Some(_) => Err(MetaError::Layout("the folders hold files of different logs".to_owned())),
            None => Ok(first),
        }
    }

    /// Position of the first command that the log still has.
    pub(crate) fn first_position(&self) -> Option<u64> {
        self.files.values().next().map(|h| h.first_position)
    }

    /// File numbers and positions of their first commands, ascending.
    pub(crate) fn starts(&self) -> Vec<(u64, u64)> {
        self.files.iter().map(|(file, head)| (*file, head.first_position)).collect()
    }

    /// Reads all frames in order. `take` is given each; an error of it ends the reading.
    /// `file_done` is given every file, put together, with the copies that differ from it.
    ///
    /// # Errors
    /// [`MetaError::LogDamaged`], unless `accept_loss`; those of `take`.
    pub(crate) fn read(
        &mut self,
        accept_loss: bool,
        mut take: impl FnMut(&Frame) -> Result<()>,
        mut file_done: impl FnMut(u64, &Assembled, &[usize]) -> Result<()>,
    ) -> Result<LogEnd> {
        let mut end = LogEnd::default();
        let heads: Vec<FileHead> = self.files.values().copied().collect();
        let Some(first) = heads.first() else { return Ok(end) };
        end.next_frame = first.first_frame;
        end.next_position = first.first_position;
        for (at, head) in heads.iter().enumerate() {
            end.last_file = head.file;
            if head.first_frame != end.next_frame || head.first_position != end.next_position {
                let why = format!(
                    "file {:016x} begins at frame {}, but the log goes on with frame {}",
                    head.file, head.first_frame, end.next_frame
                );
                return lose(end, accept_loss, why);
            }
            let boundary = heads.get(at + 1).map(|next| next.first_frame);
            let copies = self.copies(head.file);
            let frames_before = end.frames;
            match self.read_file(head, boundary, &copies, &mut end, &mut take)? {
                FileEnd::Whole(assembled) => {
                    let bad: Vec<usize> = (0..self.folders.len())
                        .filter(|at| !copies.iter().any(|(i, c)| i == at && same(c, &assembled)))
                        .collect();
                    end.bad.extend(bad.iter().map(|at| (*at, head.file)));
                    file_done(head.file, &assembled, &bad)?;
                    if end.frames == frames_before {
                        end.empty.push(head.file);
                    } else {
                        end.empty.clear();
                    }
                }
                FileEnd::Damaged(why) => return lose(end, accept_loss, why),
            }
        }
        Ok(end)
    }

    fn copies(&self, file: u64) -> Vec<(usize, Vec<u8>)> {
        let read = |(at, (_, folder)): (usize, &(DriveId, LogFolder))| folder.read(file).ok().map(|c| (at, c));
        self.folders.iter().enumerate().filter_map(read).collect()
    }

    fn read_file(
        &mut self,
        head: &FileHead,
        boundary: Option<u64>,
        copies: &[(usize, Vec<u8>)],
        end: &mut LogEnd,
        take: &mut impl FnMut(&Frame) -> Result<()>,
    ) -> Result<FileEnd> {
        let len = copies.iter().map(|(_, c)| c.len()).max().unwrap_or(0).max(FILE_HEADER_BYTES);
        let mut content = vec![0; len];
        content[..FILE_HEADER_BYTES].copy_from_slice(&head.encode());
        let mut at = FILE_HEADER_BYTES;
        while boundary != Some(end.next_frame) {
            let want = |f: &Frame| {
                f.head.log_id == head.log_id
                    && f.head.file == head.file
                    && f.head.frame == end.next_frame
                    && f.head.first == end.next_position
            };
            let sealers = &mut self.sealers;
            let found = copies.iter().find_map(|(_, copy)| {
                let bytes = copy.get(at..)?;
                let frame = frame::decode(bytes, sealers).filter(|f| want(f))?;
                Some((frame, bytes))
            });
            let Some((frame, bytes)) = found else {
                return Ok(self.end_of_file(head, boundary, copies, at, end, content));
            };
            let disk_bytes = frame.head.disk_bytes().min(bytes.len());
            content[at..at + disk_bytes].copy_from_slice(&bytes[..disk_bytes]);
            at += disk_bytes;
            end.frames += 1;
            end.next_frame += 1;
            end.next_position += u64::from(frame.head.count);
            if frame.head.epoch >= end.epoch {
                end.epoch = frame.head.epoch;
                end.mirrors.clone_from(&frame.mirrors);
            }
            take(&frame)?;
        }
        Ok(FileEnd::Whole(Assembled { content, used_bytes: at }))
    }

    /// No copy has the next frame at `at`: the end of the log, or damage.
    fn end_of_file(
        &mut self,
        head: &FileHead,
        boundary: Option<u64>,
        copies: &[(usize, Vec<u8>)],
        at: usize,
        end: &mut LogEnd,
        content: Vec<u8>,
    ) -> FileEnd {
        if let Some(boundary) = boundary {
            return FileEnd::Damaged(format!(
                "no mirror has frame {} in file {:016x}, but a later file begins at frame {boundary}",
                end.next_frame, head.file
            ));
        }
        for (_, copy) in copies {
            let mut later = at + granary_types::limits::ALIGN_BYTES;
            while let Some(bytes) = copy.get(later..).filter(|b| !b.is_empty()) {
                // A whole head is evidence enough: only one frame is ever in flight, and a file's former life
                // had another number.
                let follows = Head::decode(bytes)
                    .is_some_and(|h| h.log_id == head.log_id && h.file == head.file && h.frame > end.next_frame);
                if follows {
                    return FileEnd::Damaged(format!(
                        "no mirror has frame {} at offset {at} of file {:016x}, but a good one follows at {later}",
                        end.next_frame, head.file
                    ));
                }
                later += granary_types::limits::ALIGN_BYTES;
            }
        }
        end.torn_tail = copies.iter().any(|(_, copy)| {
            let block = copy.get(at..(at + granary_types::limits::ALIGN_BYTES).min(copy.len())).unwrap_or_default();
            let stale = Head::decode(block).is_some_and(|h| h.file != head.file);
            !stale && block.iter().any(|b| *b != 0)
        });
        FileEnd::Whole(Assembled { content, used_bytes: at })
    }
}

enum FileEnd {
    Whole(Assembled),
    Damaged(String),
}

/// Whether a copy has the assembled frames (what lies behind them does not matter).
fn same(copy: &[u8], assembled: &Assembled) -> bool {
    let used = assembled.used_bytes;
    copy.len() == assembled.content.len() && copy.get(..used) == assembled.content.get(..used)
}

fn lose(mut end: LogEnd, accept_loss: bool, why: String) -> Result<LogEnd> {
    if !accept_loss {
        return Err(MetaError::LogDamaged(why));
    }
    tracing::error!(%why, "the log is damaged; commands behind the damage are lost, as the caller accepts");
    end.lost = Some(why);
    Ok(end)
}
