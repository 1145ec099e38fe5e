//! Byte ranges: what a client asked for, and what that means for an object of a known size.
//! RFC 9110 section 14; S3 serves single ranges only.

/// What the client asked for, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// `bytes=first-last`, inclusive; `last` open when `None`.
    From {
        /// First byte wanted.
        first: u64,
        /// Last byte wanted, inclusive.
        last: Option<u64>,
    },
    /// `bytes=-n`: the last `n` bytes.
    Suffix(u64),
}

/// Bytes `start..end` of a payload; never empty, never past its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// The whole of a payload of `size` bytes (empty when `size` is 0).
    #[must_use]
    pub const fn whole(size: u64) -> Self {
        Self { start: 0, end: size }
    }
}

impl RangeSpec {
    /// The bytes meant, for a payload of `size` bytes; `None` where S3 answers 416 `InvalidRange`.
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<ByteRange> {
        match self {
            Self::From { first, last } => {
                if first >= size || last.is_some_and(|last| last < first) {
                    return None;
                }
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                Some(ByteRange { start: first, end })
            }
            Self::Suffix(n) => {
                if n == 0 || size == 0 {
                    return None;
                }
                Some(ByteRange { start: size.saturating_sub(n), end: size })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_as_rfc_9110_says() {
        let from = |first, last| RangeSpec::From { first, last };
        assert_eq!(from(0, Some(0)).resolve(10), Some(ByteRange { start: 0, end: 1 }));
        assert_eq!(from(5, None).resolve(10), Some(ByteRange { start: 5, end: 10 }));
        assert_eq!(from(5, Some(u64::MAX)).resolve(10), Some(ByteRange { start: 5, end: 10 }));
        assert_eq!(from(10, None).resolve(10), None);
        assert_eq!(from(6, Some(5)).resolve(10), None);
        assert_eq!(RangeSpec::Suffix(3).resolve(10), Some(ByteRange { start: 7, end: 10 }));
        assert_eq!(RangeSpec::Suffix(30).resolve(10), Some(ByteRange { start: 0, end: 10 }));
        assert_eq!(RangeSpec::Suffix(0).resolve(10), None);
        assert_eq!(RangeSpec::Suffix(3).resolve(0), None);
    }
}
