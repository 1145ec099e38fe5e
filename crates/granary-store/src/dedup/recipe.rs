//! A part's recipe: its blocks in order, as it lies on drives under the part's id for the last resort. Format:
//! `docs/format/recipe.md`.

use granary_meta::records::BlockUse;
use granary_types::PartId;

use crate::api::Result;
use crate::error::StoreError;

const MAGIC: [u8; 4] = *b"GRCP";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 4 + 1 + 4;
const ENTRY_BYTES: usize = 16 + 8;
/// Entries, at most: far above what the largest part can have.
const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of a recipe, at most.
pub(crate) const RECIPE_BYTES_MAX: usize = HEAD_BYTES + ENTRIES_MAX * ENTRY_BYTES;

/// Writes a recipe.
pub(crate) fn encode(blocks: &[BlockUse]) -> Result<Vec<u8>> {
    if blocks.is_empty() || blocks.len() > ENTRIES_MAX {
        return Err(StoreError::Internal(format!("a part of {} blocks", blocks.len())));
    }
    let mut out = Vec::with_capacity(HEAD_BYTES + blocks.len() * ENTRY_BYTES);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
    for used in blocks {
        out.extend_from_slice(&used.block.0);
        out.extend_from_slice(&used.payload_bytes.to_le_bytes());
    }
    Ok(out)
}

/// Reads a recipe of a part of `payload_bytes`.
pub(crate) fn decode(bytes: &[u8], payload_bytes: u64) -> Result<Vec<BlockUse>> {
    let wrong = |why: &str| StoreError::Corrupt(format!("a part's recipe {why}"));
    let (head, entries) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or_else(|| wrong("is cut short"))?;
    if head[..4] != MAGIC {
        return Err(wrong("does not begin as one"));
    }
    if head[4] != VERSION {
        return Err(wrong("has a version that this program does not know"));
    }
    let count = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
    if count == 0 || count > ENTRIES_MAX || entries.len() != count * ENTRY_BYTES {
        return Err(wrong("is not as long as it says"));
    }
    let mut blocks = Vec::with_capacity(count);
    let mut sum = 0u64;
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let (id, size) = entry.split_first_chunk::<16>().ok_or_else(|| wrong("is cut short"))?;
        let size = size.try_into().map(u64::from_le_bytes).map_err(|_| wrong("is cut short"))?;
        sum = sum.checked_add(size).filter(|_| size > 0).ok_or_else(|| wrong("has a block of no size"))?;
        blocks.push(BlockUse { block: PartId(*id), payload_bytes: size });
    }
    if sum == payload_bytes { Ok(blocks) } else { Err(wrong("does not make the part's size")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_not() {
        let blocks: Vec<BlockUse> =
            (1..4u8).map(|n| BlockUse { block: PartId([n; 16]), payload_bytes: u64::from(n) << 20 }).collect();
        let bytes = encode(&blocks).unwrap();
        assert_eq!(decode(&bytes, 6 << 20).unwrap(), blocks);
        assert!(decode(&bytes, 7 << 20).is_err());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], 6 << 20).is_err(), "cut at {cut}");
        }
        for at in 0..HEAD_BYTES {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(decode(&bad, 6 << 20).is_err(), "byte {at}");
        }
        assert!(encode(&[]).is_err());
    }

    #[test]
    fn the_format_is_as_documented() {
        let bytes = encode(&[BlockUse { block: PartId([7; 16]), payload_bytes: 0x0102 }]).unwrap();
        let golden = [b"GRCP\x01\x01\0\0\0".as_slice(), &[7; 16], &[2, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(bytes, golden);
    }
}
