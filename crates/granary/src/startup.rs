//! What a starting node says on standard output: lines to paste, and `READY`.
//!
//! Everything but the `export` and `READY` lines is a comment, so that the whole can be pasted into a shell. A
//! secret is shown only when it has just been made, or is asked for; otherwise the line reads it from where it is kept.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use granary_access::RootKeys;

use crate::server::tls::Shown;

/// What is to be said.
pub(crate) struct Greeting<'a> {
    /// Root keys.
    pub(crate) keys: &'a RootKeys,
    /// They come from the environment, not from the file.
    pub(crate) keys_from_environment: bool,
    /// Where they are kept.
    pub(crate) keys_file: &'a Path,
    /// Show the secret even if it is not new.
    pub(crate) show_secret: bool,
    /// S3 endpoint.
    pub(crate) endpoint: &'a str,
    /// Admin endpoint.
    pub(crate) admin: &'a str,
    /// Region.
    pub(crate) region: &'a str,
    /// Drives, erasure scheme, I/O engine.
    pub(crate) engine: &'a str,
    /// Plain HTTP beyond loopback.
    pub(crate) plaintext_beyond_loopback: bool,
    /// The same of the admin port.
    pub(crate) admin_plaintext_beyond_loopback: bool,
    /// What clients are to trust.
    pub(crate) tls: Option<Arc<Shown>>,
}

impl Greeting<'_> {
    /// The lines before `READY`.
    pub(crate) fn lines(&self) -> String {
        let mut out = format!("# granary {}: {}\n", env!("CARGO_PKG_VERSION"), self.engine);
        if self.plaintext_beyond_loopback {
            out.push_str(
                "# PLAINTEXT: other machines can connect and nothing on the wire is encrypted (s3.plaintext = true)\n",
            );
        }
        if self.admin_plaintext_beyond_loopback {
            out.push_str(
                "# PLAINTEXT: the admin port can be reached by other machines and is not encrypted (admin.plaintext = true)\n",
            );
        }
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("writing to a String does not fail");
            out.push('\n');
        };
        if let Some(tls) = &self.tls {
            line(format_args!("# {tls}"));
        }
        line(format_args!("# admin: {} (granary status)", self.admin));
        line(format_args!("export AWS_ACCESS_KEY_ID={}", self.keys.access_key));
        let secret = self.keys.secret.expose();
        if self.keys.is_new || self.show_secret {
            line(format_args!("export AWS_SECRET_ACCESS_KEY={}", quoted(secret)));
        } else if self.keys_from_environment {
            line(format_args!("export AWS_SECRET_ACCESS_KEY=\"$GRANARY_ROOT_SECRET_KEY\""));
        } else {
            let file = self.keys_file.to_string_lossy();
            line(format_args!("export AWS_SECRET_ACCESS_KEY=\"$(tail -n 1 {})\"", quoted(&file)));
        }
        line(format_args!("export AWS_ENDPOINT_URL={}", self.endpoint));
        if let Some(ca_file) = self.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
            let ca_file = std::path::absolute(ca_file).unwrap_or_else(|_| ca_file.clone());
            line(format_args!("export AWS_CA_BUNDLE={}", quoted(&ca_file.to_string_lossy())));
        }
        line(format_args!("export AWS_REGION={0} AWS_DEFAULT_REGION={0}", self.region));
        if self.keys.is_new {
            let file = self.keys_file.display();
            line(format_args!("# the secret is shown this once; it is kept in {file}, readable by its owner only"));
        }
        out
    }
}

/// A word that a shell takes as it is.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/+=._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_access::Secret;

    fn lines(is_new: bool, from_environment: bool, show_secret: bool) -> String {
        let secret = Secret::new("it's-a-secret".into()).unwrap();
        let keys = RootKeys { access_key: "AK".into(), secret, is_new };
        Greeting {
            keys: &keys,
            keys_from_environment: from_environment,
            keys_file: Path::new("/data dir/root-keys"),
            show_secret,
            endpoint: "http://127.0.0.1:9000",
            admin: "127.0.0.1:9001",
            region: "us-east-1",
            engine: "6 drives",
            plaintext_beyond_loopback: false,
            admin_plaintext_beyond_loopback: false,
            tls: Some(Arc::new(Shown {
                ca_file: Some("/data dir/tls/ca.crt".into()),
                sha256: "AA:BB".into(),
                client_certificates: false,
                stale_because: None,
            })),
        }
        .lines()
    }

    #[test]
    fn the_secret_is_shown_when_new_or_asked_for_only() {
        assert!(lines(true, false, false).contains(r"export AWS_SECRET_ACCESS_KEY='it'\''s-a-secret'"));
        assert!(lines(false, false, true).contains(r"export AWS_SECRET_ACCESS_KEY='it'\''s-a-secret'"));
        let later = lines(false, false, false);
        assert!(later.contains("export AWS_SECRET_ACCESS_KEY=\"$(tail -n 1 '/data dir/root-keys')\""), "{later}");
        assert!(!later.contains("a-secret"));
        let environment = lines(false, true, false);
        assert!(
            environment.contains("export AWS_SECRET_ACCESS_KEY=\"$GRANARY_ROOT_SECRET_KEY\"")
                && !environment.contains("a-secret")
        );
    }

    #[test]
    fn everything_can_be_pasted_into_a_shell() {
        for line in lines(true, false, false).lines() {
            assert!(line.starts_with("# ") || line.starts_with("export AWS_"), "{line}");
        }
    }
}
