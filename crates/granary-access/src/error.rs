//! What can go wrong with users, keys and policies.

use crate::credentials::AccessKeyError;
use crate::policy::PolicyError;

/// Why a change or a question was refused. The names are those of IAM's error codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IamError {
    /// There is no such user, group, key, role or policy.
    #[error("{0}")]
    NoSuchEntity(String),
    /// There is one of that name already.
    #[error("{0}")]
    EntityAlreadyExists(String),
    /// The policy document is wrong.
    #[error("{0}")]
    MalformedPolicyDocument(#[from] PolicyError),
    /// An argument is wrong.
    #[error("{0}")]
    ValidationError(String),
    /// There are too many already.
    #[error("{0}")]
    LimitExceeded(String),
    /// Something still hangs on what is to be deleted.
    #[error("{0}")]
    DeleteConflict(String),
    /// Not allowed.
    #[error("{0}")]
    AccessDenied(String),
    /// The identity provider's token is wrong.
    #[error("{0}")]
    InvalidIdentityToken(String),
    /// The identity provider's token has expired.
    #[error("{0}")]
    ExpiredToken(String),
    /// The identity provider does not answer.
    #[error("{0}")]
    IdpCommunication(String),
    /// The metadata could not be read or written.
    #[error("users and policies cannot be read or changed now: {0}")]
    Unavailable(String),
}

impl From<AccessKeyError> for IamError {
    fn from(error: AccessKeyError) -> Self {
        Self::ValidationError(error.to_string())
    }
}
