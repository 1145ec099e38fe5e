//! Copying a checkpoint's file to several folders at once: it is read once, and what is written goes past the page cache.
//!
//! A copy has its name once it is whole and durable (its directory aside); until then it is called `*.part`. A folder that does not
//! take it does not keep the others from theirs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use granary_drive::buf::AlignedBuf;
use granary_drive::raw::RawFile;

use crate::error::{MetaError, Result};

/// Bytes of one read and of one write.
const COPY_BYTES: usize = 2 << 20;
/// Lengths and offsets of writes are multiples of this.
const ALIGN_BYTES: usize = 4096;

/// What copying a file came to.
#[derive(Debug)]
pub(crate) struct Copied {
    /// CRC-32C of the file.
    pub crc: u32,
    /// Its length.
    pub bytes: u64,
    /// Targets, by their place in the list, that have no copy.
    pub failed: Vec<(usize, MetaError)>,
}

/// A copy in the making.
struct Part<'a> {
    to: &'a Path,
    path: PathBuf,
    file: RawFile,
}

impl<'a> Part<'a> {
    fn create(to: &'a Path, len_bytes: u64) -> Result<Self> {
        let path = to.with_file_name(format!("{}.part", to.file_name().unwrap_or_default().to_string_lossy()));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(MetaError::io("remove", &path)(error));
            }
            _ => {}
        }
        let file = RawFile::create(&path).map_err(MetaError::io("create", &path))?;
        if len_bytes > 0 {
            let room = len_bytes.next_multiple_of(ALIGN_BYTES as u64);
            file.allocate(0, room).map_err(MetaError::io("reserve room for", &path))?;
        }
        Ok(Self { to, path, file })
    }

    fn finish(&self, len_bytes: u64) -> Result<()> {
        self.file.set_len(len_bytes).map_err(MetaError::io("cut", &self.path))?;
        self.file.sync_all().map_err(MetaError::io("sync", &self.path))?;
        std::fs::rename(&self.path, self.to).map_err(MetaError::io("rename", &self.path))
    }
}

/// Copies `from` to all of `targets`; with none it is only measured.
///
/// # Errors
/// If `from` cannot be read. What becomes of single targets is in [`Copied`].
pub(crate) fn copy(from: &Path, targets: &[PathBuf]) -> Result<Copied> {
    let read_error = || MetaError::io("read", from);
    let mut file = File::open(from).map_err(MetaError::io("open", from))?;
    let len_bytes = file.metadata().map_err(read_error())?.len();
    let mut copied = Copied { crc: 0, bytes: 0, failed: Vec::new() };
    let mut parts = Vec::new();
    for (index, to) in targets.iter().enumerate() {
        match Part::create(to, len_bytes) {
            Ok(part) => parts.push((index, part)),
            Err(error) => copied.failed.push((index, error)),
        }
    }
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let room = usize::try_from(len_bytes).unwrap_or(COPY_BYTES).clamp(1, COPY_BYTES).next_multiple_of(ALIGN_BYTES);
    let mut buffer = AlignedBuf::zeroed(room);
    loop {
        let filled = fill(&mut file, &mut buffer).map_err(read_error())?;
        if filled == 0 {
            break;
        }
        crc.update(&buffer[..filled]);
        let padded = filled.next_multiple_of(ALIGN_BYTES);
        buffer[filled..padded].fill(0);
        parts.retain(|(index, part)| match part.file.write_all_at(copied.bytes, &buffer[..padded]) {
            Ok(()) => true,
            Err(error) => {
                copied.failed.push((*index, MetaError::io("write", &part.path)(error)));
                let _ = std::fs::remove_file(&part.path);
                false
            }
        });
        copied.bytes += filled as u64;
        if filled < buffer.len() {
            break;
        }
    }
    for (index, part) in &parts {
        if let Err(error) = part.finish(copied.bytes) {
            copied.failed.push((*index, error));
            let _ = std::fs::remove_file(&part.path);
        }
    }
    copied.crc = crc.finalize() as u32;
    Ok(copied)
}

/// Reads until the buffer is full or the file at its end.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_get_what_was_there_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 1, 4095, 4096, 4097, COPY_BYTES - 1, COPY_BYTES, COPY_BYTES + 5000, 3 * COPY_BYTES] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let from = folder.path().join("from");
            std::fs::write(&from, &bytes).unwrap();
            let targets = ["a", "b", "gone/c"].map(|name| folder.path().join(name));
            std::fs::write(folder.path().join("a.part"), "of a copy that was cut short").unwrap();
            let copied = copy(&from, &targets).unwrap();
            assert_eq!(copied.bytes, len as u64);
            assert_eq!(copied.crc, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes) as u32);
            let failed: Vec<usize> = copied.failed.iter().map(|(index, _)| *index).collect();
            assert_eq!(failed, [2], "its folder is not there");
            for target in &targets[..2] {
                assert!(std::fs::read(target).unwrap() == bytes, "{len} bytes");
            }
            let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["a", "b", "from"]);
        }
        assert!(copy(&folder.path().join("none"), &[]).is_err());
    }
}
