//! The self-describing header in front of every extent, and the head of a segment file, as bytes.
//!
//! An extent's header says all that is needed to find its shard again without any index: shard, scheme, lengths,
//! the CRC-32C of every 64 KiB of its data, and (in the first extent) the object's sealed metadata. It is
//! bound to drive, segment, generation and offset, so a copy of a header elsewhere is not one; with a key it
//! also carries a MAC, so that no payload can be taken for a header. Layout: `docs/format/drive.md`.

use aws_lc_rs::hmac;
use granary_types::frame::{self, FRAME_HEADER_BYTES, FrameError};
use granary_types::limits::{ALIGN_BYTES, CHUNK_BYTES, EXTENT_BYTES_MAX};
use granary_types::{DriveId, PartId, Scheme, ShardId};

use crate::api::{ShardInfo, ShardSpec};
use crate::limits::{META_BYTES_MAX, SEGMENT_HEAD_BYTES};

/// First bytes of an extent's header.
pub(crate) const EXTENT_MAGIC: [u8; 4] = *b"GRXT";
/// First bytes of a segment file.
pub(crate) const SEGMENT_MAGIC: [u8; 4] = *b"GRSG";
const VERSION: u16 = 1;
/// Fixed fields of an extent header's body.
const FIXED_BYTES: usize = 136;
const MAC_AT: usize = 120;
const MAC_BYTES: usize = 16;
/// Longest header: CRCs of the longest extent and the longest metadata.
pub(crate) const HEADER_BYTES_MAX: usize = header_bytes(EXTENT_BYTES_MAX as usize / CHUNK_BYTES, META_BYTES_MAX);

/// Bytes on disk of a header with so many CRCs and so much metadata.
pub(crate) const fn header_bytes(crcs: usize, meta_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + FIXED_BYTES + 4 * crcs + meta_bytes).next_multiple_of(ALIGN_BYTES)
}

/// Chunks of 64 KiB (the last may be shorter) in so many bytes.
pub(crate) const fn chunks_of(bytes: u64) -> usize {
    bytes.div_ceil(CHUNK_BYTES as u64) as usize
}

/// Where an extent claims to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) drive: DriveId,
    pub(crate) segment: u32,
    pub(crate) generation: u64,
    pub(crate) offset: u64,
}

/// A decoded extent header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentHeader {
    pub(crate) place: Place,
    /// This extent's number, and how many the shard has.
    pub(crate) extent: u16,
    pub(crate) extents: u16,
    /// Random, the same in all extents of one writer: tells incarnations of a shard apart.
    pub(crate) write_id: u64,
    pub(crate) info: ShardInfo,
    /// Bytes of this header on disk, a multiple of 4096; the data follows.
    pub(crate) header_bytes: u32,
    /// Where the extent's data begins in the shard, and how much there is.
    pub(crate) data_start: u64,
    pub(crate) data_bytes: u64,
    pub(crate) crcs: Vec<u32>,
    /// Sealed metadata; empty in all but the first extent.
    pub(crate) meta: Vec<u8>,
}

/// Why bytes are not a header of this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("header has fields that contradict each other")]
    Nonsense,
    #[error("header belongs to another drive, segment, generation or offset")]
    Elsewhere,
    #[error("header's MAC does not match")]
    Mac,
}

impl ExtentHeader {
    /// Writes the header into `out` (`header_bytes` long), zeros behind it.
    ///
    /// # Panics
    /// If it does not fit: its room was computed by [`header_bytes`].
    pub(crate) fn encode(&self, key: Option<&hmac::Key>, out: &mut [u8]) {
        let spec = &self.info.spec;
        let mut body = Vec::with_capacity(FIXED_BYTES + 4 * self.crcs.len() + self.meta.len());
        body.extend_from_slice(self.place.drive.as_bytes());
        body.extend_from_slice(&self.place.segment.to_le_bytes());
        body.extend_from_slice(&self.extents.to_le_bytes());
        body.extend_from_slice(&self.extent.to_le_bytes());
        body.extend_from_slice(&self.place.generation.to_le_bytes());
        body.extend_from_slice(&self.place.offset.to_le_bytes());
        body.extend_from_slice(&self.write_id.to_le_bytes());
        body.extend_from_slice(spec.shard.part.as_bytes());
        body.extend_from_slice(&[spec.shard.index, spec.scheme.k, spec.scheme.m, 0]);
        body.extend_from_slice(&self.header_bytes.to_le_bytes());
        body.extend_from_slice(&spec.payload_bytes.to_le_bytes());
        body.extend_from_slice(&spec.shard_bytes.to_le_bytes());
        body.extend_from_slice(&self.data_start.to_le_bytes());
        body.extend_from_slice(&self.data_bytes.to_le_bytes());
        body.extend_from_slice(&self.info.committed_us.to_le_bytes());
        body.extend_from_slice(&u32::try_from(self.meta.len()).expect("at most 8 KiB").to_le_bytes());
        body.extend_from_slice(&u32::try_from(self.crcs.len()).expect("at most 1024").to_le_bytes());
        body.extend_from_slice(&[0; MAC_BYTES]);
        debug_assert_eq!(body.len(), FIXED_BYTES);
        for crc in &self.crcs {
            body.extend_from_slice(&crc.to_le_bytes());
        }
        body.extend_from_slice(&self.meta);
        if let Some(key) = key {
            let tag = hmac::sign(key, &body);
            body[MAC_AT..MAC_AT + MAC_BYTES].copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        }
        let mut framed = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        frame::encode(EXTENT_MAGIC, VERSION, &body, &mut framed);
        let (front, back) = out.split_at_mut(framed.len());
        front.copy_from_slice(&framed);
        back.fill(0);
    }

    /// Reads a header that lies at `place`; every length is checked before it is used.
    pub(crate) fn decode(bytes: &[u8], key: Option<&hmac::Key>, place: &Place) -> Result<Self, HeaderError> {
        let limit = u32::try_from(HEADER_BYTES_MAX - FRAME_HEADER_BYTES).expect("a few KiB");
        let (_, body) = frame::decode(EXTENT_MAGIC, VERSION, limit, bytes)?;
        let mut r = Reader { bytes: body };
        let drive = DriveId(r.array()?);
        let segment = u32::from_le_bytes(r.array()?);
        let extents = u16::from_le_bytes(r.array()?);
        let extent = u16::from_le_bytes(r.array()?);
        let generation = r.u64()?;
        let offset = r.u64()?;
        let write_id = r.u64()?;
        let part = PartId(r.array()?);
        let [index, k, m, zero] = r.array::<4>()?;
        let header_len = u32::from_le_bytes(r.array()?);
        let payload_bytes = r.u64()?;
        let shard_bytes = r.u64()?;
        let data_start = r.u64()?;
        let data_bytes = r.u64()?;
        let committed_us = r.u64()?;
        let meta_len = u32::from_le_bytes(r.array()?) as usize;
        let crc_count = u32::from_le_bytes(r.array()?) as usize;
        let mac = r.array::<MAC_BYTES>()?;
        let crc_bytes = crc_count.checked_mul(4).ok_or(HeaderError::Nonsense)?;
        let crcs = r.take(crc_bytes)?.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let meta = r.take(meta_len)?.to_vec();
        let scheme = Scheme::new(k, m).map_err(|_| HeaderError::Nonsense)?;
        let sound = r.bytes.is_empty()
            && zero == 0
            && meta_len <= META_BYTES_MAX
            && extent < extents
            && header_len as usize >= header_bytes(crc_count, meta_len)
            && header_len as usize <= HEADER_BYTES_MAX
            && (header_len as usize).is_multiple_of(ALIGN_BYTES)
            && data_bytes > 0
            && data_bytes <= EXTENT_BYTES_MAX
            && data_bytes.is_multiple_of(ALIGN_BYTES as u64)
            && data_start.is_multiple_of(CHUNK_BYTES as u64)
            && data_start.checked_add(data_bytes).is_some_and(|end| end <= shard_bytes)
            && shard_bytes <= crate::limits::SHARD_BYTES_MAX
            && crc_count == chunks_of(data_bytes);
        if !sound {
            return Err(HeaderError::Nonsense);
        }
        let found = Place { drive, segment, generation, offset };
        if found != *place {
            return Err(HeaderError::Elsewhere);
        }
        if let Some(key) = key {
            let mut signed = body.to_vec();
            signed[MAC_AT..MAC_AT + MAC_BYTES].fill(0);
            let tag = hmac::sign(key, &signed);
            // Not a secret comparison: whoever can time it can write to the drive's folder already.
            if tag.as_ref()[..MAC_BYTES] != mac {
                return Err(HeaderError::Mac);
            }
        }
        let spec = ShardSpec { shard: ShardId { part, index }, scheme, payload_bytes, shard_bytes };
        let info = ShardInfo { spec, committed_us };
        let header_bytes = header_len;
        Ok(Self { place: found, extent, extents, write_id, info, header_bytes, data_start, data_bytes, crcs, meta })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], HeaderError> {
        let (front, back) = self.bytes.split_at_checked(len).ok_or(HeaderError::Nonsense)?;
        self.bytes = back;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (front, back) = self.bytes.split_first_chunk::<N>().ok_or(HeaderError::Nonsense)?;
        self.bytes = back;
        Ok(*front)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

/// The head of a segment file: two copies in its first 8 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub(crate) drive: DriveId,
    pub(crate) segment: u32,
    /// Random; a new one each time the segment is used anew.
    pub(crate) generation: u64,
    pub(crate) segment_bytes: u64,
}

impl SegmentHead {
    /// Writes both copies into `out`.
    pub(crate) fn encode(&self, out: &mut [u8; SEGMENT_HEAD_BYTES as usize]) {
        let mut body = Vec::with_capacity(36);
        body.extend_from_slice(self.drive.as_bytes());
        body.extend_from_slice(&self.segment.to_le_bytes());
        body.extend_from_slice(&self.generation.to_le_bytes());
        body.extend_from_slice(&self.segment_bytes.to_le_bytes());
        let mut framed = Vec::new();
        frame::encode(SEGMENT_MAGIC, VERSION, &body, &mut framed);
        out.fill(0);
        for copy in out.chunks_exact_mut(ALIGN_BYTES) {
            copy[..framed.len()].copy_from_slice(&framed);
        }
    }

    /// Reads the first copy that is whole.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut last = Err(HeaderError::Nonsense);
        for copy in bytes.chunks_exact(ALIGN_BYTES) {
            last = Self::decode_copy(copy);
            if last.is_ok() {
                return last;
            }
        }
        last
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (_, body) = frame::decode(SEGMENT_MAGIC, VERSION, 36, bytes)?;
        let mut r = Reader { bytes: body };
        let drive = DriveId(r.array()?);
        let segment = u32::from_le_bytes(r.array()?);
        let (generation, segment_bytes) = (r.u64()?, r.u64()?);
        let sound = r.bytes.is_empty()
            && segment_bytes.is_multiple_of(ALIGN_BYTES as u64)
            && (2 * SEGMENT_HEAD_BYTES..=1 << 40).contains(&segment_bytes);
        if sound { Ok(Self { drive, segment, generation, segment_bytes }) } else { Err(HeaderError::Nonsense) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> ExtentHeader {
        ExtentHeader {
            place: Place { drive: DriveId([1; 16]), segment: 7, generation: 0x0102_0304_0506_0708, offset: 12_288 },
            extent: 0,
            extents: 2,
            write_id: 0x1112_1314_1516_1718,
            info: ShardInfo {
                spec: ShardSpec {
                    shard: ShardId { part: PartId([2; 16]), index: 3 },
                    scheme: Scheme { k: 4, m: 2 },
                    payload_bytes: 500_000,
                    shard_bytes: 196_608,
                },
                committed_us: 1_780_000_000_000_000,
            },
            header_bytes: 4096,
            data_start: 0,
            data_bytes: 131_072,
            crcs: vec![0xdead_beef, 0x0bad_cafe],
            meta: b"sealed metadata".to_vec(),
        }
    }

    fn encoded(header: &ExtentHeader, key: Option<&hmac::Key>) -> Vec<u8> {
        let mut out = vec![0xff; header.header_bytes as usize];
        header.encode(key, &mut out);
        out
    }

    #[test]
    fn round_trips_with_and_without_a_key() {
        let header = sample();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[5; 32]);
        let other = hmac::Key::new(hmac::HMAC_SHA256, &[6; 32]);
        assert_eq!(ExtentHeader::decode(&encoded(&header, None), None, &header.place).unwrap(), header);
        let sealed = encoded(&header, Some(&key));
        assert_eq!(ExtentHeader::decode(&sealed, Some(&key), &header.place).unwrap(), header);
        assert_eq!(ExtentHeader::decode(&sealed, Some(&other), &header.place), Err(HeaderError::Mac));
        assert_eq!(ExtentHeader::decode(&encoded(&header, None), Some(&key), &header.place), Err(HeaderError::Mac));
        for place in [
            Place { segment: 8, ..header.place },
            Place { generation: 1, ..header.place },
            Place { offset: 8192, ..header.place },
            Place { drive: DriveId([9; 16]), ..header.place },
        ] {
            assert_eq!(ExtentHeader::decode(&sealed, Some(&key), &place), Err(HeaderError::Elsewhere));
        }
    }

    #[test]
    fn segment_heads_survive_the_loss_of_one_copy() {
        let head = SegmentHead { drive: DriveId([1; 16]), segment: 3, generation: 99, segment_bytes: 8 << 20 };
        let mut bytes = [0u8; SEGMENT_HEAD_BYTES as usize];
        head.encode(&mut bytes);
        assert_eq!(SegmentHead::decode(&bytes).unwrap(), head);
        bytes[..ALIGN_BYTES].fill(0);
        assert_eq!(SegmentHead::decode(&bytes).unwrap(), head);
        bytes.fill(0);
        assert!(SegmentHead::decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(bit in 0usize..(16 + 136 + 8 + 15) * 8) {
            let header = sample();
            let mut bytes = encoded(&header, None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ExtentHeader::decode(&bytes, None, &header.place).is_err());
        }

        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut framed = Vec::new();
            frame::encode(EXTENT_MAGIC, VERSION, &body, &mut framed);
            let _ = ExtentHeader::decode(&framed, None, &sample().place);
            let mut framed = Vec::new();
            frame::encode(SEGMENT_MAGIC, VERSION, &body, &mut framed);
            let _ = SegmentHead::decode_copy(&framed);
        }
    }
}
