//! S3's object checksums: the algorithms, their wire form, and how part checksums become an object's.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>. The three
//! CRCs can be *full-object* (combined from the parts' CRCs and lengths); CRC-64/NVME always is.
//! SHA-1 and SHA-256 of a multipart object, and CRC-32/32C where the client asks, are *composite*: the
//! checksum of the parts' checksums, written with `-N`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Digest as _;
use serde::{Deserialize, Serialize};

/// The checksum algorithms of the S3 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli / iSCSI).
    Crc32c,
    /// CRC-64/NVME. Full-object only.
    Crc64nvme,
    /// SHA-1. Composite only (for multipart objects).
    Sha1,
    /// SHA-256. Composite only (for multipart objects).
    Sha256,
}

/// Whether a multipart object's checksum is of all its bytes or of its parts' checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// Of all the object's bytes.
    FullObject,
    /// Of the concatenated raw checksums of its parts.
    Composite,
}

impl ChecksumAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64nvme, Self::Sha1, Self::Sha256];

    /// The name in `x-amz-checksum-algorithm`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// From the name in a header, in any letter case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of the raw checksum.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The kind that S3 gives a multipart object when the client names none.
    #[must_use]
    pub const fn default_kind(self) -> ChecksumKind {
        match self {
            Self::Crc64nvme => ChecksumKind::FullObject,
            _ => ChecksumKind::Composite,
        }
    }

    /// Whether S3 allows `kind` with this algorithm.
    #[must_use]
    pub const fn allows(self, kind: ChecksumKind) -> bool {
        matches!(
            (self, kind),
            (Self::Crc32 | Self::Crc32c, _)
                | (Self::Crc64nvme, ChecksumKind::FullObject)
                | (Self::Sha1 | Self::Sha256, ChecksumKind::Composite)
        )
    }

    const fn crc(self) -> Option<crc_fast::CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(crc_fast::CrcAlgorithm::Crc32Iscsi),
            Self::Crc64nvme => Some(crc_fast::CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
}

/// A raw checksum value (at most 32 bytes) with its algorithm, and for composite ones the part count.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checksum {
    /// Which algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// Full object, or composite over `parts`.
    pub kind: ChecksumKind,
    /// Number of parts a composite checksum is over; 0 for full-object ones.
    pub parts: u32,
    /// Big-endian raw value, `algorithm.len_bytes()` long.
    pub value: Vec<u8>,
}

impl Checksum {
    /// From the base64 text of a header, of a single payload or part.
    #[must_use]
    pub fn from_base64(algorithm: ChecksumAlgorithm, text: &str) -> Option<Self> {
        let value = BASE64.decode(text).ok()?;
        (value.len() == algorithm.len_bytes()).then_some(Self {
            algorithm,
            kind: ChecksumKind::FullObject,
            parts: 0,
            value,
        })
    }

    /// The wire form: base64, with `-N` behind a composite value.
    #[must_use]
    pub fn to_wire(&self) -> String {
        let text = BASE64.encode(&self.value);
        match self.kind {
            ChecksumKind::FullObject => text,
            ChecksumKind::Composite => format!("{text}-{}", self.parts),
        }
    }

    /// The checksum of a multipart object from its parts' checksums and lengths, in part order.
    /// `None` if a part's algorithm differs, the kind is not allowed, or there are no parts.
    #[must_use]
    pub fn of_parts(algorithm: ChecksumAlgorithm, kind: ChecksumKind, parts: &[(&Self, u64)]) -> Option<Self> {
        if parts.is_empty() || !algorithm.allows(kind) || parts.iter().any(|(c, _)| c.algorithm != algorithm) {
            return None;
        }
        match kind {
            ChecksumKind::Composite => {
                let mut hasher = ChecksumHasher::new(algorithm);
                parts.iter().for_each(|(c, _)| hasher.update(&c.value));
                let mut whole = hasher.finish();
                whole.kind = ChecksumKind::Composite;
                whole.parts = u32::try_from(parts.len()).ok()?;
                Some(whole)
            }
            ChecksumKind::FullObject => {
                let crc = algorithm.crc()?;
                let number = |c: &Self| c.value.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
                let (first, rest) = parts.split_first()?;
                let whole = rest
                    .iter()
                    .fold(number(first.0), |sum, (c, len)| crc_fast::checksum_combine(crc, sum, number(c), *len));
                Some(Self::full(algorithm, whole))
            }
        }
    }

    fn full(algorithm: ChecksumAlgorithm, crc: u64) -> Self {
        let bytes = crc.to_be_bytes();
        Self { algorithm, kind: ChecksumKind::FullObject, parts: 0, value: bytes[8 - algorithm.len_bytes()..].to_vec() }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.to_wire())
    }
}

/// A checksum in the making.
pub struct ChecksumHasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

#[allow(clippy::large_enum_variant)] // the large one is the common one, and lives once per request
enum State {
    Crc(crc_fast::Digest),
    Sha1(Box<sha1::Sha1>),
    Sha256(Box<sha2::Sha256>),
}

impl ChecksumHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let state = match algorithm.crc() {
            Some(crc) => State::Crc(crc_fast::Digest::new(crc)),
            None if algorithm == ChecksumAlgorithm::Sha1 => State::Sha1(Box::default()),
            None => State::Sha256(Box::default()),
        };
        Self { algorithm, state }
    }

    /// Which algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(digest) => digest.update(bytes),
            State::Sha1(hash) => hash.update(bytes),
            State::Sha256(hash) => hash.update(bytes),
        }
    }

    /// The full-object checksum of all bytes taken in.
    #[must_use]
    pub fn finish(self) -> Checksum {
        let value = match self.state {
            State::Crc(digest) => return Checksum::full(self.algorithm, digest.finalize()),
            State::Sha1(hash) => hash.finalize().to_vec(),
            State::Sha256(hash) => hash.finalize().to_vec(),
        };
        Checksum { algorithm: self.algorithm, kind: ChecksumKind::FullObject, parts: 0, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
        let mut hasher = ChecksumHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Check values of the CRC catalogue and the SHA test vectors, for "123456789".
    #[test]
    fn known_values() {
        let text = b"123456789";
        for (algorithm, hex) in [
            (ChecksumAlgorithm::Crc32, "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
            (ChecksumAlgorithm::Crc64nvme, "ae8b14860a799888"),
            (ChecksumAlgorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (ChecksumAlgorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ] {
            let value: String = of(algorithm, text).value.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(value, hex, "{algorithm:?}");
        }
    }

    #[test]
    fn full_object_crcs_combine() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64nvme] {
            let cuts = [0usize, 1, 5_000, 65_536, 100_000];
            let parts: Vec<_> =
                cuts.windows(2).map(|w| (of(algorithm, &bytes[w[0]..w[1]]), (w[1] - w[0]) as u64)).collect();
            let refs: Vec<_> = parts.iter().map(|(c, n)| (c, *n)).collect();
            let whole = Checksum::of_parts(algorithm, ChecksumKind::FullObject, &refs).unwrap();
            assert_eq!(whole, of(algorithm, &bytes), "{algorithm:?}");
        }
    }

    #[test]
    fn composite_is_over_raw_values_and_names_the_count() {
        let a = of(ChecksumAlgorithm::Sha256, b"a");
        let b = of(ChecksumAlgorithm::Sha256, b"b");
        let whole =
            Checksum::of_parts(ChecksumAlgorithm::Sha256, ChecksumKind::Composite, &[(&a, 1), (&b, 1)]).unwrap();
        assert!(whole.to_wire().ends_with("-2"));
        let joined = [a.value.clone(), b.value.clone()].concat();
        assert_eq!(whole.value, of(ChecksumAlgorithm::Sha256, &joined).value);
        assert!(Checksum::of_parts(ChecksumAlgorithm::Crc64nvme, ChecksumKind::Composite, &[(&a, 1)]).is_none());
    }
}
