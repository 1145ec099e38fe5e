//! Times as text: ISO 8601 as W3C profiles it, or seconds since 1970.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime};

use crate::Timestamp;

const DAY_S: i64 = 86_400;

/// Microseconds since 1970 of `2026-01-02T03:04:05Z`, `2026-01-02T03:04:05.678+01:00`, `2026-01-02`, or a number of seconds.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
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
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    if parts.next().is_some() {
        return None;
    }
    let mut seconds = i64::from(date.to_julian_day() - OffsetDateTime::UNIX_EPOCH.date().to_julian_day()) * DAY_S;
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

/// The calendar's view, in UTC. What is after the year 9999 is shown as its end.
#[must_use]
pub fn utc(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000).unwrap_or(PrimitiveDateTime::MAX.assume_utc())
}

/// `2026-01-02T03:04:05Z`.
#[must_use]
pub fn iso(at: Timestamp) -> String {
    let at = utc(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

/// `2026-01-02T03:04:05.678Z`.
#[must_use]
pub fn iso_millis(at: Timestamp) -> String {
    iso(at).replace('Z', &format!(".{:03}Z", at.0 / 1_000 % 1_000))
}

/// `2026-01-02T03:04:05.678901Z`.
#[must_use]
pub fn iso_micros(at: Timestamp) -> String {
    iso(at).replace('Z', &format!(".{:06}Z", at.0 % 1_000_000))
}

/// What [`parse`] reads, where it is not before 1970.
#[must_use]
pub fn parse_at(text: &str) -> Option<Timestamp> {
    u64::try_from(parse(text)?).ok().map(Timestamp)
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
            assert_eq!(parse_at(text), Some(Timestamp::from_secs(u64::try_from(secs).unwrap())));
        }
        assert_eq!(parse("2026-11-20T13:40:00.5+01:00"), Some(1_795_178_400_500_000));
        assert_eq!(parse("2026-11-20"), Some(1_795_132_800_000_000));
        assert_eq!(parse("1795178400"), Some(1_795_178_400_000_000));
    }

    #[test]
    fn fractions() {
        let at = Timestamp(1_335_205_543_511_002);
        assert_eq!(iso_millis(at), "2012-04-23T18:25:43.511Z");
        assert_eq!(iso_micros(at), "2012-04-23T18:25:43.511002Z");
        assert_eq!(parse_at(&iso_micros(at)), Some(at));
        assert_eq!(iso(Timestamp(u64::MAX)), "9999-12-31T23:59:59Z");
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
