//! The root key file: one small text file, mode 0600, that unlocks everything. See `docs/format/keyring.md`.
//!
//! Guarantees: made atomically (temporary file, fsync, link, directory fsync) and never overwritten;
//! refused when others than its owner may read or write it; checked by CRC-32C before use. Losing it loses
//! every byte: keeping a copy in a safe place is the owner's business, and `describe` says where it lies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_types::WrappedKey;
use granary_types::frame::crc32c;
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{CryptoError, Result};
use crate::provider::{KeyProvider, RootKeyId, RootKeys};
use crate::secret::{Secret32, fill_random};

const MAGIC_LINE: &str = "granary-root-keys 1";
/// Root key files are a few lines; anything longer is not one.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Root keys in a file that only its owner can read.
#[derive(Debug)]
pub struct FileKeyProvider {
    path: PathBuf,
    keys: RwLock<RootKeys>,
}

impl FileKeyProvider {
    /// Makes the file, with one fresh key. Its directory must exist.
    ///
    /// # Errors
    /// [`CryptoError::KeyFileExists`] if there is one already, [`CryptoError::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        let keys = RootKeys::generate();
        write_new(path, to_text(&keys).as_bytes())?;
        Ok(Self { path: path.to_owned(), keys: RwLock::new(keys) })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`CryptoError::KeyFileExposed`] if others may read or write it, [`CryptoError::Format`] if it is
    /// damaged or not a root key file, [`CryptoError::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| failed("open", path, e))?;
        let metadata = file.metadata().map_err(|e| failed("stat", path, e))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CryptoError::KeyFileExposed { path: path.to_owned(), mode });
        }
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            let why = format!("{} is not a small regular file", path.display());
            return Err(CryptoError::Format { what: "root key file", why });
        }
        // Exact capacity, so that reading leaves no copies behind in grown-out-of buffers.
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
        (&mut file).take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| failed("read", path, e))?;
        let keys = from_text(&text)
            .map_err(|why| CryptoError::Format { what: "root key file", why: format!("{}: {why}", path.display()) })?;
        Ok(Self { path: path.to_owned(), keys: RwLock::new(keys) })
    }

    /// Opens the file, or makes it where there is none.
    ///
    /// # Errors
    /// As [`FileKeyProvider::open`] and [`FileKeyProvider::create`].
    pub fn open_or_create(path: &Path) -> Result<Self> {
        match Self::open(path) {
            Err(CryptoError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match Self::create(path) {
                    Err(CryptoError::KeyFileExists(_)) => Self::open(path),
                    made => made,
                }
            }
            opened => opened,
        }
    }

    /// The active root key's id.
    #[must_use]
    pub fn active(&self) -> RootKeyId {
        self.keys().active()
    }
}

impl KeyProvider for FileKeyProvider {
    fn wrap(&self, context: &[u8], key: &Secret32) -> Result<WrappedKey> {
        Ok(self.keys().wrap(context, key))
    }

    fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> Result<Secret32> {
        self.keys().unwrap(context, wrapped)
    }

    fn describe(&self) -> String {
        format!("root key {} in file {}", self.keys().active(), self.path.display())
    }

    fn rotate(&self) -> Result<()> {
        self.change(RootKeys::rotated)
    }

    fn retire(&self) -> Result<()> {
        self.change(|keys| Ok(keys.retired()))
    }
}

impl FileKeyProvider {
    fn keys(&self) -> RwLockReadGuard<'_, RootKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the keys, on disk first: what is wrapped by a key that the file does not have would be lost.
    fn change(&self, change: impl FnOnce(&RootKeys) -> Result<RootKeys>) -> Result<()> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // The owner may have changed the file meanwhile; what is there now is what is changed.
        let there = Self::open(&self.path)?.keys.into_inner().unwrap_or_else(PoisonError::into_inner);
        let next = change(&there)?;
        replace(&self.path, to_text(&next).as_bytes())?;
        *keys = next;
        Ok(())
    }
}

/// Root keys that were handed over as text (an environment variable, a systemd credential): in the form of the root
/// key file.
#[derive(Debug)]
pub struct TextKeyProvider {
    source: String,
    keys: RootKeys,
}

impl TextKeyProvider {
    /// From the text; `source` says where it came from.
    ///
    /// # Errors
    /// [`CryptoError::Format`] if it is not the text of a root key file.
    pub fn new(text: &str, source: &str) -> Result<Self> {
        let keys = from_text(text)
            .map_err(|why| CryptoError::Format { what: "root keys", why: format!("{source}: {why}") })?;
        Ok(Self { source: source.to_owned(), keys })
    }
}

impl KeyProvider for TextKeyProvider {
    fn wrap(&self, context: &[u8], key: &Secret32) -> Result<WrappedKey> {
        Ok(self.keys.wrap(context, key))
    }

    fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> Result<Secret32> {
        self.keys.unwrap(context, wrapped)
    }

    fn describe(&self) -> String {
        format!("root key {} in {}", self.keys.active(), self.source)
    }
}

/// The file's text: magic line, the active key's id, one line per key, CRC-32C of all before it.
fn to_text(keys: &RootKeys) -> Zeroizing<String> {
    // Room for all keys at once: a growing string would leave copies of them behind.
    let mut text = Zeroizing::new(String::with_capacity(128 + 80 * keys.iter().count()));
    text.push_str(MAGIC_LINE);
    text.push('\n');
    text.push_str(&format!("active {}\n", keys.active()));
    for (id, secret) in keys.iter() {
        text.push_str(&format!("key {id} "));
        let mut encoded = [0u8; 44];
        let len = BASE64.encode_slice(secret.expose(), &mut encoded).expect("32 bytes are 44 in base64");
        text.extend(encoded[..len].iter().map(|b| char::from(*b)));
        encoded.zeroize();
        text.push('\n');
    }
    let crc = crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {crc:08x}\n"));
    text
}

/// The inverse; the error says what is wrong, without showing any of the keys.
fn from_text(text: &str) -> std::result::Result<RootKeys, String> {
    let body_end = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
    let (body, last) = text.split_at(body_end);
    if body.lines().next() != Some(MAGIC_LINE) {
        return Err(format!("the first line is not `{MAGIC_LINE}`"));
    }
    let crc = last.trim_end().strip_prefix("crc32c ").ok_or("the last line is not a `crc32c` line")?;
    if crc != format!("{:08x}", crc32c(body.as_bytes())) {
        return Err("the checksum does not match: the file was changed or damaged".into());
    }
    let mut active: Option<RootKeyId> = None;
    let mut keys: Vec<(RootKeyId, Secret32)> = Vec::new();
    for line in body.lines().skip(1) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("active"), Some(id), None, None) if active.is_none() => {
                active = Some(id.parse().map_err(|e: CryptoError| e.to_string())?);
            }
            (Some("key"), Some(id), Some(encoded), None) => {
                let id: RootKeyId = id.parse().map_err(|e: CryptoError| e.to_string())?;
                let mut bytes = Zeroizing::new([0u8; 36]);
                let len = BASE64.decode_slice(encoded, &mut bytes[..]).unwrap_or(0);
                if len != 32 {
                    return Err(format!("key {id} is not 32 bytes in base64"));
                }
                let mut secret = [0u8; 32];
                secret.copy_from_slice(&bytes[..32]);
                keys.push((id, Secret32::from_bytes(secret)));
                secret.zeroize();
            }
            _ => return Err("a line is neither `active ID` nor `key ID BASE64`".into()),
        }
    }
    let active = active.ok_or("no `active` line")?;
    let at = keys.iter().position(|(id, _)| *id == active).ok_or("the active key is not in the file")?;
    keys.swap(0, at);
    RootKeys::from_keys(keys).map_err(|e| e.to_string())
}

/// Writes a new file, mode 0600, so that after a crash it is there whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| CryptoError::Format {
        what: "root key file",
        why: format!("{} is not a file name", path.display()),
    })?;
    let mut suffix = [0u8; 8];
    fill_random(&mut suffix);
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{:016x}.tmp", u64::from_le_bytes(suffix)));
    let temporary = directory.join(temporary_name);
    let result = write_synced(&temporary, bytes).and_then(|()| link_new(&temporary, path));
    let removed = fs::remove_file(&temporary);
    result?;
    removed.map_err(|e| failed("remove", &temporary, e))?;
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| failed("sync directory", directory, e))
}

/// Writes the file anew, so that after a crash the old or the new one is there whole; then wipes what the old one's
/// blocks held, as far as the file system lets it.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut old = OpenOptions::new().write(true).open(path).map_err(|e| failed("open", path, e))?;
    let length = old.metadata().map_err(|e| failed("stat", path, e))?.len().min(FILE_BYTES_MAX);
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &temporary, error)),
        _ => {}
    }
    write_synced(&temporary, bytes)?;
    fs::rename(&temporary, path).map_err(|e| failed("rename", &temporary, e))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| failed("sync directory", directory, e))?;
    let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
    old.write_all(&zeros).and_then(|()| old.sync_all()).map_err(|e| failed("wipe", path, e))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed("create", path, e))?;
    file.write_all(bytes).map_err(|e| failed("write", path, e))?;
    file.sync_all().map_err(|e| failed("sync", path, e))
}

/// A hard link, because it fails where a rename would overwrite.
fn link_new(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => CryptoError::KeyFileExists(to.to_owned()),
        _ => failed("link", to, e),
    })
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> CryptoError {
    CryptoError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u8) -> RootKeys {
        let list = (1..=count).map(|i| (RootKeyId([i; 8]), Secret32::from_bytes([i; 32]))).collect();
        RootKeys::from_keys(list).unwrap()
    }

    #[test]
    fn text_round_trips_with_any_active_key() {
        for count in [1, 2, 5] {
            let text = to_text(&keys(count));
            let back = from_text(&text).unwrap();
            assert_eq!(back.active(), RootKeyId([1; 8]));
            assert_eq!(back.iter().count(), usize::from(count));
        }
        // The active key need not be the first line.
        let body = "granary-root-keys 1\nkey 0101010101010101 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\
                    key 0202020202020202 AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\nactive 0202020202020202\n";
        let text = format!("{body}crc32c {:08x}\n", crc32c(body.as_bytes()));
        let back = from_text(&text).unwrap();
        assert_eq!(back.active(), RootKeyId([2; 8]));
        let wrapped = back.wrap(b"x", &Secret32::from_bytes([9; 32]));
        assert_eq!(keys(2).unwrap(b"x", &wrapped).unwrap(), Secret32::from_bytes([9; 32]));
    }

    #[test]
    fn damaged_text_is_refused_and_not_shown() {
        let good = to_text(&keys(2)).to_string();
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            if at == good.len() - 1 {
                continue; // only the last newline
            }
            let error = from_text(&text).expect_err("a flipped bit must not pass");
            assert!(!error.contains("AQEBAQ") && !error.contains("AgICAg"), "{error}");
        }
        for cut in 0..good.len() - 1 {
            assert!(from_text(&good[..cut]).is_err(), "cut at {cut}");
        }
    }
}
