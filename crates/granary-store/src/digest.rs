//! The digests taken of a payload on its way in, and the claims they are checked against.

use bytes::Bytes;
use granary_meta::records::EtagMode;
use granary_types::hex;
use granary_types::md5::Md5;
use granary_types::{Checksum, ChecksumAlgorithm, ChecksumHasher, PartId};

use crate::api::{Claims, Result};
use crate::error::StoreError;
use crate::md5_farm::{Md5Farm, Md5Stream};

/// Bodies up to this are digested where they are: handing them over costs more than it spares.
const OWN_MD5_BYTES_MAX: u64 = 64 * 1024;

/// Running digests of one payload.
pub(crate) struct Digests {
    md5: Md5Way,
    checksum: ChecksumHasher,
    hidden: bool,
}

enum Md5Way {
    None,
    Own(Md5),
    Farm(Md5Stream),
}

/// The finished digests.
pub(crate) struct Digested {
    /// MD5, where it was needed.
    pub(crate) md5: Option<[u8; 16]>,
    /// The checksum that is stored.
    pub(crate) checksum: Checksum,
    /// The ETag must not tell of the payload.
    hidden: bool,
}

impl Digests {
    /// Takes the digests that the claims and the ETag need, and no others. Where the client names no
    /// algorithm S3 stores a CRC-64/NVME. `hidden`: the ETag must not tell of the payload, as S3 has it for SSE-KMS
    /// and SSE-C.
    pub(crate) fn new(claims: &Claims, etag: EtagMode, hidden: bool, size_bytes: u64, farm: &Md5Farm) -> Self {
        let algorithm = claims
            .checksum
            .as_ref()
            .map(|checksum| checksum.algorithm)
            .or(claims.algorithm)
            .unwrap_or(ChecksumAlgorithm::Crc64nvme);
        let md5 = if (etag != EtagMode::Md5 || hidden) && claims.md5.is_none() {
            Md5Way::None
        } else if size_bytes <= OWN_MD5_BYTES_MAX {
            Md5Way::Own(Md5::new())
        } else {
            farm.begin().map_or_else(|| Md5Way::Own(Md5::new()), Md5Way::Farm)
        };
        Self { md5, checksum: ChecksumHasher::new(algorithm), hidden }
    }

    /// Takes in payload for the MD5.
    pub(crate) async fn update_md5(&mut self, frame: &Bytes) {
        match &mut self.md5 {
            Md5Way::None => {}
            Md5Way::Own(md5) => md5.update(frame),
            Md5Way::Farm(stream) => stream.update(frame.clone()).await,
        }
    }

    /// Takes in the same payload for the checksum, in pieces, while they are warm.
    pub(crate) fn update_checksum(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
    }

    /// Ends the digests and checks every claim: header checksum, trailer checksum, `Content-MD5`.
    ///
    /// # Errors
    /// `BadDigest` or `BadChecksum`.
    pub(crate) async fn finish(self, claims: Claims) -> Result<Digested> {
        let md5 = match self.md5 {
            Md5Way::None => None,
            Md5Way::Own(md5) => Some(md5.finish()),
            Md5Way::Farm(stream) => {
                let gone = || StoreError::Unavailable("the node is shutting down".to_owned());
                Some(stream.finish().await.ok_or_else(gone)?)
            }
        };
        let checksum = self.checksum.finish();
        if claims.md5.is_some() && claims.md5 != md5 {
            return Err(StoreError::BadDigest);
        }
        let trailer = match claims.trailer {
            Some(read) => read()?,
            None => None,
        };
        for claimed in [claims.checksum, trailer].into_iter().flatten() {
            if claimed != checksum {
                return Err(StoreError::BadChecksum { algorithm: claimed.algorithm });
            }
        }
        Ok(Digested { md5, checksum, hidden: self.hidden })
    }
}

impl Digested {
    /// The ETag of a plain object (`-1` behind an opaque one, so that no client takes it for an MD5) .
    pub(crate) fn object_etag(&self, mode: EtagMode, part: PartId) -> String {
        match (mode, self.md5) {
            (EtagMode::Md5, _) if self.hidden => part.to_string(),
            (EtagMode::Md5, Some(md5)) => hex::encode(md5),
            _ => format!("{part}-1"),
        }
    }

    /// The ETag of a part.
    pub(crate) fn part_etag(&self, mode: EtagMode, part: PartId) -> String {
        match (mode, self.md5) {
            (EtagMode::Md5, Some(md5)) if !self.hidden => hex::encode(md5),
            _ => part.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims { md5: None, checksum: None, algorithm: None, trailer: None }
    }

    fn digest(claims: Claims, etag: EtagMode) -> Result<Digested> {
        let of = |claims: Claims, size_bytes| async move {
            let mut digests = Digests::new(&claims, etag, false, size_bytes, &Md5Farm::start());
            for piece in [&b"1234"[..], &b"56789"[..]] {
                digests.update_md5(&Bytes::from_static(piece)).await;
                digests.update_checksum(piece);
            }
            digests.finish(claims).await
        };
        if claims.trailer.is_some() {
            return futures::executor::block_on(of(claims, 9));
        }
        let again =
            Claims { md5: claims.md5, checksum: claims.checksum.clone(), algorithm: claims.algorithm, trailer: None };
        let (here, there) =
            (futures::executor::block_on(of(claims, 9)), futures::executor::block_on(of(again, 1 << 20)));
        match (&here, &there) {
            (Ok(here), Ok(there)) => assert_eq!((here.md5, &here.checksum), (there.md5, &there.checksum)),
            (Err(_), Err(_)) => {}
            _ => panic!("the farm says otherwise"),
        }
        here
    }

    #[test]
    fn default_is_crc64nvme_and_md5_only_when_needed() {
        let digested = digest(claims(), EtagMode::Opaque).unwrap();
        assert_eq!(digested.checksum.algorithm, ChecksumAlgorithm::Crc64nvme);
        assert!(digested.md5.is_none());
        let digested = digest(claims(), EtagMode::Md5).unwrap();
        assert_eq!(digested.object_etag(EtagMode::Md5, PartId::random()), "25f9e794323b453885f5181f1b624d0b");
    }

    #[test]
    fn claims_are_checked() {
        assert!(matches!(
            digest(Claims { md5: Some([0; 16]), ..claims() }, EtagMode::Opaque),
            Err(StoreError::BadDigest)
        ));
        let wrong = Checksum::from_base64(ChecksumAlgorithm::Crc32, "AAAAAA==").unwrap();
        assert!(matches!(
            digest(Claims { checksum: Some(wrong.clone()), ..claims() }, EtagMode::Md5),
            Err(StoreError::BadChecksum { algorithm: ChecksumAlgorithm::Crc32 })
        ));
        let trailer = Claims {
            algorithm: Some(ChecksumAlgorithm::Crc32),
            trailer: Some(Box::new(move || Ok(Some(wrong)))),
            ..claims()
        };
        assert!(matches!(digest(trailer, EtagMode::Md5), Err(StoreError::BadChecksum { .. })));
        let right = Checksum::from_base64(ChecksumAlgorithm::Crc32, "y/Q5Jg==").unwrap();
        assert!(digest(Claims { checksum: Some(right), ..claims() }, EtagMode::Md5).is_ok());
    }
}
