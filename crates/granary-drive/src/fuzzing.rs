//! A door for the fuzz targets into the decoders of what lies in segments. Any bytes must be taken or refused, without a
//! panic.

use crate::header::{ExtentHeader, Place, SegmentHead};

/// Headers of extents and segments.
pub fn headers(bytes: &[u8]) {
    let place = Place { drive: granary_types::DriveId([1; 16]), segment: 7, generation: 1, offset: 12_288 };
    let _ = ExtentHeader::decode(bytes, None, &place);
    let _ = SegmentHead::decode(bytes);
}
