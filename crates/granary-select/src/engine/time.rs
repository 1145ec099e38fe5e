//! Timestamps: as Ion writes them, their parts, and what is reckoned with them. Microseconds since 1970, UTC.

use time::{Date, Month, OffsetDateTime, Time};

use crate::error::{Code, Error};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A part of a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    TimezoneHour,
    TimezoneMinute,
}

impl Part {
    pub(super) fn of(name: &str) -> Result<Self, Error> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "year" => Self::Year,
            "month" => Self::Month,
            "day" => Self::Day,
            "hour" => Self::Hour,
            "minute" => Self::Minute,
            "second" => Self::Second,
            "timezone_hour" => Self::TimezoneHour,
            "timezone_minute" => Self::TimezoneMinute,
            other => {
                let message =
                    format!("`{other}` is not a part of a date: use year, month, day, hour, minute or second.");
                return Err(Error::new(Code::ParseExpectedDatePart, message));
            }
        })
    }
}

fn moment(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .ok()
        .filter(|at| (1..=9999).contains(&at.year()))
}

fn micros(date: Date, time: Time) -> Option<i64> {
    i64::try_from(date.with_time(time).assume_utc().unix_timestamp_nanos() / 1000).ok()
}

/// `2007T`, `2007-02T`, `2007-02-23`, `2007-02-23T12:14Z`, `2007-02-23T12:14:33.079-08:00`; a blank for the T is taken, and no
/// offset is UTC.
pub(super) fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, ""));
    let mut fields = date.splitn(3, '-');
    let number = |field: &str, len: usize| {
        (field.len() == len && field.bytes().all(|b| b.is_ascii_digit())).then(|| field.parse::<u16>().ok())?
    };
    let year = number(fields.next()?, 4)?;
    let month = fields.next().map_or(Some(1), |field| number(field, 2))?;
    let day = fields.next().map_or(Some(1), |field| number(field, 2))?;
    // Without a day, only the T says that it is a timestamp at all.
    if date.len() < 10 && !text.ends_with(['T', 't']) {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?)
        .ok()
        .filter(|date| date.year() > 0)?;
    if time.is_empty() {
        return micros(date, Time::MIDNIGHT);
    }
    let (clock, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => (&time[..at], zone(&time[at..])?),
        None => (time, 0),
    };
    let mut fields = clock.splitn(3, ':');
    let hour = u8::try_from(number(fields.next()?, 2)?).ok()?;
    let minute = u8::try_from(number(fields.next()?, 2)?).ok()?;
    let (second, nanos) = match fields.next() {
        None => (0, 0),
        Some(field) => {
            let (second, fraction) = field.split_once('.').unwrap_or((field, "0"));
            let is_fraction =
                !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
            let nanos = is_fraction.then(|| format!("{fraction:0<9}").parse::<u32>().ok())??;
            (u8::try_from(number(second, 2)?).ok()?, nanos)
        }
    };
    let time = Time::from_hms_nano(hour, minute, second, nanos).ok()?;
    micros(date, time)?.checked_sub(offset)
}

fn zone(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = if let Some(rest) = text.strip_prefix('-') { (-1, rest) } else { (1, text.strip_prefix('+')?) };
    let digits: String = rest.chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = (digits[..2].parse::<i64>().ok()?, digits[2..].parse::<i64>().ok()?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * HOUR + minutes * MINUTE))
}

/// ISO 8601, as Ion writes timestamps.
pub(super) fn write(micros: i64) -> Option<String> {
    let at = moment(micros)?;
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if at.microsecond() > 0 {
        let digits = format!("{:06}", at.microsecond());
        text = text + "." + if digits.ends_with("000") { &digits[..3] } else { &digits };
    }
    Some(text + "Z")
}

/// The timestamp so many parts later; months end where the month does.
pub(super) fn add(part: Part, count: i64, micros_from: i64) -> Option<i64> {
    let unit = match part {
        Part::Year | Part::Month => {
            let at = moment(micros_from)?;
            let months = if part == Part::Year { count.checked_mul(12)? } else { count };
            let total = (i64::from(at.year()) * 12 + i64::from(u8::from(at.month())) - 1).checked_add(months)?;
            let year = i32::try_from(total.div_euclid(12)).ok().filter(|year| (1..=9999).contains(year))?;
            let month = Month::try_from(u8::try_from(total.rem_euclid(12)).ok()? + 1).ok()?;
            let date = Date::from_calendar_date(year, month, at.day().min(month.length(year))).ok()?;
            return micros(date, at.time());
        }
        Part::Day => DAY,
        Part::Hour | Part::TimezoneHour => HOUR,
        Part::Minute | Part::TimezoneMinute => MINUTE,
        Part::Second => SECOND,
    };
    let sum = count.checked_mul(unit)?.checked_add(micros_from)?;
    moment(sum).map(|_| sum)
}

/// How many whole parts lie between.
pub(super) fn between(part: Part, from: i64, to: i64) -> Option<i64> {
    let unit = match part {
        Part::Year | Part::Month => {
            let (a, b) = (moment(from)?, moment(to)?);
            let months = |at: OffsetDateTime| i64::from(at.year()) * 12 + i64::from(u8::from(at.month()));
            let mut count = months(b) - months(a);
            // A month that has begun only counts once the day and the time are reached.
            let is_short = |count: i64| {
                add(Part::Month, count, from).is_some_and(|reached| if count > 0 { reached > to } else { reached < to })
            };
            if count != 0 && is_short(count) {
                count -= count.signum();
            }
            return Some(if part == Part::Year { count / 12 } else { count });
        }
        Part::Day => DAY,
        Part::Hour | Part::TimezoneHour => HOUR,
        Part::Minute | Part::TimezoneMinute => MINUTE,
        Part::Second => SECOND,
    };
    Some(to.checked_sub(from)? / unit)
}

/// The part.
pub(super) fn extract(part: Part, micros: i64) -> Option<i64> {
    let at = moment(micros)?;
    Some(match part {
        Part::Year => i64::from(at.year()),
        Part::Month => i64::from(u8::from(at.month())),
        Part::Day => i64::from(at.day()),
        Part::Hour => i64::from(at.hour()),
        Part::Minute => i64::from(at.minute()),
        Part::Second => i64::from(at.second()),
        Part::TimezoneHour | Part::TimezoneMinute => 0,
    })
}

/// A pattern of TO_STRING, read: letters and how often, and what stands between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Field(char, usize),
    Text(String),
}

impl Pattern {
    /// What [`write`] writes: the pattern of a timestamp that is only shown.
    pub(super) fn iso() -> Self {
        Self(Vec::new())
    }

    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let mut pieces = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(first) = chars.next() {
            if first == '\'' {
                let quoted: String = chars.by_ref().take_while(|c| *c != '\'').collect();
                pieces.push(Piece::Text(if quoted.is_empty() { "'".to_owned() } else { quoted }));
            } else if first.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&first).is_some() {
                    count += 1;
                }
                let most = match first {
                    'y' => 4,
                    'M' | 'X' | 'x' => 5,
                    'd' | 'h' | 'H' | 'm' | 's' => 2,
                    'a' | 'n' => 1,
                    'S' => 9,
                    _ => 0,
                };
                if count > most || (first == 'y' && count == 3) {
                    let message = format!(
                        "`{}` is not a field of a timestamp's pattern.",
                        first.to_string().repeat(count.min(10))
                    );
                    return Err(Error::new(Code::EvaluatorInvalidTimestampFormatPattern, message));
                }
                pieces.push(Piece::Field(first, count));
            } else {
                pieces.push(Piece::Text(first.to_string()));
            }
        }
        Ok(Self(pieces))
    }

    pub(super) fn write(&self, micros: i64) -> Option<String> {
        if self.0.is_empty() {
            return write(micros);
        }
        let at = moment(micros)?;
        Some(
            self.0
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Field(letter, count) => field(*letter, *count, at),
                })
                .collect(),
        )
    }
}

fn field(letter: char, count: usize, at: OffsetDateTime) -> String {
    let padded = |number: u8| if count == 2 { format!("{number:02}") } else { number.to_string() };
    let twelve = (at.hour() + 11) % 12 + 1;
    let month = at.month().to_string();
    match (letter, count) {
        ('y', 2) => format!("{:02}", at.year() % 100),
        ('y', 4) => format!("{:04}", at.year()),
        ('y', _) => at.year().to_string(),
        ('M', 3) => month[..3].to_owned(),
        ('M', 4) => month,
        ('M', 5) => month[..1].to_owned(),
        ('M', _) => padded(at.month().into()),
        ('d', _) => padded(at.day()),
        ('a', _) => if at.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        ('h', _) => padded(twelve),
        ('H', _) => padded(at.hour()),
        ('m', _) => padded(at.minute()),
        ('s', _) => padded(at.second()),
        ('S', count) => format!("{:09}", at.nanosecond())[..count].to_owned(),
        ('n', _) => at.nanosecond().to_string(),
        ('x', 1) => "+00".to_owned(),
        ('x', 2 | 4) => "+0000".to_owned(),
        ('x', _) => "+00:00".to_owned(),
        _ => "Z".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        parse(text).unwrap_or_else(|| panic!("{text} is a timestamp"))
    }

    #[test]
    fn timestamps_are_read_and_written() {
        for (text, expected) in [
            ("2007T", "2007-01-01T00:00:00Z"),
            ("2007-02T", "2007-02-01T00:00:00Z"),
            ("2007-02-23", "2007-02-23T00:00:00Z"),
            ("2007-02-23T12:14Z", "2007-02-23T12:14:00Z"),
            ("2007-02-23T12:14:33.079-08:00", "2007-02-23T20:14:33.079Z"),
            ("2007-02-23 12:14:33.000001", "2007-02-23T12:14:33.000001Z"),
        ] {
            assert_eq!(write(at(text)).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "2007",
            "2007-02",
            "2007-02-30",
            "2007-02-23T12",
            "2007-02-23T25:00Z",
            "2007-02-23T12:14:33.",
            "0000T",
            "x",
            "2007-02-23T12:14+8",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn parts_are_added_counted_and_taken() {
        assert_eq!(add(Part::Month, 1, at("2024-01-31")), Some(at("2024-02-29")));
        assert_eq!(add(Part::Year, -1, at("2024-02-29")), Some(at("2023-02-28")));
        assert_eq!(add(Part::Day, 1, at("2009-12-31")), Some(at("2010-01-01")));
        assert_eq!(add(Part::Year, 9000, at("2024T")), None);
        assert_eq!(add(Part::Second, i64::MAX, at("2024T")), None);
        assert_eq!(between(Part::Year, at("2010-01-01"), at("2010-12-31")), Some(0));
        assert_eq!(between(Part::Month, at("2010-01-31"), at("2010-03-01")), Some(1));
        assert_eq!(between(Part::Month, at("2010-03-01"), at("2010-01-31")), Some(-1));
        assert_eq!(between(Part::Day, at("2010-01-01T23:00Z"), at("2010-01-02T01:00Z")), Some(0));
        assert_eq!(extract(Part::Minute, at("2010-01-01T23:59Z")), Some(59));
        assert!(Part::of("Quarter").is_err());
    }

    #[test]
    fn patterns_write_what_s3_documents() {
        let shown = |pattern: &str| {
            Pattern::parse(pattern).expect(pattern).write(at("1969-07-20T20:18:05.123Z")).expect("in range")
        };
        assert_eq!(shown("MMMM d, y"), "July 20, 1969");
        assert_eq!(shown("MMM d, yyyy h:m a"), "Jul 20, 1969 8:18 PM");
        assert_eq!(shown("y-MM-dd'T'HH:mm:ssXXX"), "1969-07-20T20:18:05Z");
        assert_eq!(shown("ss.SSS n xx"), "05.123 123000000 +0000");
        assert!(Pattern::parse("yyy").is_err() && Pattern::parse("q").is_err());
    }
}
