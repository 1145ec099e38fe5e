//! Files as a drive and the metadata log use them: O_DIRECT, preallocated, written and read at offsets.
//!
//! Everything here is synchronous. What it guarantees: whole reads and writes (or an error), alignment checked
//! before the kernel is asked, and a durable directory entry after [`RawFile::create`]. Engines
//! ([`crate::io`]) run the same operations without blocking a runtime. Where a file system refuses O_DIRECT
//! (some tmpfs, some overlays) the file is opened without, and [`RawFile::is_direct`] says so.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use granary_types::limits::ALIGN_BYTES;

use crate::buf::{AlignedBuf, AlignedBytes};

/// Bytes written at once when a file is filled with zeros.
const FILL_BYTES: usize = 1024 * 1024;

/// An open file, O_DIRECT where the file system allows it.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    path: PathBuf,
    direct: bool,
}

/// What a file system has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsSpace {
    /// Size of the file system.
    pub total_bytes: u64,
    /// Available to us (root's share left out).
    pub available_bytes: u64,
}

impl RawFile {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What `open` answers, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OpenOptions::new().read(true).write(true))
    }

    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// What `open` answers, with the path.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OpenOptions::new().read(true))
    }

    /// Creates a file that must not exist yet and makes its directory entry durable. It is empty: follow with
    /// [`RawFile::allocate`] or [`RawFile::fill_zeros`].
    ///
    /// # Errors
    /// What `open` or the directory's `fsync` answers, with the path.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = Self::open_with(path, OpenOptions::new().read(true).write(true).create_new(true).mode(0o600))?;
        if let Some(parent) = path.parent() {
            sync_dir(parent)?;
        }
        Ok(file)
    }

    /// Creates a file of `len_bytes` zero bytes, written (not only reserved) and durable, so that later writes
    /// with [`RawFile::write_dsync_at`] change no metadata. The way of a log file.
    ///
    /// # Errors
    /// As [`RawFile::create`]; `StorageFull` where there is no room (the file is removed again).
    pub fn create_zeroed(path: &Path, len_bytes: u64) -> io::Result<Self> {
        let file = Self::create(path)?;
        let filled =
            file.allocate(0, len_bytes).and_then(|()| file.fill_zeros(0, len_bytes)).and_then(|()| file.sync_all());
        if let Err(error) = filled {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(file)
    }

    fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let (file, direct) = match options.custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // `create_new` may have left the file behind before the flag was refused.
                let mut plain = options.clone();
                plain.custom_flags(0).create_new(false).create(path.metadata().is_err());
                (plain.open(path).map_err(named)?, false)
            }
            Err(error) => return Err(named(error)),
        };
        Ok(Self { file, path: path.to_owned(), direct })
    }

    /// Whether reads and writes bypass the page cache.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// What `fstat` answers.
    pub fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Bytes of disk it takes up (holes left out).
    ///
    /// # Errors
    /// What `fstat` answers.
    pub fn disk_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Whether the file still has a name; a removed one takes writes that nobody will find again.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.nlink() > 0)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; `InvalidInput` where something is not aligned.
    pub fn read_exact_at(&self, offset: u64, buf: &mut AlignedBuf) -> io::Result<()> {
        self.check(offset, buf.as_ptr() as usize, buf.len())?;
        self.file.read_exact_at(buf, offset)
    }

    /// Writes all of `bytes` at `offset`. Not durable yet.
    ///
    /// # Errors
    /// What `pwrite` answers; `InvalidInput` where something is not aligned.
    pub fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.as_ptr() as usize, bytes.len())?;
        self.file.write_all_at(bytes, offset)
    }

    /// Writes all of `pieces`, one behind the other, with one call. Not durable yet.
    ///
    /// # Errors
    /// As [`RawFile::write_all_at`].
    pub fn write_pieces_at(&self, offset: u64, pieces: &[AlignedBytes]) -> io::Result<()> {
        let mut len = 0u64;
        for piece in pieces {
            self.check(offset + len, piece.as_ptr() as usize, piece.len())?;
            len += piece.len() as u64;
        }
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = libc::c_int::try_from(pieces.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let vectors: Vec<libc::iovec> =
            pieces.iter().map(|p| libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: p.len() }).collect();
        // SAFETY: each iovec describes a piece that is alive and readable for the whole call; the kernel only
        // reads from them.
        let written = unsafe { libc::pwritev(self.file.as_raw_fd(), vectors.as_ptr(), count, at) };
        if u64::try_from(written) == Ok(len) {
            return Ok(());
        }
        // Cut short or interrupted: the same bytes again, piece by piece, which reports what is wrong.
        let mut offset = offset;
        for piece in pieces {
            self.file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`; durable when it returns (`RWF_DSYNC`: one FUA write where the space is
    /// already written, as after [`RawFile::create_zeroed`]).
    ///
    /// # Errors
    /// What `pwritev2` answers; `InvalidInput` where something is not aligned.
    pub fn write_dsync_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.as_ptr() as usize, bytes.len())?;
        while !bytes.is_empty() {
            let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: the one iovec describes `bytes`, which is alive and readable for the whole call; the
            // kernel only reads from it.
            let written = unsafe { libc::pwritev2(self.file.as_raw_fd(), &raw const vector, 1, at, libc::RWF_DSYNC) };
            match usize::try_from(written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Reserves disk space for `offset..offset + len_bytes`, growing the file; unwritten space reads as zeros.
    ///
    /// # Errors
    /// `StorageFull` where there is no room.
    pub fn allocate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.fallocate(0, offset, len_bytes)
    }

    /// Sets the length without reserving space, for file systems that cannot reserve.
    ///
    /// # Errors
    /// What `ftruncate` answers.
    pub fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    /// Gives the disk space of `offset..offset + len_bytes` back; it reads as zeros after.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot.
    pub fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len_bytes)
    }

    fn fallocate(&self, mode: i32, offset: u64, len_bytes: u64) -> io::Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len = libc::off_t::try_from(len_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: plain integers and a descriptor that `self` keeps open.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, at, len) } == 0 {
                return Ok(());
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }

    /// Writes zeros over `offset..offset + len_bytes` (both multiples of 4096).
    ///
    /// # Errors
    /// As [`RawFile::write_all_at`].
    pub fn fill_zeros(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let zeros = AlignedBuf::zeroed(FILL_BYTES.min(usize::try_from(len_bytes).unwrap_or(FILL_BYTES)));
        let mut done = 0;
        while done < len_bytes {
            let count = (len_bytes - done).min(zeros.len() as u64);
            self.write_all_at(offset + done, &zeros[..usize::try_from(count).unwrap_or(FILL_BYTES)])?;
            done += count;
        }
        Ok(())
    }

    /// Makes all that was written durable (`fdatasync`).
    ///
    /// # Errors
    /// What `fdatasync` answers. After an error, what was written since the last success may be lost for good
    /// even if a later call succeeds: take the file out of service.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// As [`RawFile::sync_data`], file metadata included (`fsync`).
    ///
    /// # Errors
    /// As [`RawFile::sync_data`].
    pub fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Where data (anything but a hole or reserved, unwritten space) begins at or after `offset`; `None` if
    /// there is none. File systems that cannot tell answer `offset`.
    ///
    /// # Errors
    /// What `lseek` answers.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: plain integers; nobody uses this descriptor's file position (all I/O is at offsets).
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), at, libc::SEEK_DATA) };
        match u64::try_from(found) {
            Ok(found) => Ok(Some(found)),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some(offset)),
                error => Err(error),
            },
        }
    }

    fn check(&self, offset: u64, address: usize, len: usize) -> io::Result<()> {
        let aligned = offset.is_multiple_of(ALIGN_BYTES as u64)
            && len.is_multiple_of(ALIGN_BYTES)
            && (address.is_multiple_of(ALIGN_BYTES) || len == 0);
        if self.direct && !aligned {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("unaligned direct I/O: offset {offset}, {len} bytes at {address:#x}"),
            ));
        }
        Ok(())
    }
}

impl AsRawFd for RawFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Makes a directory's entries durable.
///
/// # Errors
/// What `open` or `fsync` answers, with the path.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    File::open(path).map_err(named)?.sync_all().map_err(named)
}

/// Writes a small file so that after a crash either the old or the new content is there, never a mixture:
/// temporary file, `fsync`, rename, directory `fsync`.
///
/// # Errors
/// What the system answers; the temporary file (`path` + `.new`) may remain.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        io::Write::write_all(&mut file, content)?;
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Takes an exclusive lock on the file at `path` (created if need be). Held until the returned file is dropped,
/// or the process ends in whatever way.
///
/// # Errors
/// `WouldBlock` where another process, or another holder in this one, has it.
pub fn lock_exclusive(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // SAFETY: plain integers and a descriptor that `file` keeps open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// The space of the file system that holds `path`.
///
/// # Errors
/// What `statvfs` answers.
pub fn fs_space(path: &Path) -> io::Result<FsSpace> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `name` is NUL-terminated and `stat` is a writable `statvfs`.
    if unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed (valid for this plain C struct) and filled by the successful call.
    let stat = unsafe { stat.assume_init() };
    let unit = stat.f_frsize;
    Ok(FsSpace { total_bytes: stat.f_blocks.saturating_mul(unit), available_bytes: stat.f_bavail.saturating_mul(unit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_files_take_durable_writes_and_give_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = RawFile::create_zeroed(&path, 1024 * 1024).unwrap();
        assert_eq!(file.len_bytes().unwrap(), 1024 * 1024);
        assert!(file.disk_bytes().unwrap() >= 1024 * 1024);
        assert!(RawFile::create(&path).is_err(), "must not exist yet");

        let mut block = AlignedBuf::zeroed(8192);
        block.fill(7);
        file.write_dsync_at(4096, &block).unwrap();
        let again = RawFile::open(&path).unwrap();
        let mut back = AlignedBuf::zeroed(16384);
        again.read_exact_at(0, &mut back).unwrap();
        assert!(back[..4096].iter().all(|b| *b == 0));
        assert_eq!(back[4096..12288], block[..]);
        assert!(back[12288..].iter().all(|b| *b == 0));
        assert_eq!(again.next_data(0).unwrap(), Some(0));

        again.punch(0, 1024 * 1024).unwrap();
        assert!(again.disk_bytes().unwrap() < 64 * 1024);
        assert_eq!(again.len_bytes().unwrap(), 1024 * 1024);
        again.read_exact_at(0, &mut back).unwrap();
        assert!(back.iter().all(|b| *b == 0));
    }

    #[test]
    fn unaligned_direct_io_is_refused_before_the_kernel_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = RawFile::create_zeroed(&dir.path().join("f"), 65_536).unwrap();
        if !file.is_direct() {
            return;
        }
        let buf = AlignedBuf::zeroed(8192);
        for (offset, range) in [(1, 0..4096), (0, 0..100), (0, 512..4608)] {
            let error = file.write_dsync_at(offset, &buf[range]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_removed_file_is_noticed_and_locks_exclude() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RawFile::create(&path).unwrap();
        assert!(file.is_linked());
        std::fs::remove_file(&path).unwrap();
        assert!(!file.is_linked());

        let lock = lock_exclusive(&dir.path().join("lock")).unwrap();
        assert_eq!(lock_exclusive(&dir.path().join("lock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        lock_exclusive(&dir.path().join("lock")).unwrap();
    }

    #[test]
    fn atomic_files_and_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let space = fs_space(dir.path()).unwrap();
        assert!(space.total_bytes >= space.available_bytes && space.available_bytes > 0);
    }
}
