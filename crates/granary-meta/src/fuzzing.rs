//! Doors for the fuzz targets into decoders that are nobody else's business. Each takes any bytes and must neither panic
//! nor take much memory; what is decoded must be encoded to what it was decoded from.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::Envelope;
use crate::log::frame::{self, FileHead};
use crate::log::seal::{Purpose, Sealers};
use crate::options::MetaKey;
use crate::records::{BucketRecord, PartRecord, PartRef, UploadRecord, VersionRecord};

/// Log files: the head of a file, and a frame.
pub fn log(bytes: &[u8]) {
    let _ = FileHead::decode(bytes);
    let mut sealers = Sealers::new(&MetaKey([7; 32]), Purpose::Log);
    let _ = frame::decode(bytes, &mut sealers);
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(record) = postcard::from_bytes::<T>(bytes) {
        let encoded = postcard::to_stdvec(&record).expect("what was decoded can be encoded");
        assert_eq!(postcard::from_bytes::<T>(&encoded).expect("what was encoded can be decoded"), record);
    }
}

/// The index's records, and commands.
pub fn records(bytes: &[u8]) {
    round_trip::<BucketRecord>(bytes);
    round_trip::<VersionRecord>(bytes);
    round_trip::<PartRecord>(bytes);
    round_trip::<PartRef>(bytes);
    round_trip::<UploadRecord>(bytes);
    round_trip::<Envelope>(bytes);
}
