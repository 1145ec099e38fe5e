//! Who may do what: credentials now; users, policy and the audit chain come later.
//!
//! Row 3. Knows neither HTTP nor s3s: the front door asks it who an access key belongs to. Secrets are
//! wiped from memory when dropped and never appear in `Debug` output or errors.

pub mod acl;
pub mod credentials;
pub mod ownership;
pub mod root_keys;

pub use acl::{Acl, AclError};
pub use credentials::{AccessKeyError, Credentials, Identity, Owner, Secret};
pub use ownership::{Ownership, PublicAccessBlock};
pub use root_keys::{RootKeys, RootKeysError};
