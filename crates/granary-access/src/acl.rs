//! Access control lists: grants, their compact encoding, what the canned names stand for, and whether a list
//! grants a permission to a caller.
//!
//! A list is kept whole (the owner's grant included, for S3 lets an owner take it away). Where none is kept, the
//! list is [`Acl::private`]. Whether lists mean anything for a bucket is [`crate::ownership`]'s; which permission an
//! operation needs, and what policies say beside it, is the authorisation's.

use std::fmt;

/// Grants in a list, at most (S3's limit).
pub const GRANTS_MAX: usize = 100;
/// Bytes of a canonical id that is kept. S3's have 64 hexadecimal digits.
const ID_BYTES_MAX: usize = 255;
/// First byte of an encoded list.
const FORMAT: u8 = 1;
/// The canonical user that `aws-exec-read` lets read (EC2's image bundles), as AWS documents it.
const EXEC_READER: &str = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c";

/// The account that CloudFront writes its logs with, as AWS documents it.
const LOG_WRITER: &str = "c4c1ede66af53448b93c283ce9448c4ba468c9432aa01d700d3878632f77d2d0";
/// Canonical ids that lists may name although nobody has them here.
pub(crate) const DOCUMENTED: [&str; 2] = [EXEC_READER, LOG_WRITER];

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grantee {
    /// A canonical user id.
    User(String),
    /// Everybody, signed or not.
    AllUsers,
    /// Everybody who signs.
    AuthenticatedUsers,
    /// The server's own delivery of access logs.
    LogDelivery,
}

impl Grantee {
    /// The group behind a URI as S3 writes them.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        match uri {
            ALL_USERS => Some(Self::AllUsers),
            AUTHENTICATED_USERS => Some(Self::AuthenticatedUsers),
            LOG_DELIVERY => Some(Self::LogDelivery),
            _ => None,
        }
    }

    /// The URI of a group; `None` for users.
    #[must_use]
    pub const fn uri(&self) -> Option<&'static str> {
        match self {
            Self::User(_) => None,
            Self::AllUsers => Some(ALL_USERS),
            Self::AuthenticatedUsers => Some(AUTHENTICATED_USERS),
            Self::LogDelivery => Some(LOG_DELIVERY),
        }
    }

    /// What S3 calls public: everybody, or everybody with any credentials.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        matches!(self, Self::AllUsers | Self::AuthenticatedUsers)
    }

    fn covers(&self, caller: Caller<'_>) -> bool {
        match (self, caller) {
            (Self::AllUsers, _) | (Self::LogDelivery, Caller::LogDelivery) => true,
            (Self::AuthenticatedUsers, caller) => !matches!(caller, Caller::Anonymous),
            (Self::User(id), Caller::User(caller)) => id == caller,
            _ => false,
        }
    }
}

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// List a bucket; read an object.
    Read,
    /// Create, overwrite and delete in a bucket. Means nothing on objects.
    Write,
    /// Read the list.
    ReadAcp,
    /// Replace the list.
    WriteAcp,
    /// All of these.
    FullControl,
}

impl Permission {
    /// All, in the order of their encoding.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::ReadAcp, Self::WriteAcp, Self::FullControl];

    /// S3's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::ReadAcp => "READ_ACP",
            Self::WriteAcp => "WRITE_ACP",
            Self::FullControl => "FULL_CONTROL",
        }
    }

    /// By S3's name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    fn covers(self, wanted: Self) -> bool {
        self == Self::FullControl || self == wanted
    }

    const fn index(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::ReadAcp => 2,
            Self::WriteAcp => 3,
            Self::FullControl => 4,
        }
    }
}

/// Who asks, as far as a list can tell callers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// An unsigned request.
    Anonymous,
    /// The canonical id of whoever signed.
    User(&'a str),
    /// The server itself, delivering access logs.
    LogDelivery,
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub grantee: Grantee,
    /// What.
    pub permission: Permission,
}

impl Grant {
    /// A grant to a canonical user.
    #[must_use]
    pub fn user(id: &str, permission: Permission) -> Self {
        Self { grantee: Grantee::User(id.to_owned()), permission }
    }

    const fn group(grantee: Grantee, permission: Permission) -> Self {
        Self { grantee, permission }
    }
}

/// Why a list cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// More than [`GRANTS_MAX`].
    #[error("an access control list has at most {GRANTS_MAX} grants")]
    TooMany,
    /// Not a canonical id.
    #[error("a canonical user id has 64 hexadecimal digits")]
    Id,
    /// A group that there is not.
    #[error("there is no such group")]
    Group,
    /// Grantees by e-mail address cannot be resolved.
    #[error("accounts have no e-mail addresses here")]
    Email,
    /// A header of grants that is not `type="value"` pairs.
    #[error("a grant header is a list of id=\"...\", uri=\"...\" or emailAddress=\"...\"")]
    Header,
    /// No such canned list.
    #[error("there is no such canned list")]
    Canned,
    /// Stored bytes that are no list: damage, or a newer version's.
    #[error("the stored access control list cannot be read")]
    Stored,
}

/// A list of grants.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Acl {
    grants: Vec<Grant>,
}

impl fmt::Debug for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.grants.iter().map(|g| (&g.grantee, g.permission.name()))).finish()
    }
}

impl Acl {
    /// A list of these grants, in this order, each once.
    ///
    /// # Errors
    /// [`AclError::TooMany`], and [`AclError::Id`] for ids that could not be kept.
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Result<Self, AclError> {
        let mut acl = Self::default();
        for grant in grants {
            if let Grantee::User(id) = &grant.grantee
                && (id.is_empty() || id.len() > ID_BYTES_MAX)
            {
                return Err(AclError::Id);
            }
            if !acl.grants.contains(&grant) {
                acl.grants.push(grant);
            }
            if acl.grants.len() > GRANTS_MAX {
                return Err(AclError::TooMany);
            }
        }
        Ok(acl)
    }

    /// What is so without a list: the owner has full control.
    #[must_use]
    pub fn private(owner: &str) -> Self {
        Self { grants: vec![Grant::user(owner, Permission::FullControl)] }
    }

    /// What a canned name stands for. `bucket_owner` differs from `owner` for objects only; for a bucket the two
    /// `bucket-owner-*` lists are private ones, as in S3.
    ///
    /// # Errors
    /// [`AclError::Canned`] for names that S3 does not have.
    pub fn canned(name: &str, owner: &str, bucket_owner: &str) -> Result<Self, AclError> {
        use Permission::{FullControl, Read, ReadAcp, Write};
        let mut acl = Self::private(owner);
        let more = match name {
            "private" => Vec::new(),
            "public-read" => vec![Grant::group(Grantee::AllUsers, Read)],
            "public-read-write" => {
                vec![Grant::group(Grantee::AllUsers, Read), Grant::group(Grantee::AllUsers, Write)]
            }
            "authenticated-read" => vec![Grant::group(Grantee::AuthenticatedUsers, Read)],
            "bucket-owner-read" if owner != bucket_owner => vec![Grant::user(bucket_owner, Read)],
            "bucket-owner-full-control" if owner != bucket_owner => vec![Grant::user(bucket_owner, FullControl)],
            "bucket-owner-read" | "bucket-owner-full-control" => Vec::new(),
            "log-delivery-write" => {
                vec![Grant::group(Grantee::LogDelivery, Write), Grant::group(Grantee::LogDelivery, ReadAcp)]
            }
            "aws-exec-read" => vec![Grant::user(EXEC_READER, Read)],
            _ => return Err(AclError::Canned),
        };
        acl.grants.extend(more);
        Ok(acl)
    }

    /// The grantees of a header such as `x-amz-grant-read`: `id="...", uri="...", emailAddress="..."`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn grantees_of_header(text: &str) -> Result<Vec<Grantee>, AclError> {
        let mut grantees = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (kind, value) = pair.split_once('=').ok_or(AclError::Header)?;
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            let grantee = match kind.trim() {
                kind if kind.eq_ignore_ascii_case("id") => Self::user_grantee(value)?,
                kind if kind.eq_ignore_ascii_case("uri") => Grantee::from_uri(value).ok_or(AclError::Group)?,
                kind if kind.eq_ignore_ascii_case("emailAddress") => return Err(AclError::Email),
                _ => return Err(AclError::Header),
            };
            grantees.push(grantee);
            if grantees.len() > GRANTS_MAX {
                return Err(AclError::TooMany);
            }
        }
        if grantees.is_empty() { Err(AclError::Header) } else { Ok(grantees) }
    }

    /// A grantee by canonical id, which must have the form of one.
    ///
    /// # Errors
    /// [`AclError::Id`].
    pub fn user_grantee(id: &str) -> Result<Grantee, AclError> {
        if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Grantee::User(id.to_ascii_lowercase()))
        } else {
            Err(AclError::Id)
        }
    }

    /// The grants, in order.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Whether the list grants this to the caller. With `ignore_public` (a public access block's
    /// `IgnorePublicAcls`) grants to everybody count for nothing.
    #[must_use]
    pub fn allows(&self, caller: Caller<'_>, wanted: Permission, ignore_public: bool) -> bool {
        self.grants.iter().any(|grant| {
            grant.permission.covers(wanted)
                && grant.grantee.covers(caller)
                && !(ignore_public && grant.grantee.is_public())
        })
    }

    /// Whether it grants anything to everybody, or to everybody who signs.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.grants.iter().any(|grant| grant.grantee.is_public())
    }

    /// Whether it says no more than that these two (an object's owner and its bucket's) have what they have.
    #[must_use]
    pub fn is_trivial(&self, owner: &str, bucket_owner: &str) -> bool {
        self.grants.iter().all(|grant| match &grant.grantee {
            Grantee::User(id) => {
                (id == owner || id == bucket_owner) && matches!(grant.permission, Permission::FullControl)
            }
            _ => false,
        }) && !self.grants.is_empty()
    }

    /// For `Attributes.acl` and the bucket's document `acl`: `None` where the list is the one that needs no keeping.
    #[must_use]
    pub fn encode(&self, owner: &str) -> Option<Vec<u8>> {
        if *self == Self::private(owner) {
            return None;
        }
        let mut out = vec![FORMAT];
        for grant in &self.grants {
            let (kind, id) = match &grant.grantee {
                Grantee::User(id) => (0, id.as_bytes()),
                Grantee::AllUsers => (1, &[][..]),
                Grantee::AuthenticatedUsers => (2, &[][..]),
                Grantee::LogDelivery => (3, &[][..]),
            };
            out.push(kind << 4 | grant.permission.index());
            if kind == 0 {
                out.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(&id[..id.len().min(ID_BYTES_MAX)]);
            }
        }
        Some(out)
    }

    /// What was kept; [`Acl::private`] where nothing was.
    ///
    /// # Errors
    /// [`AclError::Stored`]: whoever decides with it must then refuse.
    pub fn decode(stored: Option<&[u8]>, owner: &str) -> Result<Self, AclError> {
        let Some(stored) = stored else { return Ok(Self::private(owner)) };
        let (format, mut rest) = stored.split_first().ok_or(AclError::Stored)?;
        if *format != FORMAT {
            return Err(AclError::Stored);
        }
        let mut grants = Vec::new();
        while let Some((head, after)) = rest.split_first() {
            rest = after;
            let permission = *Permission::ALL.get(usize::from(head & 0xf)).ok_or(AclError::Stored)?;
            let grantee = match head >> 4 {
                0 => {
                    let (len, after) = rest.split_first().ok_or(AclError::Stored)?;
                    let (id, after) = after.split_at_checked(usize::from(*len)).ok_or(AclError::Stored)?;
                    rest = after;
                    Grantee::User(std::str::from_utf8(id).map_err(|_| AclError::Stored)?.to_owned())
                }
                1 => Grantee::AllUsers,
                2 => Grantee::AuthenticatedUsers,
                3 => Grantee::LogDelivery,
                _ => return Err(AclError::Stored),
            };
            grants.push(Grant { grantee, permission });
            if grants.len() > GRANTS_MAX {
                return Err(AclError::Stored);
            }
        }
        Self::new(grants).map_err(|_| AclError::Stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn canned_lists() {
        use Permission::{FullControl, Read, ReadAcp, Write, WriteAcp};
        #[allow(clippy::type_complexity)]
        let table: [(&str, &[(Caller<'_>, Permission, bool)]); 8] = [
            ("private", &[(Caller::User(A), WriteAcp, true), (Caller::User(B), Read, false)]),
            ("public-read", &[(Caller::Anonymous, Read, true), (Caller::Anonymous, Write, false)]),
            ("public-read-write", &[(Caller::Anonymous, Write, true), (Caller::Anonymous, ReadAcp, false)]),
            ("authenticated-read", &[(Caller::User(B), Read, true), (Caller::Anonymous, Read, false)]),
            ("bucket-owner-read", &[(Caller::User(B), Read, true), (Caller::User(B), ReadAcp, false)]),
            ("bucket-owner-full-control", &[(Caller::User(B), WriteAcp, true), (Caller::Anonymous, Read, false)]),
            ("log-delivery-write", &[(Caller::LogDelivery, Write, true), (Caller::User(B), Write, false)]),
            ("aws-exec-read", &[(Caller::User(EXEC_READER), Read, true), (Caller::User(B), Read, false)]),
        ];
        for (name, asked) in table {
            let acl = Acl::canned(name, A, B).unwrap();
            assert!(acl.allows(Caller::User(A), FullControl, false), "{name}");
            for (caller, permission, wanted) in asked {
                assert_eq!(acl.allows(*caller, *permission, false), *wanted, "{name} {caller:?} {permission:?}");
            }
            let again = Acl::decode(acl.encode(A).as_deref(), A).unwrap();
            assert_eq!(again, acl, "{name}");
        }
        assert_eq!(Acl::canned("public", A, B), Err(AclError::Canned));
        assert_eq!(Acl::canned("private", A, B).unwrap().encode(A), None);
        assert_eq!(Acl::canned("bucket-owner-read", A, A).unwrap(), Acl::private(A));
    }

    #[test]
    fn public_grants_can_be_ignored() {
        for name in ["public-read", "authenticated-read", "public-read-write"] {
            let acl = Acl::canned(name, A, A).unwrap();
            assert!(acl.is_public() && !acl.is_trivial(A, A), "{name}");
            assert!(!acl.allows(Caller::User(B), Permission::Read, true), "{name}");
            assert!(acl.allows(Caller::User(A), Permission::Read, true), "{name}");
        }
        assert!(!Acl::canned("log-delivery-write", A, A).unwrap().is_public());
    }

    #[test]
    fn an_empty_list_is_kept_and_grants_nothing() {
        let empty = Acl::new([]).unwrap();
        let stored = empty.encode(A).unwrap();
        let again = Acl::decode(Some(&stored), A).unwrap();
        assert_eq!(again, empty);
        assert!(!again.allows(Caller::User(A), Permission::Read, false));
        assert!(!empty.is_trivial(A, A));
    }

    #[test]
    fn headers_of_grants() {
        let text = format!("id=\"{A}\", uri=\"{ALL_USERS}\",ID={B}");
        let want = [Grantee::User(A.into()), Grantee::AllUsers, Grantee::User(B.into())];
        assert_eq!(Acl::grantees_of_header(&text).unwrap(), want);
        for (text, error) in [
            ("id=\"short\"", AclError::Id),
            ("uri=\"http://example.com\"", AclError::Group),
            ("emailAddress=\"a@b.c\"", AclError::Email),
            ("who=\"me\"", AclError::Header),
            ("nobody", AclError::Header),
            ("", AclError::Header),
        ] {
            assert_eq!(Acl::grantees_of_header(text), Err(error), "{text}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let grant = |i: usize| Grant::user(&format!("{i:064x}"), Permission::Read);
        assert!(Acl::new((0..GRANTS_MAX).map(grant)).is_ok());
        assert_eq!(Acl::new((0..=GRANTS_MAX).map(grant)), Err(AclError::TooMany));
        assert_eq!(Acl::new(std::iter::repeat_n(grant(1), 200)).unwrap().grants().len(), 1);
    }

    #[test]
    fn damaged_lists_are_errors() {
        let good = Acl::canned("aws-exec-read", A, B).unwrap().encode(A).unwrap();
        for cut in 0..good.len() {
            let read = Acl::decode(Some(&good[..cut]), A);
            assert!(read.is_err() || read.unwrap().grants().len() < 2, "{cut}");
        }
        for bad in [&[][..], &[2], &[1, 0x05], &[1, 0x40], &[1, 0x00, 3, 0xff, 0xff, 0xff]] {
            assert_eq!(Acl::decode(Some(bad), A), Err(AclError::Stored), "{bad:?}");
        }
    }
}
