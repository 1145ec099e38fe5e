//! The policies that are always there.

use std::sync::{Arc, LazyLock};

use super::{Policy, PolicyKind};

/// A built-in policy.
#[derive(Debug)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// Names of AWS's own managed policies that mean the same, for `attach-user-policy`.
    pub aws_names: &'static [&'static str],
    /// What it is for.
    pub description: &'static str,
    /// Its document.
    pub document: &'static str,
}

/// All of them.
pub const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "admin",
        aws_names: &["AdministratorAccess"],
        description: "Everything within the account: buckets, objects, users, policies",
        document: r#"{"Version":"2012-10-17","Statement":[{"Sid":"Everything","Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    },
    Builtin {
        name: "readwrite",
        aws_names: &["AmazonS3FullAccess"],
        description: "All of S3: buckets, objects and their settings; no users or policies of users, no audit trail",
        document: r#"{"Version":"2012-10-17","Statement":[{"Sid":"AllOfS3","Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#,
    },
    Builtin {
        name: "readonly",
        aws_names: &["AmazonS3ReadOnlyAccess", "ReadOnlyAccess"],
        description: "Read and list everything in S3 but the audit trail, change nothing",
        document: r#"{"Version":"2012-10-17","Statement":[{"Sid":"ReadAndList","Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":"*"}]}"#,
    },
    Builtin {
        name: "auditor",
        aws_names: &["SecurityAudit"],
        description: "See settings, users and policies and read the audit bucket, but no object of any other bucket",
        document: r#"{"Version":"2012-10-17","Statement":[
            {"Sid":"SeeSettings","Effect":"Allow","Action":["s3:GetBucket*","s3:GetEncryptionConfiguration","s3:GetLifecycleConfiguration","s3:GetReplicationConfiguration","s3:GetAccelerateConfiguration","s3:GetAnalyticsConfiguration","s3:GetInventoryConfiguration","s3:GetIntelligentTieringConfiguration","s3:GetMetricsConfiguration","s3:GetObjectAcl","s3:GetObjectVersionAcl","s3:GetObjectRetention","s3:GetObjectLegalHold","s3:GetObjectAttributes","s3:GetObjectVersionAttributes","s3:GetObjectTagging","s3:GetObjectVersionTagging","s3:List*"],"Resource":"*"},
            {"Sid":"SeeUsers","Effect":"Allow","Action":["iam:Get*","iam:List*","iam:Simulate*"],"Resource":"*"},
            {"Sid":"ReadAudit","Effect":"Allow","Action":["s3:Get*","s3:List*"],"Resource":["arn:aws:s3:::granary-audit","arn:aws:s3:::granary-audit/*"]}]}"#,
    },
];

static PREPARED: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
    let read = |builtin: &Builtin| Policy::parse(builtin.document.as_bytes(), PolicyKind::Identity);
    BUILTINS.iter().map(|builtin| Arc::new(read(builtin).expect("a test reads every built-in policy"))).collect()
});

/// A built-in policy by its name, or by AWS's.
#[must_use]
pub fn find(name: &str) -> Option<(&'static Builtin, Arc<Policy>)> {
    let at = BUILTINS.iter().position(|builtin| builtin.name == name || builtin.aws_names.contains(&name))?;
    Some((&BUILTINS[at], Arc::clone(&PREPARED[at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_can_be_read() {
        for builtin in BUILTINS {
            assert_eq!(find(builtin.name).unwrap().0.name, builtin.name);
            for other in builtin.aws_names {
                assert_eq!(find(other).unwrap().0.name, builtin.name);
            }
        }
        assert!(find("Admin").is_none());
    }
}
