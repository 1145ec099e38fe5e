//! Condition blocks: operators, their qualifiers, and what a missing key means.
//!
//! As AWS documents it: all operators and all keys of a block must hold; of a key's values one is enough (for negated
//! operators none may match). A key that the request does not have fails an operator, satisfies a negated one, and
//! satisfies everything that ends in `IfExists` or begins with `ForAllValues:`.

use std::net::IpAddr;

use base64::Engine as _;

use super::context::{Env, Key};
use super::pattern::{Case, Pattern};
use granary_types::date;

/// What an operator compares with.
#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Text(Vec<Pattern>, Case),
    /// Six parts, each a pattern.
    Arn(Vec<Pattern>),
    Number(Vec<f64>, Order),
    /// Microseconds.
    Date(Vec<i64>, Order),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Address(Vec<Network>),
    /// `Null`: the key must be absent (`true`) or present.
    Null(Vec<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u8>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(max);
        (bits <= max).then_some(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        let plain = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            v4 => v4,
        };
        match (self.address, plain) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                shift == 32 || u32::from(net) >> shift == u32::from(address) >> shift
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                shift == 128 || u128::from(net) >> shift == u128::from(address) >> shift
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// No qualifier.
    None,
    All,
    Any,
}

/// One operator on one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    key: Key,
    set: Set,
    if_exists: bool,
    negated: bool,
    wanted: Wanted,
}

impl Condition {
    /// Reads an operator on a key with its values.
    pub(crate) fn parse(operator: &str, key: &str, values: &[String], variables: bool) -> Result<Self, String> {
        let (set, rest) = match operator.split_once(':') {
            Some(("ForAllValues", rest)) => (Set::All, rest),
            Some(("ForAnyValue", rest)) => (Set::Any, rest),
            Some(_) => return Err(format!("`{operator}` is not a condition operator")),
            None => (Set::None, operator),
        };
        let (name, if_exists) = match rest.strip_suffix("IfExists") {
            Some(name) if name != "Null" => (name, true),
            _ => (rest, false),
        };
        let key = Key::parse(key).ok_or_else(|| format!("`{key}` is not a condition key"))?;
        let wrong = |what: &str, value: &str| format!("{operator} on {key}: `{value}` is not {what}");
        let texts = |wildcards: bool| -> Result<Vec<Pattern>, String> {
            let make = if wildcards { Pattern::new } else { Pattern::literal };
            values
                .iter()
                .map(|value| make(value, variables).map_err(|error| format!("{operator} on {key}: {error}")))
                .collect()
        };
        let each = |read: fn(&str) -> Option<f64>| -> Result<Vec<f64>, String> {
            values.iter().map(|value| read(value).ok_or_else(|| wrong("a number", value))).collect()
        };
        let dates = || -> Result<Vec<i64>, String> {
            values
                .iter()
                .map(|value| date::parse(value).ok_or_else(|| wrong("a date such as 2026-01-31T00:00:00Z", value)))
                .collect()
        };
        let bools = || -> Result<Vec<bool>, String> {
            values
                .iter()
                .map(|value| match value.to_ascii_lowercase().as_str() {
                    "true" => Ok(true),
                    "false" => Ok(false),
                    _ => Err(wrong("true or false", value)),
                })
                .collect()
        };
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let (wanted, negated) = match name {
            "StringEquals" => (Wanted::Text(texts(false)?, Case::Counts), false),
            "StringNotEquals" => (Wanted::Text(texts(false)?, Case::Counts), true),
            "StringEqualsIgnoreCase" => (Wanted::Text(texts(false)?, Case::Ignored), false),
            "StringNotEqualsIgnoreCase" => (Wanted::Text(texts(false)?, Case::Ignored), true),
            "StringLike" => (Wanted::Text(texts(true)?, Case::Counts), false),
            "StringNotLike" => (Wanted::Text(texts(true)?, Case::Counts), true),
            "ArnEquals" | "ArnLike" => (Wanted::Arn(arns(values, variables, operator)?), false),
            "ArnNotEquals" | "ArnNotLike" => (Wanted::Arn(arns(values, variables, operator)?), true),
            "NumericEquals" => (Wanted::Number(each(number)?, Order::Equal), false),
            "NumericNotEquals" => (Wanted::Number(each(number)?, Order::Equal), true),
            "NumericLessThan" => (Wanted::Number(each(number)?, Order::Less), false),
            "NumericLessThanEquals" => (Wanted::Number(each(number)?, Order::LessOrEqual), false),
            "NumericGreaterThan" => (Wanted::Number(each(number)?, Order::Greater), false),
            "NumericGreaterThanEquals" => (Wanted::Number(each(number)?, Order::GreaterOrEqual), false),
            "DateEquals" => (Wanted::Date(dates()?, Order::Equal), false),
            "DateNotEquals" => (Wanted::Date(dates()?, Order::Equal), true),
            "DateLessThan" => (Wanted::Date(dates()?, Order::Less), false),
            "DateLessThanEquals" => (Wanted::Date(dates()?, Order::LessOrEqual), false),
            "DateGreaterThan" => (Wanted::Date(dates()?, Order::Greater), false),
            "DateGreaterThanEquals" => (Wanted::Date(dates()?, Order::GreaterOrEqual), false),
            "Bool" => (Wanted::Bool(bools()?), false),
            "BinaryEquals" => {
                let decode = |value: &String| {
                    base64::engine::general_purpose::STANDARD.decode(value).map_err(|_| wrong("base64", value))
                };
                (Wanted::Binary(values.iter().map(decode).collect::<Result<_, _>>()?), false)
            }
            "IpAddress" | "NotIpAddress" => {
                let read = |value: &String| {
                    Network::parse(value).ok_or_else(|| wrong("an address or a range such as 10.0.0.0/8", value))
                };
                (Wanted::Address(values.iter().map(read).collect::<Result<_, _>>()?), name == "NotIpAddress")
            }
            "Null" if set == Set::None => (Wanted::Null(bools()?), false),
            _ => return Err(format!("`{operator}` is not a condition operator")),
        };
        Ok(Self { key, set, if_exists, negated, wanted })
    }

    /// The keys that the outcome depends on.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        let patterns: &[Pattern] = match &self.wanted {
            Wanted::Text(patterns, _) | Wanted::Arn(patterns) => patterns,
            _ => &[],
        };
        std::iter::once(&self.key).chain(patterns.iter().flat_map(Pattern::keys))
    }

    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    /// Whether it narrows who may come to something fixed (AWS's meaning of "not public").
    pub(crate) fn pins(&self) -> bool {
        if self.negated || self.if_exists || self.set == Set::All {
            return false;
        }
        match (&self.key, &self.wanted) {
            (
                Key::PrincipalArn
                | Key::PrincipalAccount
                | Key::Userid
                | Key::Username
                | Key::ResourceAccount
                | Key::ResourceAccountAws,
                Wanted::Text(patterns, _) | Wanted::Arn(patterns),
            ) => patterns.iter().all(|pattern| pattern.exact().is_some()),
            (key, Wanted::Text(patterns, _) | Wanted::Arn(patterns)) if key.is_origin() => {
                patterns.iter().all(|pattern| pattern.exact().is_some())
            }
            // As AWS: a range wider than /8 (or /32 of IPv6) is the public.
            (Key::SourceIp, Wanted::Address(networks)) => {
                networks.iter().all(|network| network.bits >= if network.address.is_ipv4() { 8 } else { 32 })
            }
            _ => false,
        }
    }

    /// Whether the request satisfies it.
    pub(crate) fn holds(&self, env: &Env<'_>) -> bool {
        let values = env.values(&self.key);
        if let Wanted::Null(wanted) = &self.wanted {
            return wanted.iter().any(|absent| *absent == values.is_empty());
        }
        if values.is_empty() {
            return match self.set {
                Set::All => true,
                Set::Any => self.if_exists,
                Set::None => self.negated || self.if_exists,
            };
        }
        let mut holds = values.iter().map(|value| self.wanted.matches(value, env) != self.negated);
        match (self.set, self.negated) {
            // A negated operator on several values: none of them may match.
            (Set::All, _) | (Set::None, true) => holds.all(|holds| holds),
            (Set::Any, _) | (Set::None, false) => holds.any(|holds| holds),
        }
    }
}

impl Wanted {
    fn matches(&self, value: &str, env: &Env<'_>) -> bool {
        match self {
            Self::Text(patterns, case) => patterns.iter().any(|pattern| pattern.matches(value, *case, env)),
            Self::Arn(parts) => {
                let mut have = value.splitn(6, ':');
                let have: [&str; 6] = std::array::from_fn(|_| have.next().unwrap_or_default());
                parts
                    .chunks_exact(6)
                    .any(|arn| arn.iter().zip(have).all(|(pattern, part)| pattern.matches(part, Case::Counts, env)))
            }
            Self::Number(numbers, order) => {
                value.trim().parse::<f64>().is_ok_and(|value| numbers.iter().any(|number| order.holds(&value, number)))
            }
            Self::Date(dates, order) => {
                date::parse(value).is_some_and(|value| dates.iter().any(|date| order.holds(&value, date)))
            }
            Self::Bool(wanted) => {
                wanted.iter().any(|wanted| value.eq_ignore_ascii_case(if *wanted { "true" } else { "false" }))
            }
            Self::Binary(wanted) => {
                base64::engine::general_purpose::STANDARD.decode(value).is_ok_and(|value| wanted.contains(&value))
            }
            Self::Address(networks) => {
                value.parse::<IpAddr>().is_ok_and(|address| networks.iter().any(|network| network.contains(address)))
            }
            Self::Null(_) => false,
        }
    }
}

/// Six patterns for each ARN.
fn arns(values: &[String], variables: bool, operator: &str) -> Result<Vec<Pattern>, String> {
    let mut parts = Vec::with_capacity(values.len() * 6);
    for value in values {
        if value == "*" {
            for _ in 0..6 {
                parts.push(Pattern::new("*", variables).map_err(|error| error.to_string())?);
            }
            continue;
        }
        // Colons within variables do not separate.
        let mut rest = value.as_str();
        for n in 0..6 {
            let part = if n == 5 {
                rest
            } else {
                let end = colon(rest).ok_or_else(|| format!("{operator}: `{value}` is not an ARN"))?;
                let part = &rest[..end];
                rest = &rest[end + 1..];
                part
            };
            parts.push(Pattern::new(part, variables).map_err(|error| format!("{operator}: {error}"))?);
        }
    }
    Ok(parts)
}

fn colon(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.bytes().enumerate().find_map(|(at, byte)| {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b':' if depth == 0 => return Some(at),
            _ => {}
        }
        None
    })
}
