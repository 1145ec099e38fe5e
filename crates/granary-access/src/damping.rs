//! Slows down who guesses keys: so many wrong signatures per address and per access key, then `503 SlowDown` before
//! anything is verified.
//!
//! Who signed rightly with that key from that address not long ago is let through all the same, so that a stranger's
//! guesses lock nobody out. The table is bounded; while nobody fails, asking it costs one atomic read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use granary_types::Timestamp;
use parking_lot::Mutex;

use crate::limits::{Guesses, Limits};

/// Entries of each kind.
const ENTRIES_MAX: usize = 16_384;
/// How long a right signature counts, in seconds.
const TRUST_S: u64 = 3_600;
/// Characters of an access key that are looked at.
const KEY_MAX: usize = 128;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: f64,
    at_s: u64,
}

impl Failures {
    fn now(self, now_s: u64, limit: Guesses) -> f64 {
        (self.count - now_s.saturating_sub(self.at_s) as f64 * f64::from(limit.forgiven_per_s)).max(0.0)
    }
}

#[derive(Default)]
struct Table {
    addresses: HashMap<IpAddr, Failures>,
    keys: HashMap<String, Failures>,
    trusted: HashMap<(IpAddr, String), u64>,
}

/// Counts failures.
pub struct Damping {
    per_address: Guesses,
    per_key: Guesses,
    active: AtomicBool,
    table: Mutex<Table>,
}

impl Default for Damping {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl Damping {
    /// With these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let (per_address, per_key) = (limits.per_address, limits.per_key);
        Self { per_address, per_key, active: AtomicBool::new(false), table: Mutex::default() }
    }

    /// Whether there is anything to ask about: somebody has failed of late.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Whether a request that claims this access key may be looked at.
    #[must_use]
    pub fn may(&self, address: IpAddr, access_key: &str, now: Timestamp) -> bool {
        let now_s = now.as_secs();
        let access_key = bounded(access_key);
        let table = self.table.lock();
        let over = |failures: Option<&Failures>, limit: Guesses| {
            failures.is_some_and(|failures| failures.now(now_s, limit) >= f64::from(limit.at_once))
        };
        if !over(table.addresses.get(&address), self.per_address) && !over(table.keys.get(access_key), self.per_key) {
            return true;
        }
        let trusted = table.trusted.get(&(address, access_key.to_owned()));
        trusted.is_some_and(|at_s| now_s.saturating_sub(*at_s) <= TRUST_S)
    }

    /// A signature was wrong, or its access key unknown.
    pub fn failed(&self, address: IpAddr, access_key: &str, now: Timestamp) {
        let now_s = now.as_secs();
        let mut table = self.table.lock();
        count(&mut table.addresses, address, now_s, self.per_address);
        count(&mut table.keys, bounded(access_key).to_owned(), now_s, self.per_key);
        self.active.store(true, Ordering::Relaxed);
    }

    /// A signature was right. To be told only while [`Damping::is_active`].
    pub fn succeeded(&self, address: IpAddr, access_key: &str, now: Timestamp) {
        let now_s = now.as_secs();
        let mut table = self.table.lock();
        table.addresses.retain(|_, failures| failures.now(now_s, self.per_address) > 0.0);
        table.keys.retain(|_, failures| failures.now(now_s, self.per_key) > 0.0);
        if table.addresses.is_empty() && table.keys.is_empty() {
            table.trusted.clear();
            self.active.store(false, Ordering::Relaxed);
            return;
        }
        if table.trusted.len() >= ENTRIES_MAX {
            table.trusted.retain(|_, at_s| now_s.saturating_sub(*at_s) <= 60);
            if table.trusted.len() >= ENTRIES_MAX {
                return;
            }
        }
        table.trusted.insert((address, bounded(access_key).to_owned()), now_s);
    }
}

/// What is too long to be an access key is one and the same wrong one.
fn bounded(access_key: &str) -> &str {
    if access_key.len() > KEY_MAX { "" } else { access_key }
}

fn count<K: std::hash::Hash + Eq>(table: &mut HashMap<K, Failures>, key: K, now_s: u64, limit: Guesses) {
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        table.retain(|_, failures| failures.now(now_s, limit) > 0.0);
        if table.len() >= ENTRIES_MAX {
            // Whoever fills the table with addresses or names has failed once with each: forget those, keep the stubborn.
            table.retain(|_, failures| failures.now(now_s, limit) > 2.0);
        }
        if table.len() >= ENTRIES_MAX {
            return;
        }
    }
    let entry = table.entry(key).or_insert(Failures { count: 0.0, at_s: now_s });
    *entry = Failures { count: entry.now(now_s, limit) + 1.0, at_s: now_s };
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUESSER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn guessing_is_slowed_and_forgiven_and_locks_nobody_out() {
        let damping = Damping::default();
        assert!(!damping.is_active() && damping.may(GUESSER, "AK", at(0)));
        damping.failed(GUESSER, "AK", at(0));
        damping.succeeded(OTHER, "AK", at(0));
        for _ in 0..1_100 {
            damping.failed(GUESSER, "AK", at(0));
        }
        assert!(!damping.may(GUESSER, "AK", at(0)), "this address and key");
        assert!(!damping.may(GUESSER, "OTHER", at(0)), "this address with other keys");
        assert!(!damping.may(IpAddr::V4([10, 0, 0, 3].into()), "AK", at(0)), "this key from elsewhere");
        assert!(damping.may(OTHER, "AK", at(0)), "who had it right before");
        assert!(damping.may(OTHER, "OTHER", at(0)));
        assert!(damping.may(GUESSER, "AK", at(600)));
        damping.succeeded(OTHER, "AK", at(1_000));
        assert!(!damping.is_active());
    }

    #[test]
    fn the_table_is_bounded() {
        let damping = Damping::default();
        for n in 0..(ENTRIES_MAX as u32 + 1_000) {
            damping.failed(IpAddr::V4(n.into()), &format!("AK{n}"), at(0));
        }
        let table = damping.table.lock();
        assert!(table.addresses.len() <= ENTRIES_MAX && table.keys.len() <= ENTRIES_MAX);
        assert_eq!(bounded(&"x".repeat(1_000)).len(), 0);
    }
}
