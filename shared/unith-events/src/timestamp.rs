//! Instants: UTC, to the millisecond, in one form for the table, the log and an event's identity.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// An instant in UTC, cut to whole milliseconds, of the years 0000 to 9999.
///
/// Its text is `2026-01-15T09:57:33.000Z`, which sorts as the instants do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Now, by the system's clock.
    pub fn now() -> Self {
        let now = OffsetDateTime::now_utc();
        Self(now.replace_millisecond(now.millisecond()).unwrap_or(now))
    }

    /// Reads an ISO 8601 date and time, e.g. `2026-01-15T09:57:33.25+01:00`, or UNITH's `2026-01-15 09:57:33`.
    ///
    /// `T`, `t` or a space stands between date and time. Seconds may be missing; their fraction follows `.` or `,`. The
    /// offset is `Z`, `±hh:mm`, `±hhmm` or `±hh`; without one the time is UTC. `None` for any other text, e.g. a date
    /// without a time, and for instants outside the UTC years 0000 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_exact(text).map(|(at, _)| at)
    }

    /// The same, with the digits below a millisecond, without trailing zeros. Of a leap second it is the whole text.
    pub fn parse_exact(text: &str) -> Option<(Self, &str)> {
        let mut rest = Cursor(text);
        let (year, month, day) = (rest.digits(4)?, rest.after(b"-")?.digits(2)?, rest.after(b"-")?.digits(2)?);
        let (hour, minute) = (rest.after(b"Tt ")?.digits(2)?, rest.after(b":")?.digits(2)?);
        let mut second = 0;
        let mut fraction = "";
        let mut from_second = "";
        if rest.skip(b":") {
            from_second = rest.0;
            second = rest.digits(2)?;
            if rest.skip(b".,") {
                fraction = rest.all_digits()?;
            }
        }
        let offset = rest.offset()?;
        // Computers have no leap seconds: the last millisecond before takes the place of one.
        let leaps = second == 60;
        let (milliseconds, beyond) = if leaps { (999, from_second) } else { split_fraction(fraction) };
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        let date = Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?).ok()?;
        let part = |number: u16| u8::try_from(number).ok();
        let time =
            Time::from_hms_milli(part(hour)?, part(minute)?, if leaps { 59 } else { part(second)? }, milliseconds);
        let local = PrimitiveDateTime::new(date, time.ok()?);
        let utc = local.assume_utc().checked_sub(time::Duration::minutes(offset))?;
        let is_last =
            || (utc.hour(), utc.minute()) == (23, 59) && utc.date().next_day().is_none_or(|day| day.day() == 1);
        (holds(&utc) && (!leaps || is_last())).then_some((Self(utc), beyond))
    }

    /// From milliseconds since 1970. `None` outside the years 0000 to 9999.
    pub fn from_epoch_milliseconds(milliseconds: i64) -> Option<Self> {
        let utc = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()?;
        holds(&utc).then_some(Self(utc))
    }

    /// Milliseconds since 1970.
    pub fn epoch_milliseconds(self) -> i64 {
        self.0.unix_timestamp() * 1000 + i64::from(self.0.millisecond())
    }

    /// Whole seconds since 1970, the unit of DynamoDB's time to live.
    pub fn epoch_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// This instant without the fraction of its second.
    pub fn whole_second(self) -> Self {
        Self(self.0.replace_nanosecond(0).unwrap_or(self.0))
    }

    /// The day, e.g. `2026-01-15`.
    pub fn day(self) -> String {
        self.to_string().get(..10).unwrap_or_default().to_owned()
    }

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.checked_since(earlier).unwrap_or_default()
    }

    /// The time since `earlier`; `None` if that is later.
    pub fn checked_since(self, earlier: Self) -> Option<Duration> {
        Duration::try_from(self.0 - earlier.0).ok()
    }

    /// This instant moved later by `by`, or the last instant of 9999.
    pub fn plus(self, by: Duration) -> Self {
        let moved = self.0.checked_add(by.try_into().unwrap_or(time::Duration::MAX)).filter(holds);
        moved.map_or(Self(time::macros::datetime!(9999-12-31 23:59:59.999 UTC)), Self)
    }

    /// This instant moved earlier by `by`, or the first instant of 0000.
    pub fn minus(self, by: Duration) -> Self {
        let moved = self.0.checked_sub(by.try_into().unwrap_or(time::Duration::MAX)).filter(holds);
        moved.map_or(Self(time::macros::datetime!(0000-01-01 0:00 UTC)), Self)
    }
}

fn holds(at: &OffsetDateTime) -> bool {
    (0..=9999).contains(&at.year())
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not an ISO 8601 date and time"))
    }
}

impl fmt::Display for Timestamp {
    /// By hand, since an event's instants are written five times: a tenth of the instructions of `time`'s formatting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = |number: u8| [b'0' + number / 10, b'0' + number % 10];
        let small = |number: i32| u8::try_from(number).unwrap_or_default();
        let [[y1, y2], [y3, y4]] = [self.0.year() / 100, self.0.year() % 100].map(|number| two(small(number)));
        let [[m1, m2], [d1, d2]] = [self.0.month().into(), self.0.day()].map(two);
        let [[h1, h2], [n1, n2], [s1, s2]] = [self.0.hour(), self.0.minute(), self.0.second()].map(two);
        let milliseconds = i32::from(self.0.millisecond());
        let (f1, [f2, f3]) = (b'0' + small(milliseconds / 100), two(small(milliseconds % 100)));
        let text = [
            y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.', f1, f2, f3,
            b'Z',
        ];
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The first three digits of a fraction as milliseconds, and the rest without trailing zeros.
fn split_fraction(digits: &str) -> (u16, &str) {
    let (held, beyond) = digits.split_at_checked(3).unwrap_or((digits, ""));
    let padded = held.bytes().chain(*b"000").take(3);
    let milliseconds = padded.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (milliseconds, beyond.trim_end_matches('0'))
}

/// What is left of a text that is read from its beginning.
struct Cursor<'t>(&'t str);

impl<'t> Cursor<'t> {
    fn first(&self) -> Option<u8> {
        self.0.bytes().next()
    }

    /// Skips one byte if it is one of these, which are ASCII.
    fn skip(&mut self, any: &[u8]) -> bool {
        let found = self.first().is_some_and(|byte| any.contains(&byte));
        if found {
            self.0 = self.0.get(1..).unwrap_or_default();
        }
        found
    }

    fn after(&mut self, any: &[u8]) -> Option<&mut Self> {
        self.skip(any).then_some(self)
    }

    /// The number that exactly so many digits spell; at most four, so that it fits.
    fn digits(&mut self, count: usize) -> Option<u16> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
        self.0 = rest;
        number
    }

    /// All digits that follow; at least one.
    fn all_digits(&mut self) -> Option<&'t str> {
        let end = self.0.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at_checked(end).filter(|(digits, _)| !digits.is_empty())?;
        self.0 = rest;
        Some(digits)
    }

    /// The offset from UTC in minutes, up to the end of the text.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() {
            return Some(0);
        }
        if self.skip(b"Zz") {
            return self.0.is_empty().then_some(0);
        }
        let west = self.first() == Some(b'-');
        let hours = self.after(b"+-")?.digits(2)?;
        let minutes = if self.0.is_empty() {
            0
        } else {
            self.skip(b":");
            self.digits(2)?
        };
        let fits = hours < 24 && minutes < 60 && self.0.is_empty();
        let offset = i64::from(hours) * 60 + i64::from(minutes);
        fits.then_some(if west { -offset } else { offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::UtcOffset;

    #[test]
    fn every_instant_has_one_text() {
        for (text, written) in [
            ("2026-01-15T09:57:33Z", "2026-01-15T09:57:33.000Z"),
            ("2026-01-15T09:57:33.5Z", "2026-01-15T09:57:33.500Z"),
            ("2026-01-15T09:57:33.123999999Z", "2026-01-15T09:57:33.123Z"),
            ("2026-01-15T11:57:33+02:00", "2026-01-15T09:57:33.000Z"),
            ("2026-01-14T23:27:33-10:30", "2026-01-15T09:57:33.000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("2026-08-31 06:56:30", "2026-08-31T06:56:30.000Z"),
            ("2026-08-31t06:56:30z", "2026-08-31T06:56:30.000Z"),
            ("2026-08-31T06:56", "2026-08-31T06:56:00.000Z"),
            ("2026-08-31 06:56Z", "2026-08-31T06:56:00.000Z"),
            ("2026-08-31 06:56+01", "2026-08-31T05:56:00.000Z"),
            ("2026-08-31 06:56:30,25", "2026-08-31T06:56:30.250Z"),
            ("2026-08-31T06:56:30.1-0130", "2026-08-31T08:26:30.100Z"),
            ("2026-08-31T06:56:30+05", "2026-08-31T01:56:30.000Z"),
            ("2026-08-31T06:56:30-00:00", "2026-08-31T06:56:30.000Z"),
            ("2026-08-31T06:56:30.0000000000000000000000001Z", "2026-08-31T06:56:30.000Z"),
            ("2024-02-29 00:00:00", "2024-02-29T00:00:00.000Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.999Z"),
            ("2017-01-01T01:59:60+02", "2016-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()).as_deref(), Some(written), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_not_an_instant_is_refused() {
        for text in [
            "",
            "now",
            "1768471053",
            "2026-01-15",
            "2026-01-15T",
            "2026-01-15T09",
            "2026-01-15  09:57:33",
            "2026-01-15T09:57:33.",
            "2026-01-15T09:57.5",
            "2026-01-15T09:57:33 Z",
            "2026-01-15T09:57:33+1",
            "2026-01-15T09:57:33+01:0",
            "2026-01-15T09:57:33+01:000",
            "2026-01-15T09:57:33+0100Z",
            "2026-01-15T09:57:33+24:00",
            "2026-01-15T09:57:33+01:60",
            "2026-01-15T24:00:00Z",
            "2026-01-15T09:60:00Z",
            "2026-01-15T09:57:60Z",
            "2026-01-31T23:58:60Z",
            "2026-01-15T09:57:61Z",
            "2026-01-00T09:57:33Z",
            "2026-00-15T09:57:33Z",
            "2023-02-29T09:57:33Z",
            "+2026-01-15T09:57:33Z",
            "20260115T095733Z",
            "2026-1-15T09:57:33Z",
            "2026-01-15T09:57:33\u{661}",
            "２０２６-01-15T09:57:33Z",
            "2026-13-15T09:57:33Z",
            "2026-02-30T09:57:33Z",
            "2026-01-15T25:57:33Z",
            "26-01-15T09:57:33Z",
            "9999-12-31T23:59:59-23:00",
            "0000-01-01T00:00:00+23:00",
            "2026-01-15T09:57:33Z ",
            "2026-01-15T09:57:33+99:00",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text:?} was taken");
        }
    }

    #[test]
    fn counts_from_1970() {
        let t = Timestamp::parse("2026-01-15T09:57:33.250Z").unwrap();
        assert_eq!((t.epoch_seconds(), t.epoch_milliseconds()), (1_768_471_053, 1_768_471_053_250));
        assert_eq!(Timestamp::from_epoch_milliseconds(1_768_471_053_250), Some(t));
        assert_eq!(Timestamp::from_epoch_milliseconds(i64::MAX), None);
        assert_eq!(t.day(), "2026-01-15");
        let day = Duration::from_hours(24);
        assert_eq!((t.plus(day).since(t), t.since(t.plus(day))), (day, Duration::ZERO));
        assert_eq!((t.minus(day).plus(day), t.checked_since(t.plus(day))), (t, None));
        assert_eq!(t.minus(Duration::MAX).to_string(), "0000-01-01T00:00:00.000Z");
        assert_eq!(t.plus(Duration::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*|[0-9T:+Z.-]{0,40}") {
            let _ = Timestamp::parse(&text);
        }

        /// Every form of every instant is the same instant.
        #[test]
        fn every_spelling_names_the_same_instant(
            ms in -62_000_000_000_000_i64..253_000_000_000_000, offset in -1_439_i64..1_440, separator in "[Tt ]",
            point in "[.,]", more in "[0-9]{0,12}", form in 0..3_u8,
        ) {
            let t = Timestamp::from_epoch_milliseconds(ms).unwrap();
            // The same instant on a clock that is so many minutes ahead of UTC.
            let local = Timestamp::from_epoch_milliseconds(ms + offset * 60_000).unwrap().to_string();
            let clock = local.trim_end_matches('Z').replace('T', &separator).replace('.', &point);
            let (sign, hours, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60, offset.abs() % 60);
            let suffix = match form {
                0 => format!("{sign}{hours:02}:{minutes:02}"),
                1 => format!("{sign}{hours:02}{minutes:02}"),
                _ if minutes == 0 => format!("{sign}{hours:02}"),
                _ => return Ok(()),
            };
            let (at, beyond) = Timestamp::parse_exact(&format!("{clock}{more}{suffix}")).map(|(at, b)| (at, b.to_owned())).unwrap();
            prop_assert_eq!(at, t);
            prop_assert_eq!(beyond, more.trim_end_matches('0'));
            let utc = t.to_string().trim_end_matches('Z').replace('T', &separator);
            prop_assert_eq!(Timestamp::parse(&utc), Some(t), "no offset is UTC");
        }

        /// What is read is what a library of RFC 3339 reads, where it reads anything.
        #[test]
        fn agrees_with_rfc_3339(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])") {
            use time::format_description::well_known::Rfc3339;
            let theirs = OffsetDateTime::parse(&text, &Rfc3339).ok().and_then(|at| at.checked_to_offset(UtcOffset::UTC));
            let theirs = theirs.filter(|at| (0..=9999).contains(&at.year())).map(|at| at.unix_timestamp_nanos().div_euclid(1_000_000));
            prop_assert_eq!(Timestamp::parse(&text).map(|at| i128::from(at.epoch_milliseconds())), theirs, "{}", text);
        }

        #[test]
        fn what_was_written_reads_back(ms in -62_167_219_200_000_i64..253_402_300_800_000) {
            let t = Timestamp::from_epoch_milliseconds(ms).unwrap();
            prop_assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
            prop_assert_eq!(t.epoch_milliseconds(), ms);
        }
    }
}
