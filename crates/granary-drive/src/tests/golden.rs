//! What is written to disk stays what it is: every record against a file kept in the repository. A change here is
//! a change of format, and needs a new version. `GRANARY_GOLDEN_WRITE=1` writes the files anew.

use std::path::PathBuf;

use aws_lc_rs::hmac;
use granary_types::limits::ALIGN_BYTES;
use granary_types::{ClusterId, DriveId, PartId, Scheme, ShardId};

use crate::api::{ShardInfo, ShardSpec};
use crate::header::{ExtentHeader, Place, SegmentHead};
use crate::identity::Identity;
use crate::limits::SEGMENT_HEAD_BYTES;

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("GRANARY_GOLDEN_WRITE").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(kept == bytes, "{name} is not written as it used to be");
    kept
}

#[test]
fn extent_header_v1() {
    let place = Place { drive: DriveId([0xd1; 16]), segment: 7, generation: 0x0102_0304_0506_0708, offset: 12_288 };
    let header = ExtentHeader {
        place,
        extent: 0,
        extents: 2,
        write_id: 0x1112_1314_1516_1718,
        info: ShardInfo {
            spec: ShardSpec {
                shard: ShardId { part: PartId([0xa2; 16]), index: 3 },
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
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0x4d; 32]);
    let mut bytes = vec![0; ALIGN_BYTES];
    header.encode(Some(&key), &mut bytes);
    let kept = golden("extent_header.v1.bin", &bytes);
    assert_eq!(ExtentHeader::decode(&kept, Some(&key), &place).unwrap(), header);
}

#[test]
fn segment_head_v1() {
    let head = SegmentHead {
        drive: DriveId([0xd1; 16]),
        segment: 7,
        generation: 0x0102_0304_0506_0708,
        segment_bytes: 1 << 30,
    };
    let mut bytes = [0u8; SEGMENT_HEAD_BYTES as usize];
    head.encode(&mut bytes);
    let kept = golden("segment_head.v1.bin", &bytes);
    assert_eq!(SegmentHead::decode(&kept).unwrap(), head);
}

#[test]
fn drive_json_v1() {
    let identity = Identity::new(ClusterId([0xc1; 16]), DriveId([0xd1; 16]), &[0x4b; 32]);
    let kept = golden("drive.v1.json", identity.to_json().as_bytes());
    assert_eq!(Identity::from_json(std::str::from_utf8(&kept).unwrap()).unwrap(), identity);
}
