//! The frame around every record that is written to a file: magic, version, length, checksum.
//!
//! ```text
//!  0        4         6        8           12          16
//!  +--------+---------+--------+-----------+-----------+----------------
//!  | magic  | version | flags  | length    | crc32c    | body (length)
//!  +--------+---------+--------+-----------+-----------+----------------
//! ```
//! Integers are little-endian. The CRC-32C covers bytes 0..12 and the body. It finds torn and rotten
//! records; it proves nothing against an adversary, which is what sealing is for.

use crate::limits::CHUNK_BYTES;

/// Bytes of the frame's header.
pub const FRAME_HEADER_BYTES: usize = 16;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the header, or than the length in it.
    #[error("frame is cut short: {have} bytes of {need}")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// Another magic.
    #[error("frame has magic {0:02x?}")]
    Magic([u8; 4]),
    /// A version this program does not know.
    #[error("frame has version {0}, which this program does not know")]
    Version(u16),
    /// A length over the caller's limit.
    #[error("frame claims {0} bytes, over the limit")]
    Length(u32),
    /// The checksum does not match.
    #[error("frame checksum mismatch")]
    Checksum,
}

/// CRC-32C (Castagnoli) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Appends a frame holding `body` to `out`.
///
/// # Panics
/// If `body` is 4 GiB or longer: callers bound their records far below.
pub fn encode(magic: [u8; 4], version: u16, body: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(body.len()).expect("records are bounded far below 4 GiB");
    let mut header = [0u8; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&magic);
    header[4..6].copy_from_slice(&version.to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = frame_crc(&header, body);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
}

/// Reads the frame at the start of `bytes`; returns its version and body.
///
/// # Errors
/// [`FrameError`], before anything of the body is looked at.
pub fn decode(magic: [u8; 4], version_max: u16, length_max: u32, bytes: &[u8]) -> Result<(u16, &[u8]), FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(FrameError::Short { have: bytes.len(), need: FRAME_HEADER_BYTES });
    };
    let found = [header[0], header[1], header[2], header[3]];
    if found != magic {
        return Err(FrameError::Magic(found));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if length > length_max {
        return Err(FrameError::Length(length));
    }
    let Some(body) = rest.get(..length as usize) else {
        return Err(FrameError::Short { have: bytes.len(), need: FRAME_HEADER_BYTES + length as usize });
    };
    let stored = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if stored != frame_crc(header, body) {
        return Err(FrameError::Checksum);
    }
    if version == 0 || version > version_max {
        return Err(FrameError::Version(version));
    }
    Ok((version, body))
}

fn frame_crc(header: &[u8; FRAME_HEADER_BYTES], body: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&header[..12]);
    digest.update(body);
    digest.finalize() as u32
}

/// CRC-32C of every [`CHUNK_BYTES`] of a run of bytes that comes in pieces. The last chunk may be shorter.
#[derive(Debug)]
pub struct ChunkCrcs {
    done: Vec<u32>,
    current: crc_fast::Digest,
    filled: usize,
}

impl ChunkCrcs {
    /// For about `chunks` chunks.
    #[must_use]
    pub fn with_room(chunks: usize) -> Self {
        Self { done: Vec::with_capacity(chunks), current: Self::digest(), filled: 0 }
    }

    fn digest() -> crc_fast::Digest {
        crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (front, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.filled));
            self.current.update(front);
            self.filled += front.len();
            bytes = rest;
            if self.filled == CHUNK_BYTES {
                self.end_chunk();
            }
        }
    }

    /// Takes over CRCs that somebody has of the next `bytes` bytes, one per chunk. `false`, and nothing is taken, where they do
    /// not fit: not at the border of a chunk, not as many as there are chunks, or a short chunk that is not the
    /// last (`ends`).
    pub fn adopt(&mut self, crcs: &[u32], bytes: usize, ends: bool) -> bool {
        let fits = self.filled == 0
            && crcs.len() == bytes.div_ceil(CHUNK_BYTES)
            && (ends || bytes.is_multiple_of(CHUNK_BYTES));
        if fits {
            self.done.extend_from_slice(crcs);
        }
        fits
    }

    fn end_chunk(&mut self) {
        let whole = std::mem::replace(&mut self.current, Self::digest());
        // A CRC-32 fills the low half of the digest's 64 bits.
        self.done.push(whole.finalize() as u32);
        self.filled = 0;
    }

    /// The CRCs, in order.
    #[must_use]
    pub fn finish(mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.end_chunk();
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAGIC: [u8; 4] = *b"TEST";

    proptest! {
        #[test]
        fn round_trips(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = Vec::new();
            encode(MAGIC, 1, &body, &mut bytes);
            prop_assert_eq!(decode(MAGIC, 1, 1000, &bytes), Ok((1, &body[..])));
        }

        #[test]
        fn any_flipped_bit_is_found(body in proptest::collection::vec(any::<u8>(), 0..100), bit in 0usize..800) {
            let mut bytes = Vec::new();
            encode(MAGIC, 1, &body, &mut bytes);
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(MAGIC, 1, 1000, &bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(MAGIC, 1, 1000, &bytes);
        }
    }

    #[test]
    fn chunk_crcs_do_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| (n * 31) as u8).collect();
        let expected: Vec<u32> = bytes.chunks(CHUNK_BYTES).map(crc32c).collect();
        for piece in [1, 4096, 65_536, 100_000, 200_000] {
            let mut crcs = ChunkCrcs::with_room(4);
            bytes.chunks(piece).for_each(|p| crcs.update(p));
            assert_eq!(crcs.finish(), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn crcs_are_adopted_where_they_fit() {
        let bytes = vec![7; CHUNK_BYTES * 2 + 4096];
        let known: Vec<u32> = bytes.chunks(CHUNK_BYTES).map(crc32c).collect();
        let mut crcs = ChunkCrcs::with_room(3);
        assert!(!crcs.adopt(&known, bytes.len(), false), "a short chunk in the middle");
        assert!(!crcs.adopt(&known[..2], bytes.len(), true), "too few");
        assert!(crcs.adopt(&known[..2], CHUNK_BYTES * 2, false));
        assert!(crcs.adopt(&known[2..], 4096, true));
        assert_eq!(crcs.finish(), known);
        let mut crcs = ChunkCrcs::with_room(3);
        crcs.update(&bytes[..10]);
        assert!(!crcs.adopt(&known[..1], CHUNK_BYTES, false), "not at a border");
    }
}
