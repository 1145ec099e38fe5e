//! A RocksDB `Env` whose files are ciphertext: SST, blob, manifest, options, identity and info log alike.
//!
//! AES-256-CTR by aws-lc over whole buffers, behind RocksDB's own encrypted file system (`cpp/sealed_env.cc`).
//! Every file has its own key, derived by HKDF-SHA-256 from the key given here and a random salt in the file's
//! first 4 KiB, so no two files share a key stream; a key check in the same place tells a wrong key from damage.
//! Hard links (checkpoints) keep prefix and content, copies get a new salt.
//!
//! CTR hides; it does not authenticate. RocksDB's checksums find rot. Two rules for users: never enable
//! `use_mmap_reads`/`use_mmap_writes` (refused), and leave WAL recycling off (a file is never written twice at
//! one offset under one key).
//!
//! ```text
//!  0          8         12     16        48          64              4092     4096
//!  +----------+---------+------+---------+-----------+---------------+--------+------------
//!  | GRNSEAL1 | version | 0    | salt    | key check | 0             | crc32c | ciphertext
//!  +----------+---------+------+---------+-----------+---------------+--------+------------
//! ```
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::fill;
use granary_types::frame::crc32c;
use librocksdb_sys::rocksdb_env_t;
use zeroize::Zeroizing;

/// Bytes before the first byte of content in every file; RocksDB's recommendation for direct I/O.
const PREFIX_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"GRNSEAL1";
const VERSION: u32 = 1;
const CIPHER_INFO: &[u8] = b"granary sealed file v1: cipher key";
const CHECK_INFO: &[u8] = b"granary sealed file v1: key check";
const BLOCK_BYTES: usize = 16;

/// The sealed `Env` could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("RocksDB could not make a sealed file system")]
pub struct SealedEnvError;

/// An `Env` that seals every file with keys derived from `key`. Put it into `rocksdb::Options::set_env` before
/// opening; it may serve several databases and must be the one that checkpoints are opened with. A database
/// sealed with another key fails to open with `Corruption: ... sealed with another key` and is left untouched
/// as long as `create_if_missing` finds a `CURRENT` file.
///
/// # Errors
/// [`SealedEnvError`], where RocksDB cannot allocate.
pub fn sealed_env(key: &[u8; 32]) -> Result<rocksdb::Env, SealedEnvError> {
    let context = Box::into_raw(Box::new(Sealer { key: Zeroizing::new(*key) }));
    let cipher = Cipher {
        context: context.cast(),
        prefix_bytes: PREFIX_BYTES,
        new_prefix: cipher_new_prefix,
        open: cipher_open,
        apply: cipher_apply,
        close: cipher_close,
        drop: cipher_drop,
    };
    // SAFETY: `cipher` matches `struct granary_cipher` field by field and is copied during the call; its
    // context is handed over (the provider's destructor calls `cipher_drop` once).
    let env = unsafe { granary_sealed_env_create(&raw const cipher) };
    if env.is_null() {
        return Err(SealedEnvError);
    }
    // SAFETY: a fresh, owned `rocksdb_env_t`, given away to `Env`, which destroys it.
    Ok(unsafe { rocksdb::Env::from_raw(env) })
}

/// `struct granary_cipher` of `cpp/sealed_env.cc`.
#[repr(C)]
struct Cipher {
    context: *mut c_void,
    prefix_bytes: usize,
    new_prefix: extern "C" fn(*const c_void, *mut u8, usize) -> c_int,
    open: extern "C" fn(*const c_void, *const u8, usize, *mut *mut c_void) -> c_int,
    apply: extern "C" fn(*const c_void, u64, *mut u8, usize) -> c_int,
    close: extern "C" fn(*mut c_void),
    drop: extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    fn granary_sealed_env_create(cipher: *const Cipher) -> *mut rocksdb_env_t;
}

/// The key of one `Env`.
struct Sealer {
    key: Zeroizing<[u8; 32]>,
}

/// Why a prefix was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PrefixError {
    NotSealed,
    OtherKey,
}

struct OutputBytes(usize);

impl KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}

impl Sealer {
    fn derive<const N: usize>(&self, salt: &[u8], info: &[u8]) -> Option<Zeroizing<[u8; N]>> {
        let mut out = Zeroizing::new([0u8; N]);
        let extracted = Salt::new(HKDF_SHA256, salt).extract(&self.key[..]);
        extracted.expand(&[info], OutputBytes(N)).ok()?.fill(&mut out[..]).ok()?;
        Some(out)
    }

    fn new_prefix(&self, prefix: &mut [u8]) -> Option<()> {
        let prefix = prefix.first_chunk_mut::<PREFIX_BYTES>()?;
        prefix.fill(0);
        prefix[..8].copy_from_slice(&MAGIC);
        prefix[8..12].copy_from_slice(&VERSION.to_le_bytes());
        fill(&mut prefix[16..48]).ok()?;
        let check = self.derive::<16>(&prefix[16..48], CHECK_INFO)?;
        prefix[48..64].copy_from_slice(&check[..]);
        let crc = crc32c(&prefix[..PREFIX_BYTES - 4]);
        prefix[PREFIX_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        Some(())
    }

    fn open(&self, prefix: &[u8]) -> Result<Stream, PrefixError> {
        let prefix = prefix.first_chunk::<PREFIX_BYTES>().ok_or(PrefixError::NotSealed)?;
        let crc = crc32c(&prefix[..PREFIX_BYTES - 4]);
        if prefix[..8] != MAGIC
            || prefix[8..12] != VERSION.to_le_bytes()
            || prefix[PREFIX_BYTES - 4..] != crc.to_le_bytes()
        {
            return Err(PrefixError::NotSealed);
        }
        let salt = &prefix[16..48];
        let check = self.derive::<16>(salt, CHECK_INFO).ok_or(PrefixError::NotSealed)?;
        if prefix[48..64] != check[..] {
            return Err(PrefixError::OtherKey);
        }
        let key = self.derive::<32>(salt, CIPHER_INFO).ok_or(PrefixError::NotSealed)?;
        Stream::new(&key).ok_or(PrefixError::NotSealed)
    }
}

/// The key stream of one file. Block `n` of the file (16 bytes) is XORed with AES-256(file key, n).
struct Stream {
    key: DecryptingKey,
}

impl Stream {
    fn new(key: &[u8; 32]) -> Option<Self> {
        let key = UnboundCipherKey::new(&AES_256, key).ok()?;
        Some(Self { key: DecryptingKey::ctr(key).ok()? })
    }

    /// Encrypts or decrypts (in CTR the same) `data`, which lies at `offset` of the file.
    fn apply(&self, offset: u64, data: &mut [u8]) -> Option<()> {
        let skip = (offset % BLOCK_BYTES as u64) as usize;
        let mut block = offset / BLOCK_BYTES as u64;
        let mut rest = data;
        if skip != 0 {
            let mut pad = [0u8; BLOCK_BYTES];
            self.apply_blocks(block, &mut pad)?;
            let count = rest.len().min(BLOCK_BYTES - skip);
            let (head, tail) = rest.split_at_mut(count);
            head.iter_mut().zip(&pad[skip..]).for_each(|(byte, pad)| *byte ^= pad);
            block += 1;
            rest = tail;
        }
        if rest.is_empty() { Some(()) } else { self.apply_blocks(block, rest) }
    }

    fn apply_blocks(&self, block: u64, data: &mut [u8]) -> Option<()> {
        let counter = u128::from(block).to_be_bytes();
        self.key.decrypt(data, DecryptionContext::Iv128(FixedLength::from(counter))).ok().map(|_| ())
    }
}

extern "C" fn cipher_new_prefix(context: *const c_void, prefix: *mut u8, len: usize) -> c_int {
    // SAFETY: `context` is the `Sealer` handed over in `sealed_env`, alive until `cipher_drop`; RocksDB owns
    // `len` writable bytes at `prefix` for the call. They may be uninitialised, so they are zeroed as raw
    // memory before a slice of them exists.
    let (sealer, prefix) = unsafe {
        std::ptr::write_bytes(prefix, 0, len);
        (&*context.cast::<Sealer>(), std::slice::from_raw_parts_mut(prefix, len))
    };
    if sealer.new_prefix(prefix).is_some() { 0 } else { 1 }
}

extern "C" fn cipher_open(context: *const c_void, prefix: *const u8, len: usize, stream: *mut *mut c_void) -> c_int {
    if prefix.is_null() {
        return 1;
    }
    // SAFETY: as in `cipher_new_prefix`; `prefix` has `len` bytes that RocksDB read from the file.
    let (sealer, prefix) = unsafe { (&*context.cast::<Sealer>(), std::slice::from_raw_parts(prefix, len)) };
    match sealer.open(prefix) {
        Ok(opened) => {
            // SAFETY: `stream` points to a local of the caller.
            unsafe { *stream = Box::into_raw(Box::new(opened)).cast() };
            0
        }
        Err(PrefixError::NotSealed) => 1,
        Err(PrefixError::OtherKey) => 2,
    }
}

extern "C" fn cipher_apply(stream: *const c_void, offset: u64, data: *mut u8, len: usize) -> c_int {
    // SAFETY: `stream` is a `Stream` boxed in `cipher_open`, alive until `cipher_close`; `data` has `len`
    // bytes that belong to the caller alone during the call.
    let (stream, data) = unsafe { (&*stream.cast::<Stream>(), std::slice::from_raw_parts_mut(data, len)) };
    if stream.apply(offset, data).is_some() { 0 } else { 1 }
}

extern "C" fn cipher_close(stream: *mut c_void) {
    // SAFETY: boxed in `cipher_open`, given back once, by the stream's destructor.
    drop(unsafe { Box::from_raw(stream.cast::<Stream>()) });
}

extern "C" fn cipher_drop(context: *mut c_void) {
    // SAFETY: boxed in `sealed_env`, given back once, by the provider's destructor.
    drop(unsafe { Box::from_raw(context.cast::<Sealer>()) });
}

// The Rust side is shared between RocksDB's threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Sealer>();
    shared::<Stream>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use rocksdb::checkpoint::Checkpoint;
    use rocksdb::{DB, Options, WriteOptions};
    use std::path::{Path, PathBuf};

    const SECRET: &[u8] = b"PLAINTEXT-THAT-MUST-NOT-BE-FOUND";

    fn options(key: &[u8; 32]) -> Options {
        options_over(Options::default(), key)
    }

    fn options_over(mut options: Options, key: &[u8; 32]) -> Options {
        options.create_if_missing(true);
        options.set_env(&sealed_env(key).unwrap());
        options.set_enable_blob_files(true);
        options.set_min_blob_size(4096);
        options
    }

    fn fill_db(db: &DB) {
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        for n in 0..2_000u32 {
            let mut value = SECRET.to_vec();
            value.resize(if n % 50 == 0 { 20_000 } else { 100 }, b'x');
            db.put_opt([SECRET, &n.to_be_bytes()].concat(), value, &write).unwrap();
        }
        db.flush().unwrap();
    }

    fn check_db(db: &DB) {
        for n in 0..2_000u32 {
            let value = db.get([SECRET, &n.to_be_bytes()].concat()).unwrap().unwrap();
            assert_eq!(value.len(), if n % 50 == 0 { 20_000 } else { 100 });
            assert!(value.starts_with(SECRET));
        }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect()
    }

    fn assert_sealed(dir: &Path) {
        let mut seen = 0;
        for path in files(dir) {
            let content = std::fs::read(&path).unwrap();
            if content.is_empty() {
                continue;
            }
            seen += 1;
            assert_eq!(content[..8], MAGIC, "{}", path.display());
            for needle in [&SECRET[..12], b"rocksdb", b"RocksDB", b"leveldb", b"MANIFEST-"] {
                let found = content.windows(needle.len()).any(|w| w == needle);
                assert!(!found, "{} holds {:?}", path.display(), String::from_utf8_lossy(needle));
            }
        }
        assert!(seen >= 5, "SST, blob, manifest, CURRENT, LOG, OPTIONS: {seen} files seen");
    }

    #[test]
    fn nothing_in_any_file_is_plain_and_checkpoints_open() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("db"), dir.path().join("checkpoint"));
        let key = [7; 32];
        {
            let db = DB::open(&options(&key), &path).unwrap();
            fill_db(&db);
            check_db(&db);
            Checkpoint::new(&db).unwrap().create_checkpoint(&copy).unwrap();
            db.compact_range(None::<&[u8]>, None::<&[u8]>);
        }
        assert_sealed(&path);
        assert_sealed(&copy);
        check_db(&DB::open(&options(&key), &path).unwrap());
        check_db(&DB::open(&options(&key), &copy).unwrap());
    }

    #[test]
    fn a_wrong_key_fails_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fill_db(&DB::open(&options(&[1; 32]), dir.path()).unwrap());
        let error = DB::open(&options(&[2; 32]), dir.path()).err().unwrap().to_string();
        assert!(error.contains("sealed with another key"), "{error}");
        check_db(&DB::open(&options(&[1; 32]), dir.path()).unwrap());
    }

    #[test]
    fn what_was_not_flushed_is_lost_and_what_was_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        // The string makes *new* options that own neither env nor cache: it comes first.
        let lossy = Options::default().get_options_from_string("avoid_flush_during_shutdown=true").unwrap();
        let lossy = options_over(lossy, &[1; 32]);
        {
            let db = DB::open(&lossy, dir.path()).unwrap();
            db.put_opt(b"a", b"1", &write).unwrap();
            db.flush().unwrap();
            db.put_opt(b"b", b"2", &write).unwrap();
        }
        let db = DB::open(&lossy, dir.path()).unwrap();
        assert_eq!(db.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(db.get(b"b").unwrap(), None);
    }

    /// NIST SP 800-38A F.5.5 (AES-256-CTR): our counter is a plain block number, so the vector's key stream is
    /// reached by comparing pieces: any split of a buffer gives the same bytes as the whole.
    #[test]
    fn any_split_gives_the_same_bytes() {
        let stream = Stream::new(&[9; 32]).unwrap();
        let plain: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        let mut whole = plain.clone();
        stream.apply(4096, &mut whole).unwrap();
        assert_ne!(whole, plain);
        for cut in [0, 1, 15, 16, 17, 31, 32, 500, 999, 1000] {
            let mut pieces = plain.clone();
            let (a, b) = pieces.split_at_mut(cut);
            stream.apply(4096, a).unwrap();
            stream.apply(4096 + cut as u64, b).unwrap();
            assert_eq!(pieces, whole, "cut at {cut}");
        }
        stream.apply(4096, &mut whole).unwrap();
        assert_eq!(whole, plain);
    }

    /// AES-256 of the all-zero block under the all-zero key (FIPS-197 style known answer, NIST AESAVS).
    #[test]
    fn known_answer() {
        let stream = Stream::new(&[0; 32]).unwrap();
        let mut block = [0u8; 16];
        stream.apply(0, &mut block).unwrap();
        let hex: String = block.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "dc95c078a2408989ad48a21492842087");
    }

    #[test]
    fn damaged_prefixes_are_refused() {
        let sealer = Sealer { key: Zeroizing::new([3; 32]) };
        let mut prefix = [0u8; PREFIX_BYTES];
        sealer.new_prefix(&mut prefix).unwrap();
        assert!(sealer.open(&prefix).is_ok());
        assert_eq!(sealer.open(&prefix[..4095]).err(), Some(PrefixError::NotSealed));
        let other = Sealer { key: Zeroizing::new([4; 32]) };
        assert_eq!(other.open(&prefix).err(), Some(PrefixError::OtherKey));
        for at in [0, 9, 20, 50, 2000, 4095] {
            let mut bad = prefix;
            bad[at] ^= 1;
            assert_eq!(sealer.open(&bad).err(), Some(PrefixError::NotSealed), "byte {at}");
        }
    }
}
