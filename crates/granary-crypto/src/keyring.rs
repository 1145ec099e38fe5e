//! The system keys: made once per cluster, wrapped by the root key, kept in a `keyring.json` on every
//! drive. See `docs/format/keyring.md`.
//!
//! Guarantees: a keyring is whole (CRC-32C over its content) and authentic (each key is wrapped with the
//! cluster id, the generation and the key's name as context) or it is refused. Left to others: writing
//! the copies, and writing them again where one is missing or older.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_types::frame::crc32c;
use granary_types::{ClusterId, WrappedKey};
use serde::{Deserialize, Serialize};

use crate::error::{CryptoError, Result};
use crate::provider::KeyProvider;
use crate::secret::Secret32;

const FORMAT: &str = "granary-keyring";
const VERSION: u32 = 1;
/// A keyring is about a kilobyte; anything longer is not one.
const KEYRING_BYTES_MAX: usize = 64 * 1024;

/// The keys that the engine itself uses, opened.
pub struct SystemKeys {
    /// Seals the log.
    pub log: Secret32,
    /// Seals the index (RocksDB files) and its checkpoints.
    pub index: Secret32,
    /// Seals the drives' own indexes.
    pub drive_index: Secret32,
    /// Authenticates shard headers on drives and seals the metadata in them.
    pub drive_mac: Secret32,
    /// Known to all nodes of the cluster and to nobody else: derives tokens that clients carry.
    pub cluster: Secret32,
}

impl SystemKeys {
    fn generate() -> Self {
        Self {
            log: Secret32::random(),
            index: Secret32::random(),
            drive_index: Secret32::random(),
            drive_mac: Secret32::random(),
            cluster: Secret32::random(),
        }
    }
}

impl fmt::Debug for SystemKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemKeys(..)")
    }
}

/// A cluster's keyring, opened, with the wrapped form that is stored.
#[derive(Debug)]
pub struct Keyring {
    content: Content,
    keys: SystemKeys,
}

/// What the checksum is over. Field order is the order in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: String,
    version: u32,
    cluster: String,
    generation: u64,
    created_us: u64,
    keys: WrappedKeys,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedKeys {
    log: String,
    index: String,
    drive_index: String,
    drive_mac: String,
    cluster: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    keyring: Content,
    crc32c: String,
}

impl Keyring {
    /// Makes a cluster's system keys. Once per cluster; `created_us` in microseconds since the epoch.
    ///
    /// # Errors
    /// The provider's.
    pub fn create(provider: &dyn KeyProvider, cluster: ClusterId, created_us: u64) -> Result<Self> {
        Self::wrap_all(provider, cluster, 1, created_us, SystemKeys::generate())
    }

    /// The same keys wrapped by the provider's active root key, as the next generation: for rotating the root.
    ///
    /// # Errors
    /// The provider's.
    pub fn rewrap(&self, provider: &dyn KeyProvider) -> Result<Self> {
        let generation = self.content.generation.saturating_add(1);
        let keys = SystemKeys {
            log: self.keys.log.duplicate(),
            index: self.keys.index.duplicate(),
            drive_index: self.keys.drive_index.duplicate(),
            drive_mac: self.keys.drive_mac.duplicate(),
            cluster: self.keys.cluster.duplicate(),
        };
        Self::wrap_all(provider, self.cluster_id(), generation, self.content.created_us, keys)
    }

    fn wrap_all(
        provider: &dyn KeyProvider,
        cluster: ClusterId,
        generation: u64,
        created_us: u64,
        keys: SystemKeys,
    ) -> Result<Self> {
        let wrap = |name: &str, key: &Secret32| -> Result<String> {
            Ok(BASE64.encode(provider.wrap(&context(cluster, generation, name), key)?.0))
        };
        let wrapped = WrappedKeys {
            log: wrap("log", &keys.log)?,
            index: wrap("index", &keys.index)?,
            drive_index: wrap("drive_index", &keys.drive_index)?,
            drive_mac: wrap("drive_mac", &keys.drive_mac)?,
            cluster: wrap("cluster", &keys.cluster)?,
        };
        let content = Content {
            format: FORMAT.into(),
            version: VERSION,
            cluster: cluster.to_string(),
            generation,
            created_us,
            keys: wrapped,
        };
        Ok(Self { content, keys })
    }

    /// Opens one copy.
    ///
    /// # Errors
    /// [`CryptoError::Format`] if it is damaged or of a version this program does not know; the provider's
    /// if its keys do not unwrap.
    pub fn open(bytes: &[u8], provider: &dyn KeyProvider) -> Result<Self> {
        let (content, cluster) = parse(bytes)?;
        Self::unwrap_all(content, cluster, provider)
    }

    /// Opens the newest valid copy of several. Damaged copies are passed over; those of another cluster
    /// are an error, because a foreign drive among ours must never be written to.
    ///
    /// # Errors
    /// [`CryptoError::NoKeyring`], [`CryptoError::ForeignKeyring`], or the provider's.
    pub fn open_newest<'a>(copies: impl IntoIterator<Item = &'a [u8]>, provider: &dyn KeyProvider) -> Result<Self> {
        let mut count = 0;
        let mut last = String::from("there are none");
        let mut newest: Option<(Content, ClusterId)> = None;
        for bytes in copies {
            count += 1;
            match parse(bytes) {
                Err(error) => last = error.to_string(),
                Ok((content, cluster)) => match &newest {
                    Some((_, other)) if *other != cluster => {
                        return Err(CryptoError::ForeignKeyring(*other, cluster));
                    }
                    Some((known, _)) if known.generation >= content.generation => {}
                    _ => newest = Some((content, cluster)),
                },
            }
        }
        let (content, cluster) = newest.ok_or(CryptoError::NoKeyring { copies: count, last })?;
        Self::unwrap_all(content, cluster, provider)
    }

    fn unwrap_all(content: Content, cluster: ClusterId, provider: &dyn KeyProvider) -> Result<Self> {
        let unwrap = |name: &str, text: &str| -> Result<Secret32> {
            let wrapped = BASE64.decode(text).map_err(|_| format(format!("key {name} is not base64")))?;
            provider.unwrap(&context(cluster, content.generation, name), &WrappedKey(wrapped))
        };
        let keys = SystemKeys {
            log: unwrap("log", &content.keys.log)?,
            index: unwrap("index", &content.keys.index)?,
            drive_index: unwrap("drive_index", &content.keys.drive_index)?,
            drive_mac: unwrap("drive_mac", &content.keys.drive_mac)?,
            cluster: unwrap("cluster", &content.keys.cluster)?,
        };
        Ok(Self { content, keys })
    }

    /// The file's bytes: the same on every drive.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored { keyring: self.content.clone(), crc32c: content_crc(&self.content) };
        let mut bytes = serde_json::to_vec_pretty(&stored).expect("strings and numbers always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &SystemKeys {
        &self.keys
    }

    /// The cluster.
    ///
    /// # Panics
    /// Never: the text was made from an id, or parsed as one when the keyring was read.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.content.cluster.parse().expect("checked when the keyring was read")
    }

    /// Counts up with every change; the highest valid one wins.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.content.generation
    }
}

/// Checks everything that can be checked without the root key.
fn parse(bytes: &[u8]) -> Result<(Content, ClusterId)> {
    if bytes.len() > KEYRING_BYTES_MAX {
        return Err(format(format!("{} bytes are too many", bytes.len())));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| format(e.to_string()))?;
    let content = stored.keyring;
    if content.format != FORMAT || content.version != VERSION {
        return Err(format(format!("format `{}` version {} is not known", content.format, content.version)));
    }
    if stored.crc32c != content_crc(&content) {
        return Err(format("the checksum does not match".into()));
    }
    let cluster = content.cluster.parse::<ClusterId>().map_err(|e| format(format!("{e}")))?;
    Ok((content, cluster))
}

/// CRC-32C of the content as compact JSON: white space in the file does not matter.
fn content_crc(content: &Content) -> String {
    let bytes = serde_json::to_vec(content).expect("strings and numbers always serialise");
    format!("{:08x}", crc32c(&bytes))
}

fn context(cluster: ClusterId, generation: u64, name: &str) -> Vec<u8> {
    let generation = generation.to_le_bytes();
    [&b"granary keyring "[..], cluster.as_bytes(), &generation, name.as_bytes()].concat()
}

const fn format(why: String) -> CryptoError {
    CryptoError::Format { what: "keyring", why }
}
