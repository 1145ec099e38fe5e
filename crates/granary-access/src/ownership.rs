//! Two settings of a bucket that decide what its lists and policies may say: object ownership, and the public
//! access block. Their stored forms, and what holds where none is stored.
//!
//! **Nothing stored means what AWS gives a new bucket** (since April 2023): the bucket's owner owns everything and
//! lists mean nothing; all four blocks are on. An empty document means that the owner removed the setting.

/// Name of the bucket document that holds the ownership setting.
pub const OWNERSHIP_DOCUMENT: &str = "ownershipControls";
/// Name of the bucket document that holds the public access block.
pub const PUBLIC_ACCESS_DOCUMENT: &str = "publicAccessBlock";

/// Who owns objects that others write, and whether lists mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// The bucket's owner owns everything; lists mean nothing.
    #[default]
    BucketOwnerEnforced,
    /// The writer owns, unless it writes with `bucket-owner-full-control`.
    BucketOwnerPreferred,
    /// The writer owns.
    ObjectWriter,
}

impl Ownership {
    /// S3's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BucketOwnerEnforced => "BucketOwnerEnforced",
            Self::BucketOwnerPreferred => "BucketOwnerPreferred",
            Self::ObjectWriter => "ObjectWriter",
        }
    }

    /// By S3's name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::BucketOwnerEnforced, Self::BucketOwnerPreferred, Self::ObjectWriter]
            .into_iter()
            .find(|ownership| ownership.name() == name)
    }

    /// What is set, `None` where the owner removed the setting. A document that cannot be read enforces.
    #[must_use]
    pub fn shown(document: Option<&[u8]>) -> Option<Self> {
        match document {
            Some([]) => None,
            Some(name) => Some(std::str::from_utf8(name).ok().and_then(Self::from_name).unwrap_or_default()),
            None => Some(Self::default()),
        }
    }

    /// What holds. Without the setting, S3 lets the writer own.
    #[must_use]
    pub fn effective(document: Option<&[u8]>) -> Self {
        Self::shown(document).unwrap_or(Self::ObjectWriter)
    }

    /// Whether lists count at all.
    #[must_use]
    pub const fn has_acls(self) -> bool {
        !matches!(self, Self::BucketOwnerEnforced)
    }
}

/// The four switches against public access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // They are S3's.
pub struct PublicAccessBlock {
    /// Refuse requests that set public lists.
    pub block_public_acls: bool,
    /// Take grants to everybody for nothing.
    pub ignore_public_acls: bool,
    /// Refuse public policies.
    pub block_public_policy: bool,
    /// Under a public policy serve none but the owner's own users.
    pub restrict_public_buckets: bool,
}

impl PublicAccessBlock {
    /// All four: what a new bucket has.
    pub const ALL: Self = Self {
        block_public_acls: true,
        ignore_public_acls: true,
        block_public_policy: true,
        restrict_public_buckets: true,
    };

    /// What is set, `None` where the owner removed the setting. A document that cannot be read blocks everything.
    #[must_use]
    pub fn shown(document: Option<&[u8]>) -> Option<Self> {
        let bit = |flags: u8, n: u8| flags & (1 << n) != 0;
        match document {
            Some([]) => None,
            Some([flags @ 0..=15]) => Some(Self {
                block_public_acls: bit(*flags, 0),
                ignore_public_acls: bit(*flags, 1),
                block_public_policy: bit(*flags, 2),
                restrict_public_buckets: bit(*flags, 3),
            }),
            Some(_) | None => Some(Self::ALL),
        }
    }

    /// What holds.
    #[must_use]
    pub fn effective(document: Option<&[u8]>) -> Self {
        Self::shown(document).unwrap_or_default()
    }

    /// The document that holds it.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let switches =
            [self.block_public_acls, self.ignore_public_acls, self.block_public_policy, self.restrict_public_buckets];
        vec![switches.iter().enumerate().fold(0, |flags, (n, on)| flags | u8::from(*on) << n)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_bucket_is_closed_and_a_removed_setting_opens() {
        assert_eq!(Ownership::effective(None), Ownership::BucketOwnerEnforced);
        assert_eq!(Ownership::shown(Some(b"")), None);
        assert_eq!(Ownership::effective(Some(b"")), Ownership::ObjectWriter);
        assert_eq!(Ownership::effective(Some(b"garbage")), Ownership::BucketOwnerEnforced);
        assert_eq!(PublicAccessBlock::effective(None), PublicAccessBlock::ALL);
        assert_eq!(PublicAccessBlock::effective(Some(b"")), PublicAccessBlock::default());
        assert_eq!(PublicAccessBlock::effective(Some(b"garbage")), PublicAccessBlock::ALL);
    }

    #[test]
    fn settings_survive_their_documents() {
        for flags in 0..16 {
            let block = PublicAccessBlock::shown(Some(&[flags])).unwrap();
            assert_eq!(block.encode(), [flags]);
        }
        for name in ["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"] {
            assert_eq!(Ownership::effective(Some(name.as_bytes())).name(), name);
        }
    }
}
