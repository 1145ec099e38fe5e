//! Who may do what: users, access keys, AWS's policy language, and the decision.
//!
//! Row 3. Knows neither HTTP nor s3s: the front door asks it who an access key belongs to ([`Iam`]) and whether
//! that identity may do what the request asks ([`decide`]). Secrets are wiped from memory when dropped and never
//! appear in `Debug` output or errors.

pub mod acl;
pub mod credentials;
pub mod damping;
pub mod decision;
pub mod error;
pub mod iam;
pub mod identity;
pub mod limits;
pub mod manage;
pub mod oidc;
pub mod ownership;
pub mod policy;
pub mod records;
pub mod root_keys;
pub mod session;
pub mod sigv4;
pub mod state;

pub use acl::{Acl, AclError};
pub use credentials::{AccessKeyError, Owner, Secret};
pub use decision::{BucketFacts, By, Decision, ObjectFacts, Question, decide};
pub use error::IamError;
pub use iam::{Iam, Refused};
pub use identity::{Identity, PrincipalKind};
pub use limits::{Guesses, Limits};
pub use ownership::{Ownership, PublicAccessBlock};
pub use policy::{Policy, PolicyError, PolicyKind};
pub use records::Records;
pub use root_keys::{RootKeys, RootKeysError};
pub use state::State;
