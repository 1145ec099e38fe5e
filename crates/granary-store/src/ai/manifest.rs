//! The manifest of a frozen dataset: JSON lines, first what it is, then one line per object in key order, last the sums.
//!
//! Its bytes are signed as they are; a second file beside it holds the signature, so that both can be checked without
//! this node (`docs/ai.md` has the format in full).

use granary_crypto::Signer;
use granary_types::hex;
use granary_types::limits::LIST_KEYS_MAX;
use serde::{Deserialize, Serialize};

/// The format's number.
pub const FORMAT: u32 = 1;
/// What a signature of a manifest is made for.
pub const PURPOSE: &str = "granary dataset v1";
/// Bytes of one line, at most.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Sources that a dataset may name, at most.
pub const SOURCES_MAX: usize = LIST_KEYS_MAX as usize;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub granary_dataset: u32,
    /// Bucket.
    pub bucket: String,
    /// Prefix.
    pub prefix: String,
    /// When the prefix was frozen: microseconds since 1970.
    pub frozen_us: u64,
    /// What it was made from.
    pub sources: Vec<Source>,
}

/// A dataset that another one was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Bucket.
    pub bucket: String,
    /// Prefix.
    pub prefix: String,
    /// SHA-256 of its manifest, in hex.
    pub manifest_sha256: String,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Key.
    pub key: String,
    /// Version, where the bucket has versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Bytes.
    pub size: u64,
    /// ETag, without quotes.
    pub etag: String,
    /// Checksum of the whole object, as `ALGORITHM=base64`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checksum: Option<String>,
    /// Samples in it.
    pub samples: u64,
    /// Whether the samples are groups of a tar file's members.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub shard: bool,
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sums {
    /// Objects.
    pub objects: u64,
    /// Bytes of them together.
    pub bytes: u64,
    /// Samples in them together.
    pub samples: u64,
}

/// The file beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureFile {
    /// `Ed25519`.
    pub algorithm: String,
    /// What the signature is made for: the first line of what is signed.
    pub purpose: String,
    /// SHA-256 of the manifest, in hex: the second line of what is signed.
    pub manifest_sha256: String,
    /// The public key, in hex.
    pub public_key: String,
    /// The signature, in hex.
    pub signature: String,
}

impl SignatureFile {
    /// Signs a manifest.
    #[must_use]
    pub fn new(signer: &Signer, manifest_sha256: &[u8; 32]) -> Self {
        let sha256 = hex::encode(manifest_sha256);
        let signature = hex::encode(signer.sign(PURPOSE, sha256.as_bytes()));
        Self {
            algorithm: "Ed25519".to_owned(),
            purpose: PURPOSE.to_owned(),
            manifest_sha256: sha256,
            public_key: hex::encode(signer.public_key()),
            signature,
        }
    }

    /// What is wrong with it, for a manifest with this SHA-256 and, where one is expected, this public key (in hex).
    ///
    /// # Errors
    /// A sentence that says it.
    pub fn check(&self, manifest_sha256: &[u8; 32], public_key: Option<&str>) -> Result<(), String> {
        if self.algorithm != "Ed25519" || self.purpose != PURPOSE {
            return Err(format!(
                "the signature is {} for `{}`, not Ed25519 for `{PURPOSE}`",
                self.algorithm, self.purpose
            ));
        }
        let sha256 = hex::encode(manifest_sha256);
        if self.manifest_sha256 != sha256 {
            return Err(format!(
                "the signature is of a manifest with SHA-256 {}, this one has {sha256}",
                self.manifest_sha256
            ));
        }
        if public_key.is_some_and(|expected| !expected.eq_ignore_ascii_case(&self.public_key)) {
            return Err(format!("the signature is by the key {}, which is not the one expected", self.public_key));
        }
        let (Some(key), Some(signature)) = (hex::decode(&self.public_key), hex::decode(&self.signature)) else {
            return Err("the public key or the signature is not hex".to_owned());
        };
        if !granary_crypto::is_signature(&key, PURPOSE, sha256.as_bytes(), &signature) {
            return Err("the signature is not one of this manifest".to_owned());
        }
        Ok(())
    }
}

/// One line of a manifest that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The first.
    Head(Head),
    /// An object.
    Object(Line),
    /// The last.
    Sums(Sums),
}

/// Takes a manifest's bytes as they come and gives out its lines, checking their order and sums.
#[derive(Debug, Default)]
pub struct Reader {
    rest: Vec<u8>,
    head: bool,
    seen: Sums,
    last_key: Option<String>,
    ended: bool,
}

impl Reader {
    /// Takes bytes; calls `each` with every line that is whole.
    ///
    /// # Errors
    /// What is wrong with the manifest.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Entry)) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(end) = self.rest[from..].iter().position(|byte| *byte == b'\n') {
            let line = self.rest[from..from + end].to_vec();
            from += end + 1;
            each(self.line(&line)?);
        }
        self.rest.drain(..from);
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(format!("a line of the manifest is longer than {LINE_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    /// The manifest has ended; its sums.
    ///
    /// # Errors
    /// If it has not.
    pub fn finish(self) -> Result<Sums, String> {
        if self.ended && self.rest.is_empty() { Ok(self.seen) } else { Err("the manifest is cut short".to_owned()) }
    }

    fn line(&mut self, line: &[u8]) -> Result<Entry, String> {
        let bad = |error: serde_json::Error| format!("a line of the manifest cannot be read: {error}");
        if self.ended {
            return Err("the manifest goes on behind its sums".to_owned());
        }
        if !self.head {
            let head: Head = serde_json::from_slice(line).map_err(bad)?;
            if head.granary_dataset != FORMAT {
                return Err(format!("the manifest has format {}, this program knows {FORMAT}", head.granary_dataset));
            }
            self.head = true;
            return Ok(Entry::Head(head));
        }
        if let Ok(sums) = serde_json::from_slice::<Sums>(line) {
            self.ended = true;
            if sums != self.seen {
                return Err("the sums at the end of the manifest are not those of its lines".to_owned());
            }
            return Ok(Entry::Sums(sums));
        }
        let line: Line = serde_json::from_slice(line).map_err(bad)?;
        if self.last_key.as_ref().is_some_and(|last| *last >= line.key) {
            return Err(format!("the keys of the manifest are not in order at {}", line.key));
        }
        self.last_key = Some(line.key.clone());
        self.seen.objects += 1;
        self.seen.bytes = self.seen.bytes.saturating_add(line.size);
        self.seen.samples = self.seen.samples.saturating_add(line.samples);
        Ok(Entry::Object(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> String {
        let head = Head {
            granary_dataset: 1,
            bucket: "b".into(),
            prefix: "p/".into(),
            frozen_us: 1,
            sources: vec![Source { bucket: "r".into(), prefix: "q/".into(), manifest_sha256: "00".into() }],
        };
        let line = |key: &str| Line {
            key: key.into(),
            version: None,
            size: 5,
            etag: "e".into(),
            checksum: None,
            samples: 1,
            shard: false,
        };
        let text = |value: &dyn erased::Json| value.text();
        [text(&head), text(&line("p/a")), text(&line("p/b")), text(&Sums { objects: 2, bytes: 10, samples: 2 })]
            .map(|line| line + "\n")
            .concat()
    }

    mod erased {
        pub(super) trait Json {
            fn text(&self) -> String;
        }
        impl<T: serde::Serialize> Json for T {
            fn text(&self) -> String {
                serde_json::to_string(self).unwrap()
            }
        }
    }

    fn read(text: &str, step: usize) -> Result<usize, String> {
        let (mut reader, mut lines) = (Reader::default(), 0);
        for piece in text.as_bytes().chunks(step) {
            reader.feed(piece, |_| lines += 1)?;
        }
        reader.finish().map(|_| lines)
    }

    #[test]
    fn manifests_are_read_whole_or_refused() {
        let text = manifest();
        for step in [1, 7, 1000] {
            assert_eq!(read(&text, step), Ok(4));
        }
        assert!(read(&text[..text.len() - 1], 100).is_err());
        assert!(read(&text.replace("\"size\":5", "\"size\":6"), 100).is_err());
        assert!(read(&text.replace("p/b", "p/a"), 100).is_err());
        assert!(read(&text.replace("\"granary_dataset\":1", "\"granary_dataset\":2"), 100).is_err());
        assert!(read(&(text.clone() + "{}\n"), 100).is_err());
        assert!(read(&format!("{text}{}", "x".repeat(LINE_BYTES_MAX + 1)), 4096).is_err());
    }

    #[test]
    fn signatures_are_checked_against_everything() {
        let signer = Signer::generate().unwrap();
        let file = SignatureFile::new(&signer, &[7; 32]);
        assert_eq!(file.check(&[7; 32], None), Ok(()));
        assert_eq!(file.check(&[7; 32], Some(&hex::encode(signer.public_key()))), Ok(()));
        assert!(file.check(&[8; 32], None).is_err());
        assert!(file.check(&[7; 32], Some(&hex::encode([1; 32]))).is_err());
        let other = SignatureFile::new(&Signer::generate().unwrap(), &[7; 32]);
        assert!(SignatureFile { signature: other.signature.clone(), ..file.clone() }.check(&[7; 32], None).is_err());
        assert!(SignatureFile { manifest_sha256: hex::encode([9; 32]), ..file }.check(&[9; 32], None).is_err());
        assert_eq!(hex::decode("0aF"), None);
        assert_eq!(hex::decode("0aFf"), Some(vec![10, 255]));
    }
}
