//! What conditions and variables can ask about a request.

use std::borrow::Cow;

use granary_types::Timestamp;
use smallvec::SmallVec;

use crate::identity::{Identity, PrincipalKind};

/// The values of a key in a request; none where it has none.
pub type Values<'a> = SmallVec<[Cow<'a, str>; 1]>;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A condition key. Letter case does not count in names (but in tag keys).
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Key {
            $($(#[$doc])* #[doc = $text] $name,)*
            /// `s3:ExistingObjectTag/<key>`
            ExistingObjectTag(String),
            /// `s3:RequestObjectTag/<key>`
            RequestObjectTag(String),
            /// `aws:PrincipalTag/<key>`
            PrincipalTag(String),
            /// Any other `prefix:name`, in lower case: no request has it, unless the caller of `explain` says so.
            Other(String),
        }

        const NAMED: &[(&str, Key)] = &[$(($text, Key::$name),)*];

        impl std::fmt::Display for Key {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::ExistingObjectTag(tag) => write!(f, "s3:ExistingObjectTag/{tag}"),
                    Self::RequestObjectTag(tag) => write!(f, "s3:RequestObjectTag/{tag}"),
                    Self::PrincipalTag(tag) => write!(f, "aws:PrincipalTag/{tag}"),
                    Self::Other(name) => f.write_str(name),
                }
            }
        }
    };
}

keys! {
    SourceIp = "aws:SourceIp",
    SecureTransport = "aws:SecureTransport",
    CurrentTime = "aws:CurrentTime",
    EpochTime = "aws:EpochTime",
    UserAgent = "aws:UserAgent",
    Referer = "aws:Referer",
    Username = "aws:username",
    Userid = "aws:userid",
    PrincipalArn = "aws:PrincipalArn",
    PrincipalAccount = "aws:PrincipalAccount",
    PrincipalType = "aws:PrincipalType",
    TokenIssueTime = "aws:TokenIssueTime",
    FederatedProvider = "aws:FederatedProvider",
    MultiFactorAuthPresent = "aws:MultiFactorAuthPresent",
    RequestedRegion = "aws:RequestedRegion",
    ResourceAccountAws = "aws:ResourceAccount",
    Prefix = "s3:prefix",
    Delimiter = "s3:delimiter",
    MaxKeys = "s3:max-keys",
    VersionId = "s3:VersionId",
    Acl = "s3:x-amz-acl",
    GrantRead = "s3:x-amz-grant-read",
    GrantWrite = "s3:x-amz-grant-write",
    GrantReadAcp = "s3:x-amz-grant-read-acp",
    GrantWriteAcp = "s3:x-amz-grant-write-acp",
    GrantFullControl = "s3:x-amz-grant-full-control",
    Sse = "s3:x-amz-server-side-encryption",
    SseKmsKeyId = "s3:x-amz-server-side-encryption-aws-kms-key-id",
    SseCustomerAlgorithm = "s3:x-amz-server-side-encryption-customer-algorithm",
    CopySource = "s3:x-amz-copy-source",
    MetadataDirective = "s3:x-amz-metadata-directive",
    StorageClass = "s3:x-amz-storage-class",
    RequestObjectTagKeys = "s3:RequestObjectTagKeys",
    ObjectLockMode = "s3:object-lock-mode",
    ObjectLockRetainUntil = "s3:object-lock-retain-until-date",
    ObjectLockRemainingDays = "s3:object-lock-remaining-retention-days",
    ObjectLockLegalHold = "s3:object-lock-legal-hold",
    SignatureVersion = "s3:signatureversion",
    AuthType = "s3:authType",
    SignatureAge = "s3:signatureAge",
    TlsVersion = "s3:TlsVersion",
    LocationConstraint = "s3:LocationConstraint",
    ContentSha256 = "s3:x-amz-content-sha256",
    ResourceAccount = "s3:ResourceAccount",
    ObjectOwnership = "s3:x-amz-object-ownership",
    IfMatch = "s3:if-match",
    IfNoneMatch = "s3:if-none-match",
    ExternalId = "sts:ExternalId",
    RoleSessionName = "sts:RoleSessionName",
}

/// Keys of AWS's that no request here has: what they ask about is not on this server. In lower case.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html>
const ELSEWHERE: [&str; 38] = [
    "aws:assumedroot",
    "aws:calledvia",
    "aws:calledviafirst",
    "aws:calledvialast",
    "aws:chatbotsourcearn",
    "aws:ec2instancesourceprivateipv4",
    "aws:ec2instancesourcevpc",
    "aws:isprivatelinkrequest",
    "aws:multifactorauthage",
    "aws:principalisawsservice",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:principalservicenameslist",
    "aws:resourceorgid",
    "aws:resourceorgpaths",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceidentity",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpcarn",
    "aws:sourcevpce",
    "aws:tagkeys",
    "aws:viaawsservice",
    "aws:vpceaccount",
    "aws:vpceorgid",
    "aws:vpceorgpaths",
    "aws:vpcsourceip",
    "s3:accessgrantsinstancearn",
    "s3:accesspointnetworkorigin",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:inventoryaccessibleoptionalfields",
    "s3:objectcreationoperation",
    "s3:x-amz-website-redirect-location",
];
/// Beginnings of such keys, before a tag's name.
const ELSEWHERE_TAGS: [&str; 4] = ["aws:requesttag/", "aws:resourcetag/", "s3:accesspointtag/", "s3:buckettag/"];
/// Those of them by which AWS calls a policy not public, where they are fixed.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html#access-control-block-public-access-policy-status>
const ORIGINS: [&str; 8] = [
    "aws:principalorgid",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
];

impl Key {
    /// Reads a key's name; `None` where it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((_, key)) = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Some(key.clone());
        }
        let after = |prefix: &str| {
            let start = text.get(..prefix.len())?;
            (start.eq_ignore_ascii_case(prefix) && text.len() > prefix.len()).then(|| text[prefix.len()..].to_owned())
        };
        if let Some(tag) = after("s3:ExistingObjectTag/") {
            return Some(Self::ExistingObjectTag(tag));
        }
        if let Some(tag) = after("s3:RequestObjectTag/") {
            return Some(Self::RequestObjectTag(tag));
        }
        if let Some(tag) = after("aws:PrincipalTag/") {
            return Some(Self::PrincipalTag(tag));
        }
        // Identity providers' keys begin with their host: `login.example.com:sub`.
        let (prefix, name) = text.rsplit_once(':')?;
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':');
        let is_key = !prefix.is_empty() && !name.is_empty() && text.bytes().all(fine);
        is_key.then(|| Self::Other(text.to_ascii_lowercase()))
    }

    /// Whether the answer depends on what the object is now.
    #[must_use]
    pub const fn needs_object(&self) -> bool {
        matches!(self, Self::ExistingObjectTag(_))
    }

    /// Whether S3 knows it: bucket policies with other `s3:` and `aws:` keys are refused, since a misspelt key makes a
    /// statement silently void.
    pub(crate) fn is_known(&self) -> bool {
        match self {
            Self::Other(name) => {
                !name.starts_with("s3:") && !name.starts_with("aws:")
                    || ELSEWHERE.contains(&name.as_str())
                    || ELSEWHERE_TAGS.iter().any(|start| name.len() > start.len() && name.starts_with(start))
            }
            _ => true,
        }
    }

    /// Whether it is one of AWS's keys that say where a request comes from, which a policy may fix to be not public, and which
    /// no request here has.
    pub(crate) fn is_origin(&self) -> bool {
        matches!(self, Self::Other(name) if ORIGINS.contains(&name.as_str()))
    }
}

/// A request, as conditions see it. What stands with the identity is not asked for here.
pub trait Context {
    /// The values of a key.
    fn values(&self, key: &Key) -> Values<'_>;

    /// When the request is judged.
    fn now(&self) -> Timestamp;
}

/// A context of nothing but the time.
#[derive(Debug, Clone, Copy)]
pub struct EmptyContext(pub Timestamp);

impl Context for EmptyContext {
    fn values(&self, _key: &Key) -> Values<'_> {
        Values::new()
    }

    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Keys given one by one, over another context.
pub struct GivenContext<'a> {
    /// Key and values.
    pub given: Vec<(Key, Vec<String>)>,
    /// Asked for everything else.
    pub rest: &'a dyn Context,
}

impl Context for GivenContext<'_> {
    fn values(&self, key: &Key) -> Values<'_> {
        match self.given.iter().find(|(given, _)| given == key) {
            Some((_, values)) => values.iter().map(|value| Cow::Borrowed(value.as_str())).collect(),
            None => self.rest.values(key),
        }
    }

    fn now(&self) -> Timestamp {
        self.rest.now()
    }
}

/// What a policy is judged with: the caller and the request.
pub struct Env<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// The request.
    pub context: &'a dyn Context,
}

impl<'a> Env<'a> {
    /// The values of a key.
    #[must_use]
    pub fn values(&self, key: &Key) -> Values<'a> {
        let who = self.identity;
        let one = |text: &'a str| SmallVec::from_elem(Cow::Borrowed(text), 1);
        let made = |text: String| SmallVec::from_elem(Cow::Owned(text), 1);
        // Given keys go first, so that `explain` can ask about another time or address.
        let given = self.context.values(key);
        if !given.is_empty() {
            return given;
        }
        match key {
            Key::Username if matches!(who.kind, PrincipalKind::User | PrincipalKind::ServiceAccount) => one(&who.name),
            Key::Userid if who.kind != PrincipalKind::Anonymous => one(&who.id),
            Key::PrincipalArn if who.kind != PrincipalKind::Anonymous => one(&who.principal),
            Key::PrincipalAccount if who.kind != PrincipalKind::Anonymous => one(&who.account),
            Key::PrincipalType => one(who.kind.principal_type()),
            Key::PrincipalTag(tag) => who
                .tags
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(tag))
                .map_or_else(SmallVec::new, |(_, value)| one(value)),
            Key::TokenIssueTime => match &who.session {
                Some(session) => made(granary_types::date::iso(session.issued)),
                None => SmallVec::new(),
            },
            Key::FederatedProvider => match who.session.as_ref().and_then(|session| session.provider.as_deref()) {
                Some(provider) => one(provider),
                None => SmallVec::new(),
            },
            Key::CurrentTime => made(granary_types::date::iso(self.context.now())),
            Key::EpochTime => made(self.context.now().as_secs().to_string()),
            _ => SmallVec::new(),
        }
    }
}
