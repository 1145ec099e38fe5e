//! The mirrors that are up, and the one open log file that all of them have.
//!
//! A frame counts as durable when every mirror that is up has it. A mirror whose write fails is dropped at
//! once; the next frame is of a new *epoch* and names those that are left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_drive::AlignedBuf;
use granary_drive::raw::RawFile;
use granary_types::DriveId;

use super::folder::LogFolder;
use super::frame::{self, FILE_HEADER_BYTES, FileHead, Head};
use super::queue::Pending;
use super::seal::{Purpose, Sealer, key_check};
use super::spares::{Spare, Spares};
use super::writer::MirrorWriter;
use crate::error::{MetaError, Result};
use crate::options::{MetaKey, MirrorFolder};
use crate::stats::MetaStats;

/// Bytes of a frame that are not commands, with room for as many mirrors as can be named.
const FRAME_EXTRA_BYTES: usize = 2048;

/// Command bytes that a frame in a file of `file_bytes` can hold.
pub(crate) const fn frame_room(file_bytes: u64) -> usize {
    (file_bytes as usize).saturating_sub(FILE_HEADER_BYTES + FRAME_EXTRA_BYTES + granary_types::limits::ALIGN_BYTES)
}

struct Mirror {
    folder: MirrorFolder,
    log: LogFolder,
    file: Arc<RawFile>,
    writer: MirrorWriter,
    spare: Arc<Spare>,
    inline: bool,
}

/// Where the log goes on.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    pub log_id: [u8; 16],
    pub next_frame: u64,
    pub next_position: u64,
    pub next_file: u64,
    pub epoch: u32,
}

/// The mirrors that are up.
pub(crate) struct Mirrors {
    up: Vec<Mirror>,
    at: Position,
    session: [u8; 16],
    key_check: [u8; 16],
    sealer: Sealer,
    spares: Spares,
    file_bytes: u64,
    offset: u64,
    /// Live files: number and position of the first command.
    starts: VecDeque<(u64, u64)>,
    buffer: Option<AlignedBuf>,
    flying: Option<(granary_drive::AlignedBytes, u64)>,
    stats: Arc<MetaStats>,
}

impl Mirrors {
    /// Begins a new file in all `folders` (which must have all files in `starts`) and a new session.
    ///
    /// # Errors
    /// If no folder takes it.
    pub(crate) fn open(
        folders: &[MirrorFolder],
        at: Position,
        starts: Vec<(u64, u64)>,
        key: &MetaKey,
        file_bytes: u64,
        stats: Arc<MetaStats>,
    ) -> Result<Self> {
        let session: [u8; 16] = rand::random();
        let spares = Spares::spawn(file_bytes).map_err(MetaError::io("start a thread for", "spares"))?;
        let mut mirrors = Self {
            up: Vec::new(),
            key_check: key_check(key, &at.log_id),
            at,
            session,
            sealer: Sealer::new(key, Purpose::Log, &session),
            spares,
            file_bytes,
            offset: file_bytes,
            starts: starts.into(),
            buffer: None,
            flying: None,
            stats,
        };
        mirrors.rotate(folders)?;
        Ok(mirrors)
    }

    /// Drives that are up.
    pub(crate) fn drives(&self) -> Vec<DriveId> {
        self.up.iter().map(|m| m.folder.drive_id).collect()
    }

    /// Folders that are up.
    pub(crate) fn folders(&self) -> Vec<MirrorFolder> {
        self.up.iter().map(|m| m.folder.clone()).collect()
    }

    /// Live files: number and position of the first command.
    pub(crate) fn starts(&self) -> Vec<(u64, u64)> {
        self.starts.iter().copied().collect()
    }

    /// Position of the next command.
    pub(crate) const fn next_position(&self) -> u64 {
        self.at.next_position
    }

    /// The open file's number.
    pub(crate) const fn open_file(&self) -> u64 {
        self.at.next_file - 1
    }

    fn lost(&mut self, drive: DriveId, error: &dyn std::fmt::Display) {
        tracing::error!(%drive, %error, "a log mirror failed and is dropped");
        self.up.retain(|m| m.folder.drive_id != drive);
        self.at.epoch += 1;
        MetaStats::add(&self.stats.mirrors_lost, 1);
        self.stats.mirrors_up.store(self.up.len() as u64, Ordering::Relaxed);
    }

    /// Closes the open file and begins the next one, on the mirrors that are up and on `joining` ones.
    ///
    /// # Errors
    /// If no mirror took it; then nothing has changed.
    pub(crate) fn rotate(&mut self, joining: &[MirrorFolder]) -> Result<()> {
        let head = FileHead {
            log_id: self.at.log_id,
            key_check: self.key_check,
            file: self.at.next_file,
            first_frame: self.at.next_frame,
            first_position: self.at.next_position,
        };
        let mut begun = Vec::new();
        let mut failed = Vec::new();
        for mirror in &mut self.up {
            match mirror.spare.take().and_then(|spare| mirror.log.begin(spare, &head)) {
                Ok(file) => begun.push((mirror.folder.drive_id, file)),
                Err(error) => failed.push((mirror.folder.drive_id, error)),
            }
            mirror.spare = self.spares.want(&mirror.log);
        }
        let mut joined = Vec::new();
        for folder in joining {
            match self.join(folder, &head) {
                Ok(mirror) => joined.push(mirror),
                Err(error) => {
                    tracing::warn!(drive = %folder.drive_id, %error, "a folder could not become a log mirror");
                    failed.push((folder.drive_id, error));
                }
            }
        }
        if begun.is_empty() && joined.is_empty() {
            let why = failed.pop().map_or_else(|| "no log mirror is left".to_owned(), |(_, e)| e.to_string());
            return Err(MetaError::Unavailable(format!("no log file can be begun: {why}")));
        }
        for (drive, error) in failed {
            if self.up.iter().any(|m| m.folder.drive_id == drive) {
                self.lost(drive, &error);
            }
        }
        for (mirror, (_, file)) in self.up.iter_mut().zip(begun) {
            mirror.file = file;
        }
        if !joined.is_empty() {
            MetaStats::add(&self.stats.mirrors_joined, joined.len() as u64);
            self.at.epoch += 1;
            self.up.extend(joined);
        }
        self.stats.mirrors_up.store(self.up.len() as u64, Ordering::Relaxed);
        self.starts.push_back((head.file, head.first_position));
        self.at.next_file += 1;
        self.offset = FILE_HEADER_BYTES as u64;
        MetaStats::add(&self.stats.log_files, 1);
        Ok(())
    }

    fn join(&self, folder: &MirrorFolder, head: &FileHead) -> Result<Mirror> {
        let log = LogFolder::new(&folder.path);
        log.create()?;
        log.tidy_spares(1);
        let file = log.begin(self.spares.want(&log).take()?, head)?;
        let spare = self.spares.want(&log);
        let writer = MirrorWriter::spawn().map_err(MetaError::io("start a thread for", &folder.path))?;
        Ok(Mirror { folder: folder.clone(), log, file, writer, spare, inline: false })
    }

    /// Begins to write a frame with `batch`; `finish` waits for it. With `inline`, one mirror's share is written
    /// by `finish` itself: for when there is nothing else to do meanwhile.
    ///
    /// # Errors
    /// If no mirror is up or no file can be begun: then nothing was written.
    pub(crate) fn start(&mut self, batch: &[Pending], inline: bool) -> Result<()> {
        let commands = batch.iter().map(|p| &p.bytes[..]);
        let disk_bytes = frame::disk_bytes(frame::payload_bytes(commands.clone(), self.up.len())) as u64;
        if self.up.is_empty() {
            return Err(MetaError::Unavailable("no log mirror is left".to_owned()));
        }
        if self.offset + disk_bytes > self.file_bytes {
            self.rotate(&[])?;
        }
        let head = Head {
            log_id: self.at.log_id,
            session: self.session,
            frame: self.at.next_frame,
            first: self.at.next_position,
            file: self.open_file(),
            count: batch.len() as u32,
            epoch: self.at.epoch,
            payload_bytes: 0,
        };
        let mut buffer = self.buffer.take().unwrap_or_else(|| AlignedBuf::new(64 << 10));
        frame::encode(head, &self.drives(), commands, &self.sealer, &mut buffer);
        let bytes = buffer.freeze();
        for (at, mirror) in self.up.iter_mut().enumerate() {
            mirror.inline = inline && at == 0;
            if !mirror.inline {
                mirror.writer.start(&mirror.file, self.offset, &bytes);
            }
        }
        self.flying = Some((bytes, batch.len() as u64));
        Ok(())
    }

    /// Waits until the frame is durable on every mirror that is still up after it; its size on disk.
    ///
    /// # Errors
    /// If no mirror has it. Whether it is in the log is then unknown until the store is opened anew.
    pub(crate) fn finish(&mut self) -> Result<u64> {
        let Some((bytes, count)) = self.flying.take() else { return Ok(0) };
        let mut failed = Vec::new();
        for mirror in &self.up {
            let result = match mirror.inline {
                true => mirror.file.write_dsync_at(self.offset, &bytes),
                false => mirror.writer.wait(),
            };
            if let Err(error) = result {
                failed.push((mirror.folder.drive_id, error));
            }
        }
        for (drive, error) in failed {
            self.lost(drive, &error);
        }
        let disk_bytes = bytes.len() as u64;
        self.buffer = bytes.try_into_buf().ok();
        if self.up.is_empty() {
            return Err(MetaError::Unavailable("all log mirrors failed".to_owned()));
        }
        self.offset += disk_bytes;
        self.at.next_frame += 1;
        self.at.next_position += count;
        MetaStats::add(&self.stats.frames, 1);
        MetaStats::add(&self.stats.frame_bytes, disk_bytes);
        Ok(disk_bytes)
    }

    /// Takes a mirror out.
    pub(crate) fn withdraw(&mut self, drive: DriveId) -> bool {
        let had = self.up.iter().any(|m| m.folder.drive_id == drive);
        if had {
            self.lost(drive, &"withdrawn");
        }
        had
    }

    /// Gives up the closed files that hold nothing after `position`.
    pub(crate) fn cut(&mut self, position: u64) {
        while let (Some((file, _)), Some((_, next))) = (self.starts.front().copied(), self.starts.get(1).copied()) {
            if next > position + 1 {
                break;
            }
            self.give_up(file);
            self.starts.pop_front();
        }
    }

    /// Gives up one closed file on all mirrors.
    fn give_up(&self, file: u64) {
        for mirror in &self.up {
            mirror.log.give_up(file, self.file_bytes);
        }
    }

    /// Gives up files that hold no frame.
    pub(crate) fn drop_empty(&mut self, empty: &[u64]) {
        for file in empty {
            self.give_up(*file);
        }
        self.starts.retain(|(file, _)| !empty.contains(file));
    }
}
