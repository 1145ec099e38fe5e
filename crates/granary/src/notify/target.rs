//! Where events can go: the operator's settings `[notify.webhook.NAME]` and `[notify.nats.NAME]`.

use std::path::{Path, PathBuf};

use http::Uri;

/// Characters of a name, at most.
const NAME_CHARS_MAX: usize = 64;
/// Bytes of a secret's file, at most.
const SECRET_BYTES_MAX: u64 = 4096;

/// An HTTP endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebhookTarget {
    /// Its name, the end of its ARN.
    pub(crate) name: String,
    /// `http://` or `https://`.
    pub(crate) url: Uri,
    /// File with the secret that bodies are signed with.
    pub(crate) secret_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// A subject of a NATS server.
#[cfg_attr(not(feature = "nats"), allow(dead_code))] // refused at start then
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NatsTarget {
    /// Its name, the end of its ARN.
    pub(crate) name: String,
    /// `nats://host:4222` or `tls://host:4222`.
    pub(crate) url: Uri,
    /// Where events are published.
    pub(crate) subject: String,
    /// Wait for JetStream to say that it keeps the event.
    pub(crate) jetstream: bool,
    /// File with `user:password`, or a token.
    pub(crate) secret_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// All targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Targets {
    /// HTTP endpoints.
    pub(crate) webhooks: Vec<WebhookTarget>,
    /// NATS subjects.
    pub(crate) nats: Vec<NatsTarget>,
}

impl WebhookTarget {
    /// How a bucket's configuration names it.
    pub(crate) fn arn(&self, region: &str) -> String {
        format!("arn:granary:webhook:{region}::{}", self.name)
    }
}

impl NatsTarget {
    /// How a bucket's configuration names it.
    pub(crate) fn arn(&self, region: &str) -> String {
        format!("arn:granary:nats:{region}::{}", self.name)
    }
}

impl Targets {
    /// The ARNs of all.
    pub(crate) fn arns(&self, region: &str) -> Vec<String> {
        let webhooks = self.webhooks.iter().map(|target| target.arn(region));
        webhooks.chain(self.nats.iter().map(|target| target.arn(region))).collect()
    }
}

/// A setting's parts, by name, as text.
pub(crate) type Parts = Vec<(String, String)>;

fn take(parts: &mut Parts, name: &str) -> Option<String> {
    let at = parts.iter().position(|(part, _)| part == name)?;
    Some(parts.swap_remove(at).1)
}

fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(fine)
}

/// An address with a host and without credentials: those come from files, so that no URL carries them into a log.
fn url(parts: &mut Parts, schemes: [&str; 2]) -> Option<Uri> {
    let url: Uri = take(parts, "url")?.parse().ok()?;
    let fine = schemes.contains(&url.scheme_str()?)
        && url.host().is_some_and(|host| !host.is_empty())
        && !url.authority()?.as_str().contains('@');
    fine.then_some(url)
}

impl WebhookTarget {
    /// From its settings; `None` where they are not right.
    pub(crate) fn parse(name: &str, mut parts: Parts) -> Option<Self> {
        let url = url(&mut parts, ["http", "https"])?;
        let secret_file = take(&mut parts, "secret_file").map(PathBuf::from);
        let ca_file = take(&mut parts, "ca_file").map(PathBuf::from);
        (is_name(name) && parts.is_empty()).then(|| Self { name: name.to_owned(), url, secret_file, ca_file })
    }
}

impl NatsTarget {
    /// From its settings; `None` where they are not right.
    pub(crate) fn parse(name: &str, mut parts: Parts) -> Option<Self> {
        let url = url(&mut parts, ["nats", "tls"])?;
        let subject = take(&mut parts, "subject")?;
        let fine = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b'>');
        let is_subject = !subject.is_empty() && subject.bytes().all(fine) && subject.split('.').all(|t| !t.is_empty());
        let jetstream = match take(&mut parts, "jetstream").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return None,
        };
        let secret_file = take(&mut parts, "secret_file").map(PathBuf::from);
        let ca_file = take(&mut parts, "ca_file").map(PathBuf::from);
        (is_name(name) && is_subject && parts.is_empty()).then(|| Self {
            name: name.to_owned(),
            url,
            subject,
            jetstream,
            secret_file,
            ca_file,
        })
    }
}

/// What a secret's file says, without the newline at its end. Kept out of messages.
///
/// # Errors
/// In words, naming the file.
pub(super) fn secret(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("secret file {}: {error}", path.display());
    let mut text = zeroize::Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let secret = zeroize::Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if secret.is_empty() { Err(format!("secret file {} is empty", path.display())) } else { Ok(secret) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(pairs: &[(&str, &str)]) -> Parts {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn targets_are_checked() {
        let target = WebhookTarget::parse("a-1", parts(&[("url", "https://h:1/p"), ("secret_file", "/s")])).unwrap();
        assert_eq!(target.arn("eu"), "arn:granary:webhook:eu::a-1");
        for (name, wrong) in [
            ("a", vec![("url", "ftp://h")]),
            ("a", vec![("url", "https://user:secret@h/")]),
            ("a", vec![("url", "/path")]),
            ("a", vec![("secret_file", "/s")]),
            ("a", vec![("url", "https://h"), ("other", "x")]),
            ("A:b", vec![("url", "https://h")]),
        ] {
            assert_eq!(WebhookTarget::parse(name, parts(&wrong)), None, "{name} {wrong:?}");
        }
        let nats = |subject| NatsTarget::parse("n", parts(&[("url", "nats://h:4222"), ("subject", subject)]));
        assert!(nats("granary.events").is_some());
        for subject in ["", "a..b", "a b", "a.*", "a.>"] {
            assert_eq!(nats(subject), None, "{subject}");
        }
    }
}
