//! How each type of setting is read from TOML and from the environment, and written back.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use granary_types::Scheme;
use toml::de::DeValue;

use crate::notify::{NatsTarget, Parts, WebhookTarget};

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// What is right, to say when something else is given.
    const EXPECTS: &'static str;

    /// From text, as the environment gives it.
    fn from_text(text: &str) -> Option<Self>;

    /// From a TOML value. Text types take a string.
    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    /// As a TOML value; `None`: not set.
    fn to_toml(&self) -> Option<String>;
}

/// How drives are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// io_uring where permitted, threads elsewhere.
    Auto,
    /// io_uring or no start.
    Uring,
    /// Threads with pread and pwrite.
    Threads,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Setting for Engine {
    const EXPECTS: &'static str = "`auto`, `uring` or `threads`";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "uring" => Some(Self::Uring),
            "threads" => Some(Self::Threads),
            _ => None,
        }
    }

    fn to_toml(&self) -> Option<String> {
        let name = match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Threads => "threads",
        };
        Some(quoted(name))
    }
}

/// What keeps the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyProviderKind {
    /// A file.
    File,
    /// An environment variable.
    Environment,
    /// A systemd credential.
    Credential,
    /// Vault's or OpenBao's Transit engine.
    Vault,
    /// A PKCS#11 token.
    Pkcs11,
}

impl Setting for KeyProviderKind {
    const EXPECTS: &'static str = "`file`, `environment`, `credential`, `vault` or `pkcs11`";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "file" => Some(Self::File),
            "environment" => Some(Self::Environment),
            "credential" => Some(Self::Credential),
            "vault" => Some(Self::Vault),
            "pkcs11" => Some(Self::Pkcs11),
            _ => None,
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(match self {
            Self::File => "file",
            Self::Environment => "environment",
            Self::Credential => "credential",
            Self::Vault => "vault",
            Self::Pkcs11 => "pkcs11",
        }))
    }
}

impl Setting for LogFormat {
    const EXPECTS: &'static str = "`text` or `json`";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(if *self == Self::Text { "text" } else { "json" }))
    }
}

impl Setting for String {
    const EXPECTS: &'static str = "text";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Setting for PathBuf {
    const EXPECTS: &'static str = "a path (not empty)";

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Setting for Option<PathBuf> {
    const EXPECTS: &'static str = "a path";

    fn from_text(text: &str) -> Option<Self> {
        Some(PathBuf::from_text(text))
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(Setting::to_toml)
    }
}

impl Setting for Option<String> {
    const EXPECTS: &'static str = "text";

    fn from_text(text: &str) -> Option<Self> {
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().map(|text| quoted(text))
    }
}

impl Setting for SocketAddr {
    const EXPECTS: &'static str = "an IP address and port, such as 127.0.0.1:9000 or [::1]:9000";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Setting for Scheme {
    const EXPECTS: &'static str = "an erasure scheme: K+M with K from 1 to 16 and M from 0 to 4, such as \"4+2\"";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// Sections of targets: `[section.NAME]`, each read by `parse`.
fn targets_from_toml<T>(value: &DeValue<'_>, parse: fn(&str, Parts) -> Option<T>) -> Option<Vec<T>> {
    let each = value.as_table()?.iter().map(|(name, target)| {
        let parts = target.get_ref().as_table()?.iter().map(|(part, value)| {
            let value = value.get_ref();
            let text = value.as_str().map(str::to_owned).or_else(|| value.as_bool().map(|flag| flag.to_string()))?;
            Some((part.get_ref().to_string(), text))
        });
        parse(name.get_ref(), parts.collect::<Option<_>>()?)
    });
    each.collect()
}

/// Targets in the environment: `NAME=URL;part=value`, separated by commas.
fn targets_from_text<T>(text: &str, parse: fn(&str, Parts) -> Option<T>) -> Option<Vec<T>> {
    let each = text.split(',').map(str::trim).filter(|target| !target.is_empty()).map(|target| {
        let mut parts = target.split(';').map(|part| part.split_once('='));
        let (name, url) = parts.next()??;
        let mut all = vec![("url".to_owned(), url.to_owned())];
        for part in parts {
            let (part, value) = part?;
            all.push((part.to_owned(), value.to_owned()));
        }
        parse(name, all)
    });
    each.collect()
}

impl Setting for Vec<WebhookTarget> {
    const EXPECTS: &'static str = "sections [notify.webhook.NAME] with `url` (http or https, no password in it), and `secret_file` and `ca_file` where wanted";

    fn from_text(text: &str) -> Option<Self> {
        targets_from_text(text, WebhookTarget::parse)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        targets_from_toml(value, WebhookTarget::parse)
    }

    fn to_toml(&self) -> Option<String> {
        None
    }
}

impl Setting for Vec<NatsTarget> {
    const EXPECTS: &'static str = "sections [notify.nats.NAME] with `url` (nats or tls, no password in it) and `subject`, and `jetstream`, \
                                   `secret_file` and `ca_file` where wanted";

    fn from_text(text: &str) -> Option<Self> {
        targets_from_text(text, NatsTarget::parse)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        targets_from_toml(value, NatsTarget::parse)
    }

    fn to_toml(&self) -> Option<String> {
        None
    }
}

impl Setting for bool {
    const EXPECTS: &'static str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for u64 {
    const EXPECTS: &'static str = "a whole number, 0 or more";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        let number = value.as_integer()?;
        Self::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for u32 {
    const EXPECTS: &'static str = "a whole number from 0 to 4294967295";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        u64::from_toml(value)?.try_into().ok()
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Lists: an array in TOML, separated by commas in the environment.
impl<T: Setting> Setting for Vec<T> {
    const EXPECTS: &'static str = "a list of text, such as [\"a\", \"b\"] (in the environment: a,b)";

    fn from_text(text: &str) -> Option<Self> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::from_text).collect()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|item| T::from_toml(item.get_ref())).collect()
    }

    fn to_toml(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(Setting::to_toml).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => write!(out, "\\u{:04X}", c as u32).expect("writing to a String does not fail"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
