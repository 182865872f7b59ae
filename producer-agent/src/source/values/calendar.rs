//! Reads dates and times from text, as exact values of a type.
//!
//! Owns their forms. A part that a type does not have, or digits that it cannot hold, are refused.

use jiff::civil::{self, DateTime};
use jiff::fmt::strtime;
use jiff::{Timestamp, Unit};
use serde::Deserialize;

use super::digits::runs;
use super::numeral::Rounding;

/// How dates are written, as `strptime` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DateFormat(String);

/// A format that gives no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "date_format = {0:?} does not say a day: write %d, %m and %Y (four digits), such as \"%d.%m.%Y\", or dd, mm, yyyy"
)]
pub struct DateFormatError(String);

impl TryFrom<String> for DateFormat {
    type Error = DateFormatError;

    fn try_from(text: String) -> Result<Self, DateFormatError> {
        let format = match text.contains('%') {
            true => text.clone(),
            false => text.to_lowercase().replace("yyyy", "%Y").replace("mm", "%m").replace("dd", "%d"),
        };
        let is_known = ["%d", "%m", "%Y"].iter().all(|part| format.matches(part).count() == 1)
            && format.matches('%').count() == 3;
        // A day that can be read in one way only: it is written and read back.
        let day = civil::date(2019, 5, 14);
        let comes_back =
            strtime::format(&format, day).ok().and_then(|text| civil::Date::strptime(&format, text).ok());
        if is_known && comes_back == Some(day) { Ok(Self(format)) } else { Err(DateFormatError(text)) }
    }
}

/// Days since 1970.
pub(in crate::source) fn days(text: &str, format: Option<&DateFormat>) -> Result<i64, String> {
    let date = match format {
        Some(DateFormat(format)) => {
            let read = civil::Date::strptime(format, text).ok();
            // The date, written again, must be the text: no sign, no blank, no year of two digits.
            let is_so =
                |date: &civil::Date| strtime::format(format, *date).is_ok_and(|again| again == padded(text));
            read.filter(is_so).ok_or_else(|| format!("it is not a date such as {}", example(format)))?
        }
        None => {
            plain_date(text).ok_or_else(|| match text.len() > 10 && text.parse::<DateTime>().is_ok() {
                true => "it is a date with a time, where a date must stand",
                false => "it is not a date such as 2026-01-31",
            })?
        }
    };
    if date.year() < 1 {
        return Err(NO_YEAR.to_owned());
    }
    Ok(date.duration_since(civil::date(1970, 1, 1)).as_hours() / 24)
}

const NO_YEAR: &str = "it lies before the year 1, which databases do not agree about";

/// Pads single digits to two: 14.5.2019 becomes 14.05.2019.
fn padded(text: &str) -> String {
    let two = |(is_digits, run): (bool, &str)| match is_digits && run.len() == 1 {
        true => format!("0{run}"),
        false => run.to_owned(),
    };
    runs(text).map(two).collect()
}

fn example(format: &str) -> String {
    strtime::format(format, civil::date(2026, 1, 31)).unwrap_or_else(|_| format.to_owned())
}

/// Whether a text has the shape of a date: four digits, two, two.
fn is_date(text: &str) -> bool {
    let shape = text.bytes().enumerate().all(|(index, byte)| match index {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    shape && text.len() == 10
}

/// The day of a text that has the shape of a date.
fn plain_date(text: &str) -> Option<civil::Date> {
    let [year, month, day] = [0..4, 5..7, 8..10].map(|range| text.get(range).unwrap_or_default());
    let of = || civil::Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok();
    is_date(text).then(of).flatten()
}

/// The unit in which a type counts time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Precision {
    Millis,
    Micros,
    Nanos,
}

impl Precision {
    const fn nanos(self) -> i128 {
        match self {
            Self::Millis => 1_000_000,
            Self::Micros => 1_000,
            Self::Nanos => 1,
        }
    }

    fn held(self, nanos: i128, rounding: Rounding) -> Result<i64, String> {
        let finer = match self {
            Self::Millis => "it is finer than a millisecond",
            Self::Micros => "it is finer than a microsecond",
            Self::Nanos => "it is finer than a nanosecond",
        };
        let units = rounding.divide(nanos, self.nanos()).ok_or(finer)?;
        i64::try_from(units).map_err(|_| "it is beyond what its type can hold".to_owned())
    }
}

/// Units since 1970, of a time with its offset.
pub(in crate::source) fn instant(
    text: &str,
    precision: Precision,
    rounding: Rounding,
) -> Result<i64, String> {
    let text = unambiguous(text)?;
    begins_with_a_day(&text).ok_or("it is not a time with its offset, such as 2026-01-31T10:00:00+02:00")?;
    let instant: Timestamp = text.parse().map_err(|_| {
        let pieces = jiff::fmt::temporal::Pieces::parse(&text);
        let has_offset = pieces.is_ok_and(|pieces| pieces.to_numeric_offset().is_some());
        match has_offset {
            true => "it is beyond 9999-12-30T22:00:00Z, the last time that can be held: use null for no end",
            false => "it is not a time with its offset, such as 2026-01-31T10:00:00+02:00",
        }
    })?;
    let is_after_christ = instant.as_second() >= FIRST_SECOND;
    if is_after_christ { precision.held(instant.as_nanosecond(), rounding) } else { Err(NO_YEAR.to_owned()) }
}

/// 0001-01-01T00:00:00Z.
const FIRST_SECOND: i64 = -62_135_596_800;

/// Checks for a day, `T` or a blank, a clock with colons, and an offset below a day: a text without them could be read
/// as something else.
fn begins_with_a_day(text: &str) -> Option<()> {
    let (day, rest) = text.split_at_checked(10)?;
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let has_colon =
        clock.as_bytes().get(2) == Some(&b':') && clock.get(..2)?.bytes().all(|b| b.is_ascii_digit());
    let offset = clock.rsplit_once(['+', '-']).map_or("00", |(_, offset)| offset);
    let hours: u32 = offset.get(..2)?.parse().ok()?;
    (is_date(day) && !day.starts_with("0000") && has_colon && hours < 24).then_some(())
}

/// Units since 1970, of a time without an offset.
pub(in crate::source) fn local(text: &str, precision: Precision, rounding: Rounding) -> Result<i64, String> {
    let text = unambiguous(text)?;
    let has_offset = jiff::fmt::temporal::Pieces::parse(&text).is_ok_and(|p| p.to_numeric_offset().is_some());
    if has_offset {
        return Err(
            "it has an offset, where a time without one must stand, such as 2026-01-31T10:00:00".to_owned()
        );
    }
    let read = text.parse::<DateTime>().ok().filter(|_| begins_with_a_day(&text).is_some());
    let time = read.ok_or("it is not a time without an offset, such as 2026-01-31T10:00:00")?;
    let instant =
        time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| "it is outside the calendar".to_owned())?;
    precision.held(instant.timestamp().as_nanosecond(), rounding)
}

/// Units since midnight.
pub(in crate::source) fn time_of_day(
    text: &str,
    precision: Precision,
    rounding: Rounding,
) -> Result<i64, String> {
    let text = unambiguous(text)?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'));
    let is_time = is_plain && text.get(2..3) == Some(":") && text.len() >= 5;
    let read = text.parse::<civil::Time>().ok().filter(|_| is_time);
    let time = read.ok_or("it is not a time of day such as 10:00:00")?;
    let span = time.since((Unit::Nanosecond, civil::Time::midnight()));
    let nanos = span.map_err(|_| "it is outside the day".to_owned())?.get_nanoseconds();
    let held = precision.held(i128::from(nanos), rounding)?;
    let day = 86_400_000_000_000 / precision.nanos();
    if i128::from(held) < day { Ok(held) } else { Err("it rounds to the next day".to_owned()) }
}

/// Refuses what the parser would read as another time: a leap second, the name of a zone. Cuts zeros below a
/// nanosecond.
fn unambiguous(text: &str) -> Result<String, String> {
    if text.contains('[') {
        return Err("it names a time zone: give the offset alone".to_owned());
    }
    if text
        .match_indices(":60")
        .any(|(at, _)| text.get(..at).is_some_and(|head| head.matches(':').count() == 1))
    {
        return Err("it has a leap second, which no type here can hold".to_owned());
    }
    let Some((head, tail)) = text.split_once(['.', ',']) else { return Ok(text.to_owned()) };
    let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, rest) = tail.split_at(digits);
    if digits <= 9 {
        return Ok(text.to_owned());
    }
    let (held, beyond) = fraction.split_at(9);
    match beyond.bytes().all(|digit| digit == b'0') {
        true => Ok(format!("{head}.{held}{rest}")),
        false => Err("it is finer than a nanosecond".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_day_and_nothing_else() {
        assert_eq!(days("2021-07-01", None), Ok(18_809));
        assert_eq!(days("1969-12-31", None), Ok(-1));
        for text in ["2021-07-01T00:00:00", "2021-07-01 10:00"] {
            assert!(days(text, None).unwrap_err().contains("a date with a time"), "{text}");
        }
        for text in [
            "20210701",
            "2021-7-1",
            "01.07.2021",
            "2021-02-30",
            "+002021-07-01",
            "2021-07-01Z",
            "0000-01-01",
            "",
        ] {
            assert!(days(text, None).is_err(), "{text}");
        }
        for spelt in ["%d.%m.%Y", "dd.mm.yyyy", "DD.MM.YYYY"] {
            let format = DateFormat::try_from(spelt.to_owned()).unwrap();
            assert_eq!(days("14.05.2019", Some(&format)), days("2019-05-14", None));
            assert_eq!(days("14.5.2019", Some(&format)), days("2019-05-14", None));
            for text in [
                "2019-05-14",
                "14.05.2019 10:00",
                "31.02.2019",
                "14.05.19",
                "01.01.-2020",
                "01. 01.2020",
                "01.01.+2020",
            ] {
                assert!(days(text, Some(&format)).is_err(), "{text}");
            }
        }
        let together = DateFormat::try_from("yyyymmdd".to_owned()).unwrap();
        assert_eq!(days("20190514", Some(&together)), days("2019-05-14", None));
        let dashes = DateFormat::try_from("%Y-%m-%d".to_owned()).unwrap();
        assert!(days("2020--1-1", Some(&dashes)).is_err() && days("-2020-01-01", Some(&dashes)).is_err());
        for wrong in ["%d.%m", "%d.%m.%y", "%d.%m.%Y %H", "d.m.y", "", "%d%d%Y"] {
            assert!(DateFormat::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_held_or_refused() {
        let millis = |text| instant(text, Precision::Millis, Rounding::Refuse);
        assert_eq!(millis("1970-01-01T00:00:00.12Z"), Ok(120));
        assert_eq!(millis("1970-01-01T00:00:00.1200000000000Z"), Ok(120));
        assert_eq!(millis("1970-01-01T02:00:00+02:00"), Ok(0));
        assert!(millis("1969-12-31T23:59:59.9999Z").unwrap_err().contains("finer than a millisecond"));
        assert!(millis("1969-12-31T23:59:59.9990000001Z").unwrap_err().contains("finer than a nanosecond"));
        assert_eq!(instant("1969-12-31T23:59:59.9999Z", Precision::Millis, Rounding::Down), Ok(-1));
        assert!(millis("9999-12-31T23:59:59Z").unwrap_err().contains("use null for no end"));
        for text in [
            "2026-01-31T10:00:00",
            "2026-01-31",
            "2016-12-31T23:59:60Z",
            "2026-01-31T10:00:00+02:00[Europe/Riga]",
            "1700000000",
            "20161231T235960Z",
            "2016-12-31T235960Z",
            "-004800-01-01T00:00:00Z",
            "0000-06-01T00:00:00Z",
            "2026-01-31T10:00:00+24:00",
        ] {
            assert!(millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_without_an_offset_have_types_of_their_own() {
        let here = |text| local(text, Precision::Micros, Rounding::Refuse);
        assert_eq!(here("1970-01-01T00:00:01.000001"), Ok(1_000_001));
        for text in [
            "1970-01-01",
            "10:00",
            "1970-01-01T100000",
            "1970-01-01T10",
            "19700101T10:00:00",
            "0000-06-01T10:00:00",
        ] {
            assert!(here(text).is_err(), "{text}");
        }
        for text in ["1970-01-01T00:00:01Z", "1970-01-01T00:00:01+00:00"] {
            assert!(here(text).is_err_and(|problem| problem.contains("has an offset")), "{text}");
        }
        let clock = |text| time_of_day(text, Precision::Millis, Rounding::HalfUp);
        assert_eq!(clock("00:00:01.5"), Ok(1_500));
        for text in ["24:00:00", "23:59:59.9999", "1970-01-01T10:00", "1000", "10:00:00+02:00"] {
            assert!(clock(text).is_err(), "{text}");
        }
    }
}
