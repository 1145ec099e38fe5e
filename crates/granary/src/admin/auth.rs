//! Signatures of admin requests: HMAC-SHA-256 with the root keys over everything the request says.
//!
//! ```text
//! Authorization: GRANARY1-HMAC-SHA256 Credential=<access key>, Time=<unix s>, Nonce=<32 hex>, Signature=<64 hex>
//! key       = HMAC(secret key, "granary admin v1")
//! signature = HMAC(key, scheme \n method \n path and query \n time \n nonce \n hex(SHA-256(body)))
//! ```
//! The secret never travels; a signature is good for one request, within [`SKEW_S_MAX`] of the node's clock.
//! Comparison takes constant time, and an unknown access key costs as much as a wrong signature.

use std::collections::HashMap;
use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use granary_access::RootKeys;
use parking_lot::Mutex;

const SCHEME: &str = "GRANARY1-HMAC-SHA256";
/// Seconds that the two clocks may differ.
const SKEW_S_MAX: u64 = 300;
/// Nonces remembered at most; further requests are refused until some are too old to matter.
const NONCES_MAX: usize = 65_536;

/// Why a request was not let in. What the client is told is the same for all but the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No `Authorization` header.
    #[error("this needs the root keys: the request is not signed")]
    Unsigned,
    /// Not in the form above.
    #[error("the Authorization header is not a {SCHEME} signature")]
    Malformed,
    /// Unknown access key or wrong signature.
    #[error(
        "the signature is not the root keys': check GRANARY_ROOT_ACCESS_KEY and GRANARY_ROOT_SECRET_KEY, or --data"
    )]
    Wrong,
    /// Signed too long ago, or in the future.
    #[error("the request was signed more than {SKEW_S_MAX} s away from this node's clock")]
    Stale,
    /// Seen before.
    #[error("the request has been seen before")]
    Replayed,
    /// Too many requests within the time that nonces are remembered.
    #[error("too many signed requests; try again in some minutes")]
    TooMany,
}

/// What is signed of a request.
pub(crate) struct Signed<'a> {
    /// `GET`, `POST`.
    pub(crate) method: &'a str,
    /// Path with the query, as sent.
    pub(crate) path: &'a str,
    /// The whole body.
    pub(crate) body: &'a [u8],
}

impl Signed<'_> {
    fn message(&self, time_s: u64, nonce: &str) -> String {
        let body = hex(digest::digest(&digest::SHA256, self.body).as_ref());
        format!("{SCHEME}\n{}\n{}\n{time_s}\n{nonce}\n{body}", self.method, self.path)
    }
}

/// The value of the `Authorization` header for a request.
pub(crate) fn sign(keys: &RootKeys, request: &Signed<'_>, time_s: u64) -> String {
    let nonce = hex(&rand::random::<[u8; 16]>());
    let signature = hmac::sign(&signing_key(keys.secret.expose()), request.message(time_s, &nonce).as_bytes());
    format!(
        "{SCHEME} Credential={}, Time={time_s}, Nonce={nonce}, Signature={}",
        keys.access_key,
        hex(signature.as_ref())
    )
}

fn signing_key(secret: &str) -> hmac::Key {
    let outer = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&outer, b"granary admin v1").as_ref())
}

/// Checks signatures.
pub(crate) struct Verifier {
    access_key: String,
    key: hmac::Key,
    seen: Mutex<HashMap<[u8; 16], u64>>,
}

impl Verifier {
    pub(crate) fn new(keys: &RootKeys) -> Self {
        Self { access_key: keys.access_key.clone(), key: signing_key(keys.secret.expose()), seen: Mutex::default() }
    }

    /// Lets a request in or says why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn verify(&self, header: Option<&str>, request: &Signed<'_>, now_s: u64) -> Result<(), Denied> {
        let header = header.ok_or(Denied::Unsigned)?;
        let claim = Claim::parse(header).ok_or(Denied::Malformed)?;
        let message = request.message(claim.time_s, claim.nonce_text);
        let genuine = hmac::verify(&self.key, message.as_bytes(), &claim.signature).is_ok();
        let known = aws_lc_rs::constant_time::verify_slices_are_equal(
            digest::digest(&digest::SHA256, claim.access_key.as_bytes()).as_ref(),
            digest::digest(&digest::SHA256, self.access_key.as_bytes()).as_ref(),
        )
        .is_ok();
        if !(genuine & known) {
            return Err(Denied::Wrong);
        }
        if claim.time_s.abs_diff(now_s) > SKEW_S_MAX {
            return Err(Denied::Stale);
        }
        let mut seen = self.seen.lock();
        if seen.contains_key(&claim.nonce) {
            return Err(Denied::Replayed);
        }
        if seen.len() >= NONCES_MAX {
            seen.retain(|_, time_s| time_s.abs_diff(now_s) <= SKEW_S_MAX);
            if seen.len() >= NONCES_MAX {
                return Err(Denied::TooMany);
            }
        }
        seen.insert(claim.nonce, claim.time_s);
        Ok(())
    }
}

/// What a header claims.
struct Claim<'a> {
    access_key: &'a str,
    time_s: u64,
    nonce_text: &'a str,
    nonce: [u8; 16],
    signature: [u8; 32],
}

impl<'a> Claim<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let mut fields = header.strip_prefix(SCHEME)?.trim_start().split(", ");
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let access_key = field("Credential")?;
        let time_s = field("Time")?.parse().ok()?;
        let nonce_text = field("Nonce")?;
        let signature = unhex(field("Signature")?)?;
        if fields.next().is_some() {
            return None;
        }
        Some(Self { access_key, time_s, nonce_text, nonce: unhex(nonce_text)?, signature })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0u8; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_access::Secret;

    fn keys(secret: &str) -> RootKeys {
        RootKeys { access_key: "AK".into(), secret: Secret::new(secret.into()).unwrap(), is_new: false }
    }

    const REQUEST: Signed<'static> = Signed { method: "POST", path: "/admin/v1/heal?deep=1", body: b"{}" };

    #[test]
    fn a_signature_is_good_once() {
        let keys = keys("a-long-secret");
        let verifier = Verifier::new(&keys);
        let header = sign(&keys, &REQUEST, 1_000);
        assert_eq!(verifier.verify(Some(&header), &REQUEST, 1_100), Ok(()));
        assert_eq!(verifier.verify(Some(&header), &REQUEST, 1_100), Err(Denied::Replayed));
    }

    #[test]
    fn everything_is_signed() {
        let keys = keys("a-long-secret");
        let verifier = Verifier::new(&keys);
        for changed in [
            Signed { method: "GET", ..REQUEST },
            Signed { path: "/admin/v1/heal?deep=0", ..REQUEST },
            Signed { body: b"{ }", ..REQUEST },
        ] {
            let header = sign(&keys, &REQUEST, 1_000);
            assert_eq!(verifier.verify(Some(&header), &changed, 1_000), Err(Denied::Wrong));
        }
        let header = sign(&keys, &REQUEST, 1_000);
        for changed in [header.replace("Time=1000", "Time=1001"), header.replace("Credential=AK", "Credential=AL")] {
            assert_eq!(verifier.verify(Some(&changed), &REQUEST, 1_000), Err(Denied::Wrong));
        }
    }

    #[test]
    fn other_keys_other_times_and_other_forms_are_refused() {
        let verifier = Verifier::new(&keys("a-long-secret"));
        let foreign = sign(&keys("another-secret"), &REQUEST, 1_000);
        assert_eq!(verifier.verify(Some(&foreign), &REQUEST, 1_000), Err(Denied::Wrong));
        let header = sign(&keys("a-long-secret"), &REQUEST, 1_000);
        assert_eq!(verifier.verify(Some(&header), &REQUEST, 1_301), Err(Denied::Stale));
        assert_eq!(verifier.verify(Some(&header), &REQUEST, 699), Err(Denied::Stale));
        assert_eq!(verifier.verify(None, &REQUEST, 1_000), Err(Denied::Unsigned));
        for bad in ["", "Basic QUs6", SCHEME, &format!("{header}, More=1"), &header[..header.len() - 1]] {
            assert_eq!(verifier.verify(Some(bad), &REQUEST, 1_000), Err(Denied::Malformed), "{bad}");
        }
    }
}
