//! Limits on who is let in: how far clocks may be apart, whose tokens are taken, how much guessing is borne.

use crate::oidc::issuer_name;

/// Wrong signatures: how many at once, and how many are forgiven per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guesses {
    /// At once; as many again come back only as they are forgiven.
    pub at_once: u32,
    /// Forgiven per second.
    pub forgiven_per_s: u32,
}

/// The limits. Defaults are AWS's where AWS has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Seconds that the time of a signature may be away from this clock, either way.
    pub clock_skew_s: u64,
    /// Seconds that the times in an identity provider's token may be.
    pub token_skew_s: u64,
    /// Issuers whose tokens are taken, by URL; none: those of every provider that an account has set up.
    pub issuers: Vec<String>,
    /// Of an address.
    pub per_address: Guesses,
    /// Of an access key.
    pub per_key: Guesses,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clock_skew_s: 15 * 60,
            token_skew_s: 60,
            issuers: Vec::new(),
            per_address: Guesses { at_once: 1_000, forgiven_per_s: 20 },
            per_key: Guesses { at_once: 200, forgiven_per_s: 2 },
        }
    }
}

impl Limits {
    /// Whether tokens of an issuer may be taken at all. `name`: its URL without the scheme.
    #[must_use]
    pub fn takes_issuer(&self, name: &str) -> bool {
        self.issuers.is_empty() || self.issuers.iter().any(|url| issuer_name(url) == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_by_name() {
        let mut limits = Limits::default();
        assert!(limits.takes_issuer("anybody.example"));
        limits.issuers = vec!["https://id.example/realm/".to_owned()];
        assert!(limits.takes_issuer("id.example/realm"));
        assert!(!limits.takes_issuer("id.example") && !limits.takes_issuer("evil.example/realm"));
    }
}
