//! What settings must satisfy together. Everything wrong is told at once, with what would be right.

use std::time::Duration;

use granary_types::limits::{AUDIT_KEEP_DAYS_MIN, CHUNK_BYTES, COPIES_BYTES_MAX, INLINE_BYTES_MAX, SEGMENT_BYTES_MIN};

use crate::audit::stream::Receiver;

use super::load::Problems;
use super::{Settings, SettingsError};

/// Longest timeout taken.
const TIMEOUT_MS_MAX: u64 = Duration::from_secs(24 * 60 * 60).as_millis() as u64;
/// Largest segment taken.
const SEGMENT_BYTES_MAX: u64 = 64 << 30;
/// Sizes taken for a file of the log.
const LOG_FILE_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=4 << 30;
/// Wrong signatures that may be borne, and forgiven per second.
const GUESSES: std::ops::RangeInclusive<u64> = 10..=1_000_000;
const FORGIVEN: std::ops::RangeInclusive<u64> = 1..=10_000;
/// Least memory for bodies on their way in: one stripe of the widest scheme, several times.
const INGEST_MEMORY_BYTES_MIN: u64 = 64 << 20;

impl Settings {
    /// Checks bounds and combinations.
    ///
    /// # Errors
    /// [`SettingsError::Wrong`] with every problem found.
    pub(crate) fn check(self) -> Result<Self, SettingsError> {
        let problems = self.problems();
        if problems.is_empty() { Ok(self) } else { Err(SettingsError::Wrong(Problems(problems))) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut say = |wrong: bool, what: String| {
            if wrong {
                problems.push(what);
            }
        };
        let Self { node, drives, s3, store, admin, audit, .. } = self;

        let width = drives.erasure.width();
        say(
            drives.paths.len() < width,
            format!(
                "drives.paths names {} drives, but drives.erasure {} needs at least {width}: name more drives, or choose a \
                 scheme with K+M of at most {}",
                drives.paths.len(),
                drives.erasure,
                drives.paths.len(),
            ),
        );
        let mut sorted = drives.paths.clone();
        sorted.sort();
        for pair in sorted.windows(2).filter(|pair| pair[0] == pair[1]) {
            say(true, format!("drives.paths names {} twice: each drive is a folder of its own", pair[0].display()));
        }
        say(
            !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&drives.segment_bytes)
                || !drives.segment_bytes.is_multiple_of(CHUNK_BYTES as u64),
            format!(
                "drives.segment_bytes is {}: it must be a multiple of {CHUNK_BYTES} from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                drives.segment_bytes
            ),
        );

        say(
            !LOG_FILE_BYTES.contains(&drives.log_file_bytes)
                || !drives.log_file_bytes.is_multiple_of(CHUNK_BYTES as u64),
            format!(
                "drives.log_file_bytes is {}: it must be a multiple of {CHUNK_BYTES} from {} to {}",
                drives.log_file_bytes,
                LOG_FILE_BYTES.start(),
                LOG_FILE_BYTES.end()
            ),
        );
        say(
            drives.limit_bytes != 0 && drives.limit_bytes < drives.segment_bytes,
            format!(
                "drives.limit_bytes is {}: it must hold one segment of {} bytes, or be 0 for no limit",
                drives.limit_bytes, drives.segment_bytes
            ),
        );
        say(
            store.inline_bytes_max > INLINE_BYTES_MAX as u64,
            format!("store.inline_bytes_max is {}: at most {INLINE_BYTES_MAX}", store.inline_bytes_max),
        );
        say(
            store.copies_bytes_max > COPIES_BYTES_MAX,
            format!("store.copies_bytes_max is {}: at most {COPIES_BYTES_MAX}", store.copies_bytes_max),
        );
        say(
            store.ingest_memory_bytes < INGEST_MEMORY_BYTES_MIN,
            format!("store.ingest_memory_bytes is {}: at least {INGEST_MEMORY_BYTES_MIN}", store.ingest_memory_bytes),
        );

        say(
            s3.listen == admin.listen && s3.listen.port() != 0,
            format!("s3.listen and admin.listen are both {}: give them different ports", s3.listen),
        );
        say(
            s3.tls_cert_file.is_some() != s3.tls_key_file.is_some(),
            "s3.tls_cert_file and s3.tls_key_file go together: set both, or neither".to_owned(),
        );
        say(
            s3.tls_client_ca_file.is_some() && !self.tls(),
            "s3.tls_client_ca_file asks for client certificates, and s3.plaintext = true switches TLS off: choose one"
                .to_owned(),
        );
        say(
            audit.keep_days < AUDIT_KEEP_DAYS_MIN,
            format!("audit.keep_days is {}: at least {AUDIT_KEEP_DAYS_MIN}", audit.keep_days),
        );
        say(
            audit.flush_interval_ms > 1_000 || audit.flush_interval_ms == 0,
            format!("audit.flush_interval_ms is {}: from 1 to 1000", audit.flush_interval_ms),
        );
        say(
            audit.seal_events == 0 || audit.unsealed_events_max < audit.seal_events.saturating_mul(10),
            format!(
                "audit.unsealed_events_max is {}: at least ten times audit.seal_events ({}, and not 0)",
                audit.unsealed_events_max, audit.seal_events
            ),
        );
        if let Some(text) = &audit.syslog {
            let what = format!("audit.syslog is `{text}`: write udp://HOST:PORT or tcp://HOST:PORT");
            say(Receiver::syslog(text).is_none(), what);
        }
        if let Some(text) = &audit.webhook {
            let what = format!(
                "audit.webhook is `{text}`: write http://HOST/PATH, or https://HOST/PATH and set audit.webhook_ca_file to what its \
                 certificate is issued by"
            );
            say(Receiver::webhook(text, audit.webhook_ca_file.clone()).is_none(), what);
        }
        let identity = &self.identity;
        for (name, value, range) in [
            ("clock_skew_max_ms", identity.clock_skew_max_ms, 5_000..=900_000),
            ("oidc_clock_skew_max_ms", identity.oidc_clock_skew_max_ms, 0..=300_000),
            ("guesses_per_address_max", identity.guesses_per_address_max.into(), GUESSES),
            ("guesses_per_key_max", identity.guesses_per_key_max.into(), GUESSES),
            (
                "guesses_per_address_forgiven_per_second",
                identity.guesses_per_address_forgiven_per_second.into(),
                FORGIVEN,
            ),
            ("guesses_per_key_forgiven_per_second", identity.guesses_per_key_forgiven_per_second.into(), FORGIVEN),
        ] {
            say(
                !range.contains(&value),
                format!("identity.{name} is {value}: it must be from {} to {}", range.start(), range.end()),
            );
        }
        for issuer in &identity.oidc_issuers {
            say(
                granary_access::oidc::issuer_name(issuer).is_none(),
                format!("identity.oidc_issuers has `{issuer}`: write https://HOST/PATH (http:// on loopback only)"),
            );
        }
        for name in &s3.tls_names {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-.*:[]".contains(c);
            say(
                name.is_empty() || !name.chars().all(fine),
                format!("s3.tls_names has `{name}`: write a plain host name or address"),
            );
        }
        for rule in &s3.run_rules {
            say(
                granary_s3::RunRule::parse(rule).is_none(),
                format!("s3.run_rules has `{rule}`: write BUCKET/ or BUCKET/FOLDER/, with at most one `*` in BUCKET"),
            );
        }
        say(
            !(1..=1000).contains(&admin.runs_max),
            format!("admin.runs_max is {}: it must be from 1 to 1000", admin.runs_max),
        );
        let select = &self.select;
        say(
            !(1..=1000).contains(&select.queries_max),
            format!("select.queries_max is {}: it must be from 1 to 1000", select.queries_max),
        );
        say(
            select.memory_bytes < 16 << 20,
            format!("select.memory_bytes is {}: it must be at least 16777216", select.memory_bytes),
        );
        say(select.time_ms < 1000, format!("select.time_ms is {}: it must be at least 1000", select.time_ms));
        say(s3.copy_silence_ms == 0, "s3.copy_silence_ms is 0: use 10000".to_owned());
        say(
            !(1..=86_400).contains(&store.lifecycle_day_seconds),
            format!("store.lifecycle_day_seconds is {}: it must be from 1 to 86400", store.lifecycle_day_seconds),
        );
        say(s3.requests_max == 0, "s3.requests_max is 0: nothing would be served".to_owned());
        say(s3.connections_max == 0, "s3.connections_max is 0: nobody could connect".to_owned());
        for domain in &s3.domains {
            let bad = domain.is_empty() || domain.contains(['/', ':', ' ']) || domain.starts_with('.');
            say(bad, format!("s3.domains has `{domain}`: write a plain domain such as s3.example.org"));
        }
        for (name, value, zero_allowed) in [
            ("node.drain_timeout_ms", node.drain_timeout_ms, true),
            ("s3.header_timeout_ms", s3.header_timeout_ms, false),
            ("s3.idle_timeout_ms", s3.idle_timeout_ms, false),
            ("s3.stall_timeout_ms", s3.stall_timeout_ms, false),
            ("keys.cache_ms", self.keys.cache_ms, true),
            ("s3.tls_check_interval_ms", s3.tls_check_interval_ms, false),
            ("audit.seal_interval_ms", audit.seal_interval_ms, false),
            ("s3.access_log_interval_ms", s3.access_log_interval_ms, false),
            ("ai.keeper_interval_ms", self.ai.keeper_interval_ms, false),
            ("store.ingest_wait_ms", store.ingest_wait_ms, true),
            ("store.garbage_quarantine_ms", store.garbage_quarantine_ms, true),
            ("store.orphan_grace_ms", store.orphan_grace_ms, true),
            ("store.sweep_interval_ms", store.sweep_interval_ms, false),
        ] {
            say(
                value > TIMEOUT_MS_MAX || (value == 0 && !zero_allowed),
                format!("{name} is {value}: it must be from {} to {TIMEOUT_MS_MAX} (a day)", u8::from(!zero_allowed)),
            );
        }
        say(
            node.region.is_empty()
                || !node.region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            format!("node.region is `{}`: use lower-case letters, digits and `-`", node.region),
        );
        say(node.worker_threads > 1024, format!("node.worker_threads is {}: at most 1024", node.worker_threads));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Settings {
        let mut settings = Settings::default();
        settings.drives.paths = (1..=6).map(|n| format!("/mnt/{n}").into()).collect();
        settings
    }

    fn problem(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = good();
        change(&mut settings);
        settings.problems().join("\n")
    }

    #[test]
    fn a_plain_node_is_fine() {
        assert_eq!(problem(|_| ()), "");
    }

    #[test]
    fn each_rule_finds_its_offence() {
        #[allow(clippy::type_complexity)]
        let cases: [(&str, fn(&mut Settings)); 28] = [
            ("select.queries_max is 0", |s| s.select.queries_max = 0),
            ("select.memory_bytes is 1", |s| s.select.memory_bytes = 1),
            ("select.time_ms is 9", |s| s.select.time_ms = 9),
            ("identity.clock_skew_max_ms is 900001", |s| s.identity.clock_skew_max_ms = 900_001),
            ("identity.oidc_clock_skew_max_ms is 300001", |s| s.identity.oidc_clock_skew_max_ms = 300_001),
            ("identity.guesses_per_key_max is 9", |s| s.identity.guesses_per_key_max = 9),
            ("forgiven_per_second is 0", |s| s.identity.guesses_per_address_forgiven_per_second = 0),
            ("has `http://id.example`", |s| s.identity.oidc_issuers = vec!["http://id.example".into()]),
            ("audit.keep_days is 179", |s| s.audit.keep_days = 179),
            ("audit.flush_interval_ms is 1001", |s| s.audit.flush_interval_ms = 1001),
            ("audit.syslog is `log`", |s| s.audit.syslog = Some("log".into())),
            ("audit.webhook is `https://h/`", |s| s.audit.webhook = Some("https://h/".into())),
            ("s3.run_rules has `runs`", |s| s.s3.run_rules = vec!["runs".into()]),
            ("admin.runs_max is 0", |s| s.admin.runs_max = 0),
            ("needs at least 6", |s| s.drives.paths.truncate(5)),
            ("names /mnt/1 twice", |s| s.drives.paths[1] = "/mnt/1".into()),
            ("drives.segment_bytes is 5", |s| s.drives.segment_bytes = 5),
            ("different ports", |s| s.admin.listen = s.s3.listen),
            ("go together", |s| s.s3.tls_key_file = Some("k".into())),
            ("choose one", |s| (s.s3.plaintext, s.s3.tls_client_ca_file) = (true, Some("ca".into()))),
            ("s3.tls_names has `a b`", |s| s.s3.tls_names = vec!["a b".into()]),
            ("s3.idle_timeout_ms is 0", |s| s.s3.idle_timeout_ms = 0),
            ("drives.log_file_bytes is 1", |s| s.drives.log_file_bytes = 1),
            ("drives.limit_bytes is 1", |s| s.drives.limit_bytes = 1),
            ("store.inline_bytes_max is 20000", |s| s.store.inline_bytes_max = 20_000),
            ("store.ingest_memory_bytes is 1", |s| s.store.ingest_memory_bytes = 1),
            ("node.region", |s| s.node.region = "Europe!".into()),
            ("s3.domains", |s| s.s3.domains = vec!["https://x".into()]),
        ];
        for (expected, change) in cases {
            let said = problem(change);
            assert!(said.contains(expected), "{expected}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn tls_is_what_is_spoken_unless_plain_http_is_asked_for() {
        let mut settings = good();
        assert!(settings.tls() && !settings.plaintext_beyond_loopback());
        settings.s3.plaintext = true;
        assert!(!settings.tls() && !settings.plaintext_beyond_loopback(), "loopback is nobody else's");
        settings.s3.listen = "0.0.0.0:9000".parse().unwrap();
        assert!(settings.plaintext_beyond_loopback());
        settings.s3.tls_cert_file = Some("c".into());
        assert!(settings.tls() && !settings.plaintext_beyond_loopback());

        assert!(!settings.admin_tls());
        settings.admin.listen = "0.0.0.0:9001".parse().unwrap();
        assert!(settings.admin_tls());
        settings.admin.plaintext = true;
        assert!(settings.admin_plaintext_beyond_loopback());
    }
}
