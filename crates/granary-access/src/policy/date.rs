//! Times of policies: ISO 8601 as W3C profiles it, or seconds since 1970.

use granary_types::Timestamp;

const DAY_S: i64 = 86_400;

/// Days since 1970-01-01 of a civil date (proleptic Gregorian).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = if year >= 0 { year } else { year - 399 } / 400;
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Microseconds since 1970 of `2026-01-02T03:04:05Z`, `2026-01-02T03:04:05.678+01:00`, `2026-01-02`, or a number of seconds.
pub(crate) fn parse(text: &str) -> Option<i64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.len() != 4 {
        return text.parse::<i64>().ok()?.checked_mul(1_000_000);
    }
    let (date, time) = match text.split_once(['T', 't']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let number = |text: &str, len: usize| -> Option<i64> {
        (text.len() == len && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = parts.next().map_or(Some(1), |text| number(text, 2))?;
    let day = parts.next().map_or(Some(1), |text| number(text, 2))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=last).contains(&day) {
        return None;
    }
    let mut seconds = days(year, month, day) * DAY_S;
    let mut micros = 0;
    if let Some(time) = time {
        let at = time.find(['Z', 'z', '+', '-'])?;
        let (clock, zone) = time.split_at(at);
        let (clock, fraction) = clock.split_once('.').map_or((clock, ""), |(clock, fraction)| (clock, fraction));
        let mut parts = clock.split(':');
        let hour = number(parts.next()?, 2).filter(|hour| *hour < 24)?;
        let minute = number(parts.next()?, 2).filter(|minute| *minute < 60)?;
        let second = parts.next().map_or(Some(0), |text| number(text, 2)).filter(|second| *second < 61)?;
        if parts.next().is_some() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
        micros = six.parse::<i64>().ok()?;
        seconds += hour * 3600 + minute * 60 + second;
        seconds -= match zone.as_bytes().first() {
            Some(b'Z' | b'z') if zone.len() == 1 => 0,
            Some(sign @ (b'+' | b'-')) => {
                let (hours, minutes) = zone[1..].split_once(':')?;
                let offset = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
                if *sign == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
    }
    Some(seconds * 1_000_000 + micros)
}

/// `2026-01-02T03:04:05Z`.
#[must_use]
pub fn iso(at: Timestamp) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX / 2);
    let (day, clock) = (seconds / DAY_S, seconds % DAY_S);
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

/// Seconds since 1970 of an ISO 8601 time, for arguments of commands.
#[must_use]
pub fn parse_secs(text: &str) -> Option<u64> {
    u64::try_from(parse(text)? / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (text, secs) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-20T12:40:00Z", 1_795_178_400),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(parse(text), Some(secs * 1_000_000), "{text}");
            assert_eq!(iso(Timestamp::from_secs(u64::try_from(secs).unwrap())), text);
        }
        assert_eq!(parse("2026-11-20T13:40:00.5+01:00"), Some(1_795_178_400_500_000));
        assert_eq!(parse("2026-11-20"), Some(1_795_132_800_000_000));
        assert_eq!(parse("1795178400"), Some(1_795_178_400_000_000));
    }

    #[test]
    fn nonsense() {
        for text in
            ["", "soon", "2026-13-01", "2026-02-29", "2026-11-20T25:00:00Z", "2026-11-20T12:00:00", "2026-1-1", "-5"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
