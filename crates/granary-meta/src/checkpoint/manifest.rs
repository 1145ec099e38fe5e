//! A checkpoint's manifest: which files make it, and that they are what they were. Written last; a checkpoint
//! without a valid manifest does not exist. `docs/format/checkpoint.md` is the page for it.

use granary_types::frame::{self, FRAME_HEADER_BYTES};
use serde::{Deserialize, Serialize};

use crate::error::{MetaError, Result};
use crate::log::seal::{Purpose, Sealer};
use crate::options::MetaKey;

const MAGIC: [u8; 4] = *b"GCKP";
const VERSION: u16 = 1;
/// Manifests are far smaller; a longer one is not one.
const BYTES_MAX: u32 = 64 << 20;

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// RocksDB's name for it.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of its (sealed) content.
    pub crc: u32,
    /// It never changes and is shared between checkpoints of one incarnation (SST and blob files).
    pub shared: bool,
}

/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The log it belongs to.
    pub log_id: [u8; 16],
    /// Number: each checkpoint's is higher than those before.
    pub number: u64,
    /// It holds at least all commands up to this position.
    pub position: u64,
    /// Which index it was made of: file names are unique within one.
    pub incarnation: String,
    /// Its files.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// The sealed form.
    pub(crate) fn encode(&self, key: &MetaKey, session: [u8; 16]) -> Vec<u8> {
        let mut body = postcard::to_extend(self, session.to_vec()).expect("a manifest holds plain values only");
        let tag = Sealer::new(key, Purpose::Checkpoint, &session).seal(0, &session, &mut body[16..]);
        body.extend_from_slice(&tag);
        let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        frame::encode(MAGIC, VERSION, &body, &mut out);
        out
    }

    /// Opens the sealed form.
    ///
    /// # Errors
    /// [`MetaError::Checkpoint`], saying what is wrong.
    pub(crate) fn decode(bytes: &[u8], key: &MetaKey) -> Result<Self> {
        let (_, body) =
            frame::decode(MAGIC, VERSION, BYTES_MAX, bytes).map_err(|e| MetaError::Checkpoint(e.to_string()))?;
        let Some((session, sealed)) = body.split_first_chunk::<16>() else {
            return Err(MetaError::Checkpoint("manifest is too short".to_owned()));
        };
        let mut sealed = sealed.to_vec();
        let sealer = Sealer::new(key, Purpose::Checkpoint, session);
        let plain = sealer.open(0, session, &mut sealed);
        let plain = plain.ok_or_else(|| MetaError::Checkpoint("manifest does not open with this key".to_owned()))?;
        let manifest: Self = postcard::from_bytes(plain).map_err(|e| MetaError::Checkpoint(e.to_string()))?;
        let plain_name = |n: &str| !n.is_empty() && !n.contains(['/', '\0']) && n != "." && n != "..";
        if !plain_name(&manifest.incarnation) || manifest.files.iter().any(|f| !plain_name(&f.name)) {
            return Err(MetaError::Checkpoint("manifest names a file outside its folder".to_owned()));
        }
        Ok(manifest)
    }
}
