//! Seals: what is signed of a segment, and by whom.
//!
//! A seal signs (Ed25519) a statement: which records a segment holds, the chain's head before and after, the seal before it,
//! the SHA-256 of the Parquet file, and the first 8 bytes of each record's SHA-256, so that whoever changes a record and computes every
//! head anew is found at that record all the same. Without the digests a seal is an *anchor*: small enough to be kept elsewhere,
//! and whoever keeps one can tell if the trail's end was cut off.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::{AuditRecord, Head, Timestamp};
use serde::{Deserialize, Serialize};

use granary_types::date;

const FORMAT: &str = "granary audit seal v1";
/// Bytes kept of each record's digest.
pub(crate) const DIGEST_BYTES: usize = 8;
/// What precedes an Ed25519 key in its DER form (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What is wrong with a seal or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not what this program writes, to the byte.
    #[error("this is no seal: {0}")]
    Malformed(&'static str),
    /// The signature does not hold.
    #[error("the seal's signature does not hold")]
    Signature,
    /// Signed, but by another key than the one wanted.
    #[error("the seal is signed by another key (SHA-256 {0})")]
    OtherKey(String),
    /// Not a public key.
    #[error("this is no Ed25519 public key in PEM")]
    PublicKey,
}

/// How far the clock could be trusted when a segment was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockState {
    /// The system says that it is synchronised.
    pub synchronised: bool,
    /// The system's bound of its error, in microseconds; -1 where it does not tell.
    pub max_error_us: i64,
    /// The system's estimate of its error, in microseconds; -1 where it does not tell.
    pub estimated_error_us: i64,
}

/// What is signed. Serialised as JSON, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// `granary audit seal v1`.
    pub format: String,
    /// The cluster.
    pub cluster: String,
    /// The node's region.
    pub region: String,
    /// Number of the segment, from 1.
    pub segment: u64,
    /// Key of the Parquet object.
    pub file: String,
    /// SHA-256 of it, hexadecimal.
    pub file_sha256: String,
    /// First sequence number in it.
    pub first: u64,
    /// Last.
    pub last: u64,
    /// When the first was recorded.
    pub first_at: String,
    /// When the last was.
    pub last_at: String,
    /// The chain's head before the first.
    pub previous_head: String,
    /// The chain's head after the last.
    pub head: String,
    /// SHA-256 of the previous segment's statement; empty for the first.
    pub previous_seal: String,
    /// SHA-256 of the digests.
    pub digests_sha256: String,
    /// When it was sealed.
    pub sealed_at: String,
    /// The clock's state then.
    pub clock: ClockState,
}

/// A signed statement. Written as JSON, in this order, without white space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The statement's JSON, as signed.
    pub statement: String,
    /// Ed25519 public key, base64.
    pub public_key: String,
    /// Ed25519 signature of `granary audit seal v1`, a newline and the statement, base64.
    pub signature: String,
    /// The records' digests, base64; empty in an anchor.
    pub digests: String,
}

/// A seal that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFile {
    /// The statement.
    pub statement: Statement,
    /// Its SHA-256, which the next seal names.
    pub statement_sha256: String,
    /// First bytes of each record's SHA-256; empty in an anchor.
    pub digests: Vec<[u8; DIGEST_BYTES]>,
    /// Who signed.
    pub key: PublicKey,
}

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// As `openssl pkey -pubin` reads it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let der = [&SPKI_PREFIX[..], &self.0].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    /// From PEM.
    ///
    /// # Errors
    /// [`SealError::PublicKey`].
    pub fn from_pem(text: &str) -> Result<Self, SealError> {
        let body: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body).map_err(|_| SealError::PublicKey)?;
        let key = der.strip_prefix(&SPKI_PREFIX[..]).ok_or(SealError::PublicKey)?;
        key.try_into().map(Self).map_err(|_| SealError::PublicKey)
    }

    /// SHA-256 of the key's DER form, hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256(&[&SPKI_PREFIX[..], &self.0].concat())
    }
}

/// Who seals. The seed is wiped by its owner; the pair holds it as aws-lc does.
pub struct Sealer {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

/// What a segment's statement is made of, beside its records.
#[derive(Debug, Clone)]
pub struct SealInput<'a> {
    /// The cluster.
    pub cluster: String,
    /// The node's region.
    pub region: String,
    /// Number of the segment.
    pub segment: u64,
    /// Key of the Parquet object.
    pub file: String,
    /// The Parquet file.
    pub parquet: &'a [u8],
    /// Its records, in order: at least one.
    pub records: &'a [Vec<u8>],
    /// The chain's head before them.
    pub previous_head: Head,
    /// SHA-256 of the previous statement; empty for the first segment.
    pub previous_seal: String,
    /// Now.
    pub now: Timestamp,
    /// The clock's state.
    pub clock: ClockState,
}

impl Sealer {
    /// From a secret seed.
    ///
    /// # Errors
    /// [`SealError::PublicKey`] if aws-lc takes no seed at all.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SealError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(|pair| Self { pair }).map_err(|_| SealError::PublicKey)
    }

    /// The key to verify with.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().unwrap_or([0; 32]))
    }

    /// Signs any other statement (residency reports): base64 of the signature of `label`, a newline and `text`.
    #[must_use]
    pub fn sign(&self, label: &str, text: &str) -> String {
        STANDARD.encode(self.pair.sign(format!("{label}\n{text}").as_bytes()))
    }

    /// Seals a segment. Returns the seal and the SHA-256 of its statement.
    ///
    /// # Errors
    /// [`SealError::Malformed`] if there are no records, or they are none.
    pub fn seal(&self, input: &SealInput<'_>) -> Result<(Seal, String), SealError> {
        let record = |bytes: Option<&Vec<u8>>| {
            bytes.and_then(|bytes| AuditRecord::decode(bytes).ok()).ok_or(SealError::Malformed("a record is none"))
        };
        let (first, last) = (record(input.records.first())?, record(input.records.last())?);
        let head = input.records.iter().fold(input.previous_head, |head, record| head.extend(record));
        let digests: Vec<u8> = input.records.iter().flat_map(|record| short_digest(record)).collect();
        let statement = Statement {
            format: FORMAT.to_owned(),
            cluster: input.cluster.clone(),
            region: input.region.clone(),
            segment: input.segment,
            file: input.file.clone(),
            file_sha256: sha256(input.parquet),
            first: first.sequence,
            last: last.sequence,
            first_at: date::iso_micros(first.at),
            last_at: date::iso_micros(last.at),
            previous_head: input.previous_head.to_string(),
            head: head.to_string(),
            previous_seal: input.previous_seal.clone(),
            digests_sha256: sha256(&digests),
            sealed_at: date::iso_micros(input.now),
            clock: input.clock.clone(),
        };
        let text = serde_json::to_string(&statement).map_err(|_| SealError::Malformed("it cannot be written"))?;
        let hash = sha256(text.as_bytes());
        let seal = Seal {
            signature: self.sign(FORMAT, &text),
            statement: text,
            public_key: STANDARD.encode(self.public_key().0),
            digests: STANDARD.encode(digests),
        };
        Ok((seal, hash))
    }
}

impl Seal {
    /// The bytes of the seal's file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a seal's file: only what [`Seal::to_bytes`] writes, to the byte (a newline may follow).
    ///
    /// # Errors
    /// [`SealError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let seal: Self = serde_json::from_slice(bytes).map_err(|_| SealError::Malformed("not its JSON"))?;
        let trimmed = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        match seal.to_bytes() == trimmed {
            true => Ok(seal),
            false => Err(SealError::Malformed("its bytes are not those that were written")),
        }
    }

    /// The seal without the digests.
    #[must_use]
    pub fn anchor(&self) -> Self {
        Self { digests: String::new(), ..self.clone() }
    }

    /// Checks signature and form.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn check(&self, wanted: Option<&PublicKey>) -> Result<SealedFile, SealError> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| SealError::Malformed("not base64"));
        let key: [u8; 32] =
            decode(&self.public_key)?.try_into().map_err(|_| SealError::Malformed("a key has 32 bytes"))?;
        let key = PublicKey(key);
        if wanted.is_some_and(|wanted| *wanted != key) {
            return Err(SealError::OtherKey(key.fingerprint()));
        }
        verify_signature(&key, FORMAT, &self.statement, &self.signature)?;
        let statement: Statement =
            serde_json::from_str(&self.statement).map_err(|_| SealError::Malformed("its statement is none"))?;
        if statement.format != FORMAT {
            return Err(SealError::Malformed("another format"));
        }
        let digests = decode(&self.digests)?;
        let count = statement.last.checked_sub(statement.first).and_then(|more| more.checked_add(1));
        if !digests.is_empty()
            && (sha256(&digests) != statement.digests_sha256
                || count != u64::try_from(digests.len() / DIGEST_BYTES).ok()
                || !digests.len().is_multiple_of(DIGEST_BYTES))
        {
            return Err(SealError::Malformed("its digests are not those that were signed"));
        }
        let digests = digests.chunks_exact(DIGEST_BYTES).filter_map(|digest| digest.try_into().ok()).collect();
        Ok(SealedFile { statement_sha256: sha256(self.statement.as_bytes()), statement, digests, key })
    }
}

/// Whether `signature` (base64) is `key`'s, of `label`, a newline and `text`.
///
/// # Errors
/// [`SealError::Signature`].
pub fn verify_signature(key: &PublicKey, label: &str, text: &str, signature: &str) -> Result<(), SealError> {
    let signature = STANDARD.decode(signature).map_err(|_| SealError::Signature)?;
    let key = UnparsedPublicKey::new(&ED25519, &key.0);
    key.verify(format!("{label}\n{text}").as_bytes(), &signature).map_err(|_| SealError::Signature)
}

/// First bytes of a record's SHA-256.
pub(crate) fn short_digest(record: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&digest(&SHA256, record).as_ref()[..DIGEST_BYTES]);
    short
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    granary_types::hex::encode(digest(&SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_as_openssl_writes_them() {
        let key = Sealer::from_seed(&[7; 32]).unwrap().public_key();
        assert_eq!(PublicKey::from_pem(&key.to_pem()), Ok(key.clone()));
        assert_eq!(PublicKey::from_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n"), Err(SealError::PublicKey));
        assert_eq!(key.fingerprint().len(), 64);
    }
}
