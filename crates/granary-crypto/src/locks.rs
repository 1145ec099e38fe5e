//! What locks a part's data key beside the bucket key: nothing (SSE-S3), a named key of the key provider
//! (SSE-KMS), or a key that the client brings with every request (SSE-C).
//!
//! The data key is wrapped by the lock first and by the bucket key around that, so that neither of the two
//! opens it alone, a bucket key can be rotated without the client's key, and a destroyed bucket key takes
//! everything with it. An inner wrap is 72 bytes: nonce (24) ‖ ciphertext (32) ‖ tag (16), XAES-256-GCM.

use std::fmt;
use std::sync::Arc;

use granary_types::{PartId, WrappedKey};
use subtle::ConstantTimeEq as _;

use crate::error::{CryptoError, OpenError, Result};
use crate::keys::{unwrap_bytes, wrap_bytes};
use crate::locked::Locked;
use crate::provider::KeyProvider;
use crate::secret::{Secret32, fill_random};
use crate::xaes::{XNONCE_BYTES, XaesKey};

/// A key that a client brings with a request (SSE-C), and what is kept of it: its MD5, in base64. Lives as long
/// as the request.
#[derive(Clone)]
pub struct CustomerKey {
    secret: Arc<Secret32>,
    md5: String,
}

impl CustomerKey {
    /// The key, and its MD5 in base64, which the caller has verified.
    #[must_use]
    pub fn new(secret: Secret32, md5: String) -> Self {
        Self { secret: Arc::new(secret), md5 }
    }

    /// Base64 of the key's MD5: the only part of it that is ever stored or shown.
    #[must_use]
    pub fn md5(&self) -> &str {
        &self.md5
    }

    /// Whether `md5` is this key's, in constant time.
    #[must_use]
    pub fn is(&self, md5: &str) -> bool {
        self.md5.as_bytes().ct_eq(md5.as_bytes()).into()
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(..)")
    }
}

/// A named key of the key provider (SSE-KMS), opened.
pub struct KmsKey {
    id: String,
    secret: Locked,
}

impl KmsKey {
    /// A fresh one.
    #[must_use]
    pub fn generate(id: &str) -> Self {
        Self { id: id.to_owned(), secret: Locked::new(Secret32::random()) }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Wraps it under the root key.
    ///
    /// # Errors
    /// The provider's.
    pub fn wrap(&self, provider: &dyn KeyProvider) -> Result<WrappedKey> {
        provider.wrap(&kms_context(&self.id), &self.secret.get())
    }

    /// Opens a wrapped one. May block where the provider is a device or a service.
    ///
    /// # Errors
    /// The provider's; [`CryptoError::Open`] if it is another key's.
    pub fn unwrap(provider: &dyn KeyProvider, id: &str, wrapped: &WrappedKey) -> Result<Self> {
        Ok(Self { id: id.to_owned(), secret: Locked::new(provider.unwrap(&kms_context(id), wrapped)?) })
    }
}

impl fmt::Debug for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsKey").field("id", &self.id).finish_non_exhaustive()
    }
}

fn kms_context(id: &str) -> Vec<u8> {
    [&b"granary kms key "[..], id.as_bytes()].concat()
}

/// What a data key is locked with beside the bucket key.
#[derive(Debug, Clone, Copy)]
pub enum Lock<'a> {
    /// Nothing (SSE-S3).
    None,
    /// A named key; `context` is authenticated (SSE-KMS).
    Kms {
        /// The key.
        key: &'a KmsKey,
        /// Encryption context, as the client sent it; empty where it sent none.
        context: &'a str,
    },
    /// The client's key (SSE-C).
    Customer(&'a CustomerKey),
}

/// Kinds, as written before the inner wrap.
const KIND_NONE: u8 = 0;
const KIND_KMS: u8 = 1;
const KIND_CUSTOMER: u8 = 2;

impl Lock<'_> {
    /// Kind ‖ the key, locked.
    pub(crate) fn close(&self, key: &Secret32, part: PartId) -> zeroize::Zeroizing<Vec<u8>> {
        let mut out = zeroize::Zeroizing::new(Vec::with_capacity(1 + XNONCE_BYTES + 48));
        let Some((kind, xaes, aad)) = self.wrapping(part) else {
            out.push(KIND_NONE);
            out.extend_from_slice(key.expose());
            return out;
        };
        let mut nonce = [0u8; XNONCE_BYTES];
        fill_random(&mut nonce);
        let (message_key, short) = xaes.message_key(&nonce);
        out.push(kind);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&wrap_bytes(&message_key, short, &aad, key));
        out
    }

    /// The inverse. A lock that is not the one it was closed with is [`CryptoError::WrongKey`].
    pub(crate) fn open(&self, closed: &[u8], part: PartId) -> Result<Secret32> {
        let format = || CryptoError::Format { what: "data key", why: "cut short".into() };
        let (&kind, inner) = closed.split_first().ok_or_else(format)?;
        let Some((wanted, xaes, aad)) = self.wrapping(part) else {
            if kind != KIND_NONE {
                return Err(CryptoError::WrongKey);
            }
            let bytes = zeroize::Zeroizing::new(<[u8; 32]>::try_from(inner).map_err(|_| format())?);
            return Ok(Secret32::from_bytes(*bytes));
        };
        if kind != wanted {
            return Err(CryptoError::WrongKey);
        }
        let (nonce, sealed) = inner.split_first_chunk::<XNONCE_BYTES>().ok_or_else(format)?;
        let (message_key, short) = xaes.message_key(nonce);
        unwrap_bytes(&message_key, short, &aad, sealed).map_err(|OpenError| CryptoError::WrongKey)
    }

    /// Kind, key and additional data of the inner wrap; `None` where there is none.
    fn wrapping(&self, part: PartId) -> Option<(u8, XaesKey, Vec<u8>)> {
        match self {
            Lock::None => None,
            Lock::Kms { key, context } => {
                let id_bytes = (key.id.len() as u64).to_le_bytes();
                let parts: [&[u8]; 5] =
                    [b"granary kms data key", part.as_bytes(), &id_bytes, key.id.as_bytes(), context.as_bytes()];
                Some((KIND_KMS, XaesKey::new(&key.secret.get()), parts.concat()))
            }
            // The customer's key itself is never used as a cipher key: it may be in use elsewhere.
            Lock::Customer(key) => {
                let derived = key.secret.derive("granary sse-c", part.as_bytes());
                Some((KIND_CUSTOMER, XaesKey::new(&derived), b"granary customer data key".to_vec()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::MemoryKeyProvider;

    const PART: PartId = PartId([7; 16]);

    fn customer(byte: u8) -> CustomerKey {
        CustomerKey::new(Secret32::from_bytes([byte; 32]), format!("md5-{byte}"))
    }

    #[test]
    fn a_lock_opens_with_the_key_that_closed_it_only() {
        let (kms, other_kms) = (KmsKey::generate("a"), KmsKey::generate("a"));
        let (mine, yours) = (customer(1), customer(2));
        let locks = [
            Lock::None,
            Lock::Kms { key: &kms, context: "" },
            Lock::Kms { key: &kms, context: "e30=" },
            Lock::Kms { key: &other_kms, context: "" },
            Lock::Customer(&mine),
            Lock::Customer(&yours),
        ];
        let key = Secret32::random();
        for (i, closing) in locks.iter().enumerate() {
            let closed = closing.close(&key, PART);
            for (j, opening) in locks.iter().enumerate() {
                assert_eq!(opening.open(&closed, PART).is_ok_and(|opened| opened == key), i == j, "{i} {j}");
            }
            if i > 0 {
                assert!(closing.open(&closed, PartId([8; 16])).is_err(), "another part's");
            }
            assert!(closing.open(&closed[..closed.len() - 1], PART).is_err());
            assert!(closing.open(&[], PART).is_err());
        }
    }

    #[test]
    fn a_named_key_is_wrapped_under_its_name() {
        let provider = MemoryKeyProvider::generate();
        let key = KmsKey::generate("invoices");
        let wrapped = key.wrap(&provider).unwrap();
        assert_eq!(KmsKey::unwrap(&provider, "invoices", &wrapped).unwrap().secret.get(), key.secret.get());
        assert!(KmsKey::unwrap(&provider, "payroll", &wrapped).is_err());
        assert!(!format!("{key:?} {:?}", customer(3)).contains("secret: Secret32(["));
    }

    #[test]
    fn a_customer_key_knows_its_md5() {
        assert!(customer(1).is("md5-1") && !customer(1).is("md5-2") && !customer(1).is(""));
    }
}
