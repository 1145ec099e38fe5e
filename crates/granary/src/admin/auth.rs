//! Signatures of admin requests: HMAC-SHA-256 with the root keys, or a user's, over everything the request says.
//!
//! ```text
//! Authorization: GRANARY1-HMAC-SHA256 Credential=<access key>, Time=<unix s>, Nonce=<32 hex>, Signature=<64 hex>
//! key       = HMAC(secret key, "granary admin v1")
//! signature = HMAC(key, scheme \n method \n path and query \n time \n nonce \n hex(SHA-256(body)))
//! ```
//! The secret never travels; a signature is good for one request, within [`SKEW_S_MAX`] of the node's clock.
//! Comparison takes constant time, and an unknown access key costs as much as a wrong signature. What a user's keys are good for is
//! not decided here.

use std::collections::HashMap;

use aws_lc_rs::{digest, hmac};
use granary_access::{RootKeys, Secret};
use granary_types::hex;
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
    #[error("the request was signed too far away from this node's clock")]
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
        let body = hex::encode(digest::digest(&digest::SHA256, self.body));
        format!("{SCHEME}\n{}\n{}\n{time_s}\n{nonce}\n{body}", self.method, self.path)
    }
}

/// The value of the `Authorization` header for a request.
pub(crate) fn sign(keys: &RootKeys, request: &Signed<'_>, time_s: u64) -> String {
    let nonce = hex::encode(rand::random::<[u8; 16]>());
    let signature = hmac::sign(&signing_key(keys.secret.expose()), request.message(time_s, &nonce).as_bytes());
    format!(
        "{SCHEME} Credential={}, Time={time_s}, Nonce={nonce}, Signature={}",
        keys.access_key,
        hex::encode(signature)
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
    skew_s: u64,
    seen: Mutex<HashMap<[u8; 16], u64>>,
}

impl Verifier {
    /// `skew_s`: seconds that the clocks may differ, where that is less than [`SKEW_S_MAX`].
    pub(crate) fn new(keys: &RootKeys, skew_s: u64) -> Self {
        let key = signing_key(keys.secret.expose());
        Self { access_key: keys.access_key.clone(), key, skew_s: skew_s.min(SKEW_S_MAX), seen: Mutex::default() }
    }

    /// Lets a request in or says why not. `secret_of`: the secrets of keys other than root's. Answers with the access key.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn verify<'a>(
        &self,
        header: Option<&'a str>,
        request: &Signed<'_>,
        now_s: u64,
        secret_of: impl FnOnce(&str) -> Option<Secret>,
    ) -> Result<Signer<'a>, Denied> {
        let header = header.ok_or(Denied::Unsigned)?;
        let claim = Claim::parse(header).ok_or(Denied::Malformed)?;
        let message = request.message(claim.time_s, claim.nonce_text);
        let is_root = aws_lc_rs::constant_time::verify_slices_are_equal(
            digest::digest(&digest::SHA256, claim.access_key.as_bytes()).as_ref(),
            digest::digest(&digest::SHA256, self.access_key.as_bytes()).as_ref(),
        )
        .is_ok();
        let other = secret_of(claim.access_key);
        let is_known = is_root | other.is_some();
        // Derived in any case, so that it takes as long whoever it is.
        let other = signing_key(other.as_ref().map_or("nobody's", Secret::expose));
        let key = if is_root { &self.key } else { &other };
        let genuine = hmac::verify(key, message.as_bytes(), &claim.signature).is_ok();
        if !(genuine & is_known) {
            return Err(Denied::Wrong);
        }
        if claim.time_s.abs_diff(now_s) > self.skew_s {
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
        Ok(Signer { access_key: claim.access_key, is_root })
    }
}

/// Who signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signer<'a> {
    /// With this key.
    pub(crate) access_key: &'a str,
    /// It is the root keys'.
    pub(crate) is_root: bool,
}

/// The access key that a header claims, where it is one.
pub(crate) fn claimed(header: Option<&str>) -> Option<&str> {
    header.and_then(Claim::parse).map(|claim| claim.access_key)
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
        let signature = hex::decode_array(field("Signature")?)?;
        if fields.next().is_some() {
            return None;
        }
        Some(Self { access_key, time_s, nonce_text, nonce: hex::decode_array(nonce_text)?, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &str) -> RootKeys {
        RootKeys { access_key: "AK".into(), secret: Secret::new(secret.into()).unwrap(), is_new: false }
    }

    const REQUEST: Signed<'static> = Signed { method: "POST", path: "/admin/v1/heal?deep=1", body: b"{}" };

    fn verify(verifier: &Verifier, header: Option<&str>, request: &Signed<'_>, now_s: u64) -> Result<(), Denied> {
        verifier
            .verify(header, request, now_s, |_| None)
            .map(|signer| assert!(signer.is_root && signer.access_key == "AK"))
    }

    #[test]
    fn a_users_keys_are_told_from_the_root_keys() {
        let verifier = Verifier::new(&keys("a-long-secret"), 900);
        let users = RootKeys { access_key: "ANN".into(), ..keys("anns-own-secret") };
        let header = sign(&users, &REQUEST, 1_000);
        let secret_of = |access_key: &str| (access_key == "ANN").then(|| users.secret.clone());
        assert_eq!(verifier.verify(Some(&header), &REQUEST, 1_000, |_| None), Err(Denied::Wrong));
        let signer = verifier.verify(Some(&header), &REQUEST, 1_000, secret_of).unwrap();
        assert_eq!((signer.access_key, signer.is_root), ("ANN", false));
        // The root access key with a user's secret is nobody's.
        let forged = sign(&RootKeys { access_key: "AK".into(), ..users.clone() }, &REQUEST, 1_000);
        let secret_of = |_: &str| Some(users.secret.clone());
        assert_eq!(verifier.verify(Some(&forged), &REQUEST, 1_000, secret_of), Err(Denied::Wrong));
        assert_eq!(claimed(Some(&header)), Some("ANN"));
    }

    #[test]
    fn a_signature_is_good_once() {
        let keys = keys("a-long-secret");
        let verifier = Verifier::new(&keys, 900);
        let header = sign(&keys, &REQUEST, 1_000);
        assert_eq!(verify(&verifier, Some(&header), &REQUEST, 1_100), Ok(()));
        assert_eq!(verify(&verifier, Some(&header), &REQUEST, 1_100), Err(Denied::Replayed));
    }

    #[test]
    fn everything_is_signed() {
        let keys = keys("a-long-secret");
        let verifier = Verifier::new(&keys, 900);
        for changed in [
            Signed { method: "GET", ..REQUEST },
            Signed { path: "/admin/v1/heal?deep=0", ..REQUEST },
            Signed { body: b"{ }", ..REQUEST },
        ] {
            let header = sign(&keys, &REQUEST, 1_000);
            assert_eq!(verify(&verifier, Some(&header), &changed, 1_000), Err(Denied::Wrong));
        }
        let header = sign(&keys, &REQUEST, 1_000);
        for changed in [header.replace("Time=1000", "Time=1001"), header.replace("Credential=AK", "Credential=AL")] {
            assert_eq!(verify(&verifier, Some(&changed), &REQUEST, 1_000), Err(Denied::Wrong));
        }
    }

    #[test]
    fn other_keys_other_times_and_other_forms_are_refused() {
        let verifier = Verifier::new(&keys("a-long-secret"), 900);
        let foreign = sign(&keys("another-secret"), &REQUEST, 1_000);
        assert_eq!(verify(&verifier, Some(&foreign), &REQUEST, 1_000), Err(Denied::Wrong));
        let header = sign(&keys("a-long-secret"), &REQUEST, 1_000);
        assert_eq!(verify(&verifier, Some(&header), &REQUEST, 1_301), Err(Denied::Stale));
        assert_eq!(verify(&verifier, Some(&header), &REQUEST, 699), Err(Denied::Stale));
        assert_eq!(verify(&verifier, None, &REQUEST, 1_000), Err(Denied::Unsigned));
        for bad in ["", "Basic QUs6", SCHEME, &format!("{header}, More=1"), &header[..header.len() - 1]] {
            assert_eq!(verify(&verifier, Some(bad), &REQUEST, 1_000), Err(Denied::Malformed), "{bad}");
        }
    }
}
