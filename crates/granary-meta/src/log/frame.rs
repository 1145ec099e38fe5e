//! Frames: what is written to the log at once. `docs/format/log.md` is the page for it.
//!
//! ```text
//!  0        16      32       48        56        64      72     76     80       84        96
//!  +--------+-------+--------+---------+---------+-------+------+------+--------+---------+----------------+-----+------
//!  | header | log   | session| frame   | first   | file  | count| epoch| payload| 0       | sealed payload | tag | zeros
//!  | GLOG   | id    | salt   | number  | position| number|      |      | bytes  |         |                | 16  | to 4 KiB
//!  +--------+-------+--------+---------+---------+-------+------+------+--------+---------+----------------+-----+------
//! ```
//! The first 96 bytes are a `granary_types::frame` (so they have a CRC) and, without its 16, the additional data of the seal.

use granary_drive::AlignedBuf;
use granary_types::DriveId;
use granary_types::frame::{self, FRAME_HEADER_BYTES};
use granary_types::limits::ALIGN_BYTES;

use super::seal::{Sealer, Sealers, TAG_BYTES};
use crate::command::Envelope;

const MAGIC: [u8; 4] = *b"GLOG";
const FILE_MAGIC: [u8; 4] = *b"GLFH";
const VERSION: u16 = 2;
const BODY_BYTES: usize = 80;
/// Bytes before the sealed payload.
pub(crate) const HEAD_BYTES: usize = FRAME_HEADER_BYTES + BODY_BYTES;
/// Bytes of a file's header block; frames begin behind it.
pub(crate) const FILE_HEADER_BYTES: usize = ALIGN_BYTES;
/// Mirrors a frame can name.
const MIRRORS_MAX: usize = 64;

/// What stands in a frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub log_id: [u8; 16],
    /// Salt of the session that wrote it.
    pub session: [u8; 16],
    /// Number of the frame: consecutive along the log.
    pub frame: u64,
    /// Position of its first command; the next frame's is this plus `count`.
    pub first: u64,
    /// Number of the file it is in.
    pub file: u64,
    /// Commands in it.
    pub count: u32,
    /// Mirror epoch.
    pub epoch: u32,
    /// Bytes of its payload.
    pub payload_bytes: u32,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut n = [0; 8];
    n.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(n)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut n = [0; 4];
    n.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(n)
}

fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[at..at + 16]);
    id
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut body = [0; BODY_BYTES];
        body[..16].copy_from_slice(&self.log_id);
        body[16..32].copy_from_slice(&self.session);
        body[32..40].copy_from_slice(&self.frame.to_le_bytes());
        body[40..48].copy_from_slice(&self.first.to_le_bytes());
        body[48..56].copy_from_slice(&self.file.to_le_bytes());
        body[56..60].copy_from_slice(&self.count.to_le_bytes());
        body[60..64].copy_from_slice(&self.epoch.to_le_bytes());
        body[64..68].copy_from_slice(&self.payload_bytes.to_le_bytes());
        let mut out = Vec::with_capacity(HEAD_BYTES);
        frame::encode(MAGIC, VERSION, &body, &mut out);
        out
    }

    /// The head at the start of `bytes`, if there is one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, body) = frame::decode(MAGIC, VERSION, BODY_BYTES as u32, bytes).ok()?;
        if version != VERSION {
            return None;
        }
        (body.len() == BODY_BYTES).then(|| Self {
            log_id: id_at(body, 0),
            session: id_at(body, 16),
            frame: u64_at(body, 32),
            first: u64_at(body, 40),
            file: u64_at(body, 48),
            count: u32_at(body, 56),
            epoch: u32_at(body, 60),
            payload_bytes: u32_at(body, 64),
        })
    }

    /// Bytes of the frame on disk, padding included.
    pub(crate) const fn disk_bytes(&self) -> usize {
        disk_bytes(self.payload_bytes as usize)
    }
}

/// Bytes on disk of a frame with so many payload bytes.
pub(crate) const fn disk_bytes(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes + TAG_BYTES).next_multiple_of(ALIGN_BYTES)
}

/// Payload bytes of a frame with these commands and mirrors.
pub(crate) fn payload_bytes<'c>(commands: impl Iterator<Item = &'c [u8]>, mirrors: usize) -> usize {
    2 + mirrors * 16 + commands.map(|c| 4 + c.len()).sum::<usize>()
}

/// Seals a frame into `out` (any content; its length is set).
pub(crate) fn encode<'c>(
    mut head: Head,
    mirrors: &[DriveId],
    commands: impl Iterator<Item = &'c [u8]> + Clone,
    sealer: &Sealer,
    out: &mut AlignedBuf,
) {
    debug_assert!(mirrors.len() <= MIRRORS_MAX);
    let payload = payload_bytes(commands.clone(), mirrors.len());
    head.payload_bytes = u32::try_from(payload).expect("frames are bounded far below 4 GiB");
    let total = head.disk_bytes();
    if out.capacity() < total {
        *out = AlignedBuf::new(total.next_power_of_two());
    }
    out.set_len(total);
    let encoded = head.encode();
    out[..HEAD_BYTES].copy_from_slice(&encoded);
    let mut at = HEAD_BYTES;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&(mirrors.len() as u16).to_le_bytes());
    mirrors.iter().for_each(|m| put(&m.0));
    for command in commands {
        put(&(command.len() as u32).to_le_bytes());
        put(command);
    }
    let tag = sealer.seal(head.frame, &encoded[FRAME_HEADER_BYTES..], &mut out[HEAD_BYTES..at]);
    out[at..at + TAG_BYTES].copy_from_slice(&tag);
    out[at + TAG_BYTES..].fill(0);
}

/// An opened frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub head: Head,
    /// The drives that hold the log as of this frame.
    pub mirrors: Vec<DriveId>,
    pub commands: Vec<Envelope>,
}

/// Opens the frame at the start of `bytes`; `None` if it is not whole and genuine.
pub(crate) fn decode(bytes: &[u8], sealers: &mut Sealers) -> Option<Frame> {
    let head = Head::decode(bytes)?;
    let end = HEAD_BYTES.checked_add(head.payload_bytes as usize)?.checked_add(TAG_BYTES)?;
    let mut sealed = bytes.get(HEAD_BYTES..end)?.to_vec();
    let payload = sealers.of(&head.session).open(head.frame, &bytes[FRAME_HEADER_BYTES..HEAD_BYTES], &mut sealed)?;
    let (count, mut rest) = payload.split_first_chunk::<2>()?;
    let mut mirrors = Vec::new();
    for _ in 0..usize::from(u16::from_le_bytes(*count)).min(MIRRORS_MAX) {
        let (id, behind) = rest.split_first_chunk::<16>()?;
        mirrors.push(DriveId(*id));
        rest = behind;
    }
    let mut commands = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (command, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        commands.push(postcard::from_bytes(command).ok()?);
        rest = behind;
    }
    (rest.is_empty() && commands.len() == head.count as usize).then_some(Frame { head, mirrors, commands })
}

/// What stands in a file's header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHead {
    pub log_id: [u8; 16],
    /// Tells the log's key from another, see [`super::seal::key_check`].
    pub key_check: [u8; 16],
    /// Number of the file.
    pub file: u64,
    /// Number of its first frame.
    pub first_frame: u64,
    /// Position of its first command.
    pub first_position: u64,
}

impl FileHead {
    /// The header block.
    pub(crate) fn encode(&self) -> AlignedBuf {
        let mut body = self.log_id.to_vec();
        body.extend_from_slice(&self.key_check);
        for number in [self.file, self.first_frame, self.first_position] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        let mut bytes = Vec::new();
        frame::encode(FILE_MAGIC, VERSION, &body, &mut bytes);
        let mut block = AlignedBuf::zeroed(FILE_HEADER_BYTES);
        block[..bytes.len()].copy_from_slice(&bytes);
        block
    }

    /// The header at the start of `bytes`, if it is one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, body) = frame::decode(FILE_MAGIC, VERSION, 56, bytes).ok()?;
        if version != VERSION {
            return None;
        }
        (body.len() == 56).then(|| Self {
            log_id: id_at(body, 0),
            key_check: id_at(body, 16),
            file: u64_at(body, 32),
            first_frame: u64_at(body, 40),
            first_position: u64_at(body, 48),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::log::seal::Purpose;
    use crate::options::MetaKey;
    use granary_types::Timestamp;
    use proptest::prelude::*;

    fn key() -> MetaKey {
        MetaKey([7; 32])
    }

    fn head() -> Head {
        Head {
            log_id: [1; 16],
            session: [2; 16],
            frame: 42,
            first: 1000,
            file: 3,
            count: 0,
            epoch: 5,
            payload_bytes: 0,
        }
    }

    fn commands(count: usize) -> Vec<Envelope> {
        let command = |n: usize| Command::SetSystem { name: format!("name/{n}"), value: None };
        (0..count).map(|n| Envelope { at: Timestamp(n as u64), command: command(n), audit: None }).collect()
    }

    fn sealed(commands: &[Envelope], mirrors: &[DriveId]) -> Vec<u8> {
        let encoded: Vec<Vec<u8>> = commands.iter().map(|c| postcard::to_allocvec(c).unwrap()).collect();
        let sealer = Sealer::new(&key(), Purpose::Log, &[2; 16]);
        let mut out = AlignedBuf::new(4096);
        let head = Head { count: commands.len() as u32, ..head() };
        encode(head, mirrors, encoded.iter().map(|e| &e[..]), &sealer, &mut out);
        out.to_vec()
    }

    #[test]
    fn frames_round_trip_and_are_padded() {
        for count in [1, 2, 500] {
            let commands = commands(count);
            let bytes = sealed(&commands, &[DriveId([8; 16]), DriveId([9; 16])]);
            assert!(bytes.len().is_multiple_of(ALIGN_BYTES));
            let frame = decode(&bytes, &mut Sealers::new(&key(), Purpose::Log)).unwrap();
            assert_eq!(frame.commands, commands);
            assert_eq!(frame.mirrors, [DriveId([8; 16]), DriveId([9; 16])]);
            assert_eq!(frame.head.disk_bytes(), bytes.len());
            assert!(decode(&bytes, &mut Sealers::new(&MetaKey([8; 32]), Purpose::Log)).is_none());
        }
    }

    #[test]
    fn the_bytes_of_a_frame_and_a_file_header_are_golden() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let file = FileHead { log_id: [1; 16], key_check: [6; 16], file: 3, first_frame: 42, first_position: 1000 };
        for (name, made) in
            [("log-frame-v2", sealed(&commands(3), &[DriveId([8; 16])])), ("log-file-head-v2", file.encode().to_vec())]
        {
            let path = dir.join(format!("{name}.bin"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
                std::fs::write(&path, &made).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), made, "{name}");
        }
        let stored = std::fs::read(dir.join("log-frame-v2.bin")).unwrap();
        assert_eq!(decode(&stored, &mut Sealers::new(&key(), Purpose::Log)).unwrap().commands, commands(3));
        assert_eq!(FileHead::decode(&std::fs::read(dir.join("log-file-head-v2.bin")).unwrap()), Some(file));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_in_a_frame_is_found(bit in 0usize..8 * 300) {
            let mut bytes = sealed(&commands(8), &[DriveId([8; 16])]);
            let used = HEAD_BYTES + Head::decode(&bytes).unwrap().payload_bytes as usize + TAG_BYTES;
            let bit = bit % (used * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, &mut Sealers::new(&key(), Purpose::Log)).is_none());
        }

        #[test]
        fn arbitrary_bytes_are_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes, &mut Sealers::new(&key(), Purpose::Log)).is_none());
            prop_assert!(FileHead::decode(&bytes).is_none());
        }
    }
}
