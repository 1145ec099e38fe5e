//! XAES-256-GCM (<https://c2sp.org/XAES-256-GCM>): AES-256-GCM with a 192-bit nonce, so that random nonces
//! never repeat in practice (2^80 messages under one key). Two AES calls turn the first half of the
//! nonce into a key of its own; the second half is that key's GCM nonce.

use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};

use crate::secret::Secret32;

/// Bytes of a nonce.
pub(crate) const XNONCE_BYTES: usize = 24;

/// A prepared key: the AES schedule and CMAC's subkey K1.
pub(crate) struct XaesKey {
    aes: Aes256,
    k1: [u8; 16],
}

impl XaesKey {
    pub(crate) fn new(secret: &Secret32) -> Self {
        let aes = Aes256::new(secret.expose().into());
        let mut block = [0u8; 16].into();
        aes.encrypt_block(&mut block);
        let l = u128::from_be_bytes(block.into());
        let k1 = (l << 1) ^ if l >> 127 == 1 { 0x87 } else { 0 };
        Self { aes, k1: k1.to_be_bytes() }
    }

    /// The key and 96-bit nonce to use with AES-256-GCM for the message with this `nonce`.
    pub(crate) fn message_key(&self, nonce: &[u8; XNONCE_BYTES]) -> (Secret32, [u8; 12]) {
        let mut key = [0u8; 32];
        for (counter, half) in [1u8, 2].into_iter().zip(key.chunks_exact_mut(16)) {
            let mut block = [0u8; 16];
            block[1] = counter;
            block[2] = b'X';
            block[4..].copy_from_slice(&nonce[..12]);
            for (byte, k) in block.iter_mut().zip(self.k1) {
                *byte ^= k;
            }
            let mut block = block.into();
            self.aes.encrypt_block(&mut block);
            half.copy_from_slice(&block);
        }
        let mut short = [0u8; 12];
        short.copy_from_slice(&nonce[12..]);
        (Secret32::from_bytes(key), short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes_gcm::Aes256Gcm;
    use aes_gcm::aead::{Aead, Payload};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The two vectors of the specification: one for each branch of the doubling.
    #[test]
    fn c2sp_vectors() {
        let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        for (byte, aad, expected) in [
            (1u8, &b""[..], "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
        ] {
            let (key, short) = XaesKey::new(&Secret32::from_bytes([byte; 32])).message_key(nonce);
            let cipher = Aes256Gcm::new(key.expose().into());
            let sealed = cipher.encrypt(&short.into(), Payload { msg: b"XAES-256-GCM", aad }).unwrap();
            assert_eq!(hex(&sealed), expected);
        }
    }
}
