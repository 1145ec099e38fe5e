//! Sealing of log frames and checkpoint manifests: AES-256-GCM by aws-lc-rs.
//!
//! Every opening of the store is a *session* with a random salt; its key comes from the log key by
//! HKDF-SHA-256. A frame's nonce is its sequence number, which is used once in a session. A torn frame that is
//! cut off and written anew is written in another session, so no key ever sees a nonce twice.

use std::collections::HashMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

use zeroize::Zeroizing;

use crate::options::MetaKey;

/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = 16;

/// What a session key is for, so that no two uses share one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Log frames.
    Log,
    /// Checkpoint manifests.
    Checkpoint,
}

struct OutputBytes(usize);

impl KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// A session's key.
pub(crate) struct Sealer(LessSafeKey);

fn derive<const N: usize>(key: &MetaKey, salt: &[u8; 16], info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0u8; N]);
    let extracted = Salt::new(HKDF_SHA256, salt).extract(&key.0);
    let filled = extracted.expand(&[info], OutputBytes(N)).and_then(|okm| okm.fill(&mut bytes[..]));
    filled.expect("a few bytes are within HKDF's bounds");
    bytes
}

/// What tells a log's key from another without sealing anything: it stands in every file's header.
pub(crate) fn key_check(key: &MetaKey, log_id: &[u8; 16]) -> [u8; 16] {
    *derive(key, log_id, b"granary log key check v1")
}

impl Sealer {
    /// The key of `session` for `purpose`.
    pub(crate) fn new(key: &MetaKey, purpose: Purpose, session: &[u8; 16]) -> Self {
        let info: &[u8] = match purpose {
            Purpose::Log => b"granary log frame v1",
            Purpose::Checkpoint => b"granary checkpoint manifest v1",
        };
        let bytes = derive::<32>(key, session, info);
        let key = UnboundKey::new(&AES_256_GCM, &bytes[..]).expect("the key has AES-256's length");
        Self(LessSafeKey::new(key))
    }

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals `bytes` in place and returns the tag. `number` must be used once per session.
    pub(crate) fn seal(&self, number: u64, aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self.0.seal_in_place_separate_tag(Self::nonce(number), Aad::from(aad), bytes);
        let tag = tag.expect("frames are far below AES-GCM's 64 GiB");
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Opens what `seal` made (`bytes` followed by its tag); the payload, or `None` if anything differs.
    pub(crate) fn open<'b>(&self, number: u64, aad: &[u8], bytes: &'b mut [u8]) -> Option<&'b [u8]> {
        self.0.open_in_place(Self::nonce(number), Aad::from(aad), bytes).ok().map(|b| &*b)
    }
}

/// The session keys met while reading, each derived once.
pub(crate) struct Sealers {
    key: MetaKey,
    purpose: Purpose,
    known: HashMap<[u8; 16], Sealer>,
}

impl Sealers {
    pub(crate) fn new(key: &MetaKey, purpose: Purpose) -> Self {
        Self { key: key.clone(), purpose, known: HashMap::new() }
    }

    pub(crate) fn of(&mut self, session: &[u8; 16]) -> &Sealer {
        self.known.entry(*session).or_insert_with(|| Sealer::new(&self.key, self.purpose, session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_as_it_was() {
        let key = MetaKey([7; 32]);
        let sealer = Sealer::new(&key, Purpose::Log, &[1; 16]);
        let mut bytes = b"payload".to_vec();
        let tag = sealer.seal(5, b"head", &mut bytes);
        bytes.extend_from_slice(&tag);
        assert_ne!(&bytes[..7], b"payload");
        assert_eq!(sealer.open(5, b"head", &mut bytes.clone()), Some(&b"payload"[..]));
        assert_eq!(sealer.open(6, b"head", &mut bytes.clone()), None);
        assert_eq!(sealer.open(5, b"heap", &mut bytes.clone()), None);
        let other = Sealer::new(&key, Purpose::Log, &[2; 16]);
        assert_eq!(other.open(5, b"head", &mut bytes.clone()), None);
        let other = Sealer::new(&key, Purpose::Checkpoint, &[1; 16]);
        assert_eq!(other.open(5, b"head", &mut bytes.clone()), None);
        bytes[3] ^= 1;
        assert_eq!(sealer.open(5, b"head", &mut bytes), None);
    }
}
