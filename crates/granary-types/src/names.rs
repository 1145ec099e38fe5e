//! Bucket names and keys, validated once at the edge and trusted after.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::KEY_BYTES_MAX;

/// The bucket that sealed audit segments lie in. The node alone writes it.
pub const AUDIT_BUCKET: &str = "granary-audit";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a bucket name.
    #[error("`{name}` is not a bucket name: {rule}")]
    Bucket {
        /// The refused name, cut to 80 characters.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Empty key.
    #[error("an object key must not be empty")]
    KeyEmpty,
    /// Key over 1,024 bytes.
    #[error("an object key may be at most 1024 bytes of UTF-8; this one has {0}")]
    KeyTooLong(usize),
    /// Key has a NUL.
    #[error("an object key must not contain a NUL character")]
    KeyNul,
}

/// A valid general-purpose bucket name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketName(String);

impl BucketName {
    /// Checks the rules of
    /// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
    ///
    /// # Errors
    /// [`NameError::Bucket`], naming the broken rule.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let refuse = |rule| Err(NameError::Bucket { name: name.chars().take(80).collect(), rule });
        if !(3..=63).contains(&name.len()) {
            return refuse("3 to 63 characters");
        }
        if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
            return refuse("lower-case letters, digits, `-` and `.` only");
        }
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        if !edge(bytes[0]) || !edge(bytes[bytes.len() - 1]) {
            return refuse("begins and ends with a letter or digit");
        }
        if name.contains("..") {
            return refuse("no two dots side by side");
        }
        if name.parse::<std::net::Ipv4Addr>().is_ok() {
            return refuse("not formatted as an IP address");
        }
        if name.starts_with("xn--") || name.ends_with("-s3alias") {
            return refuse("no reserved prefix or suffix");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid object key: 1 to 1,024 bytes of UTF-8 without NUL. Any other character is allowed; `/`,
/// `//`, `.` and `..` mean nothing special.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks length and characters.
    ///
    /// # Errors
    /// [`NameError`], saying what is wrong.
    pub fn new(key: impl Into<String>) -> Result<Self, NameError> {
        let key = key.into();
        match key.len() {
            0 => Err(NameError::KeyEmpty),
            n if n > KEY_BYTES_MAX => Err(NameError::KeyTooLong(n)),
            _ if key.contains('\0') => Err(NameError::KeyNul),
            _ => Ok(Self(key)),
        }
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key, given away.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_rules() {
        for good in ["abc", "my-bucket", "a.b.c", "0abc", "raw-data-2026"] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        for bad in ["ab", "A-b-c", "-abc", "abc-", "a..b", "192.168.1.1", "xn--abc", "a_b", "ü-bucket"] {
            assert!(BucketName::new(bad).is_err(), "{bad}");
        }
        assert!(BucketName::new(&"a".repeat(63)).is_ok());
        assert!(BucketName::new(&"a".repeat(64)).is_err());
    }

    #[test]
    fn key_rules() {
        assert!(ObjectKey::new("a//b/../c.").is_ok());
        assert!(ObjectKey::new("é".repeat(512)).is_ok());
        assert_eq!(ObjectKey::new("é".repeat(513)), Err(NameError::KeyTooLong(1026)));
        assert_eq!(ObjectKey::new(""), Err(NameError::KeyEmpty));
        assert_eq!(ObjectKey::new("a\0b"), Err(NameError::KeyNul));
    }
}
