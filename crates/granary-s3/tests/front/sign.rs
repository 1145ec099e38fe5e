//! SigV4 and SigV2 by the book, apart from s3s's: a second opinion.

use base64::Engine as _;
use sha2::{Digest, Sha256};

pub const REGION: &str = "us-east-1";

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::digest([&block.map(|b| b ^ 0x36)[..], message].concat());
    Sha256::digest([&block.map(|b| b ^ 0x5c)[..], &inner[..]].concat()).to_vec()
}

pub fn hmac_sha1(key: &[u8], message: &[u8]) -> Vec<u8> {
    use sha1::Sha1;
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha1::digest([&block.map(|b| b ^ 0x36)[..], message].concat());
    Sha1::digest([&block.map(|b| b ^ 0x5c)[..], &inner[..]].concat()).to_vec()
}

pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// `20260101T000000Z` of so many seconds since the epoch.
pub fn amz_date(secs: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(secs).unwrap()).unwrap();
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

pub fn scope(date: &str) -> String {
    format!("{}/{REGION}/s3/aws4_request", &date[..8])
}

fn signing_key(secret: &str, date: &str) -> Vec<u8> {
    let key = hmac_sha256(format!("AWS4{secret}").as_bytes(), &date.as_bytes()[..8]);
    let key = hmac_sha256(&key, REGION.as_bytes());
    let key = hmac_sha256(&key, b"s3");
    hmac_sha256(&key, b"aws4_request")
}

/// Signs a canonical request: the signature in hex.
pub fn v4(secret: &str, date: &str, canonical: &str) -> String {
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{}\n{}", scope(date), sha256_hex(canonical.as_bytes()));
    hex(&hmac_sha256(&signing_key(secret, date), to_sign.as_bytes()))
}

/// Signs a chunk.
pub fn v4_chunk(secret: &str, date: &str, previous: &str, chunk: &[u8]) -> String {
    let to_sign = format!(
        "AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{}\n{previous}\n{}\n{}",
        scope(date),
        sha256_hex(b""),
        sha256_hex(chunk)
    );
    hex(&hmac_sha256(&signing_key(secret, date), to_sign.as_bytes()))
}

/// Signs trailers (`name:value\n` each).
pub fn v4_trailer(secret: &str, date: &str, previous: &str, trailers: &str) -> String {
    let to_sign =
        format!("AWS4-HMAC-SHA256-TRAILER\n{date}\n{}\n{previous}\n{}", scope(date), sha256_hex(trailers.as_bytes()));
    hex(&hmac_sha256(&signing_key(secret, date), to_sign.as_bytes()))
}
