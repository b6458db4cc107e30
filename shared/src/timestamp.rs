//! Instants as the table, the log and an event's identity write them: UTC, to the millisecond.

use std::fmt;

use time::{
    Duration, OffsetDateTime, UtcOffset,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// An instant in UTC, cut to whole milliseconds, of the years 0000 to 9999.
///
/// It is written `2026-01-15T09:57:33.000Z`, which sorts as text the way it sorts in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Now, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let now = OffsetDateTime::now_utc();
        Self(now.replace_millisecond(now.millisecond()).unwrap_or(now))
    }

    /// Reads an RFC 3339 instant (the profile of ISO 8601 with a complete date, time and offset) in any offset and to
    /// any precision. `None` for anything else, also for a time without an offset, which names no instant.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let utc = OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?;
        let cut = utc.replace_millisecond(utc.millisecond()).ok()?;
        (0..=9999).contains(&cut.year()).then_some(Self(cut))
    }

    /// From milliseconds since 1970, as API Gateway gives them. `None` outside the years this type holds.
    #[must_use]
    pub fn from_epoch_milliseconds(milliseconds: i64) -> Option<Self> {
        let utc = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()?;
        (0..=9999).contains(&utc.year()).then_some(Self(utc))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn epoch_milliseconds(self) -> i64 {
        self.0.unix_timestamp() * 1000 + i64::from(self.0.millisecond())
    }

    /// Whole seconds since 1970, as DynamoDB's time to live counts.
    #[must_use]
    pub fn epoch_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// The day, e.g. `2026-01-15`.
    #[must_use]
    pub fn day(self) -> String {
        self.0.format(DAY).unwrap_or_default()
    }

    /// `self - earlier`; negative where `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }

    /// This instant moved by `by`, or the last one that can be written.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let moved = self.0.checked_add(by).filter(|moved| (0..=9999).contains(&moved.year()));
        moved.map_or(Self(time::macros::datetime!(9999-12-31 23:59:59.999 UTC)), Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writes_every_instant_the_same_way() {
        for (text, written) in [
            ("2026-01-15T09:57:33Z", "2026-01-15T09:57:33.000Z"),
            ("2026-01-15T09:57:33.5Z", "2026-01-15T09:57:33.500Z"),
            ("2026-01-15T09:57:33.123999999Z", "2026-01-15T09:57:33.123Z"),
            ("2026-01-15T11:57:33+02:00", "2026-01-15T09:57:33.000Z"),
            ("2026-01-14T23:27:33-10:30", "2026-01-15T09:57:33.000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()).as_deref(), Some(written), "{text}");
        }
    }

    #[test]
    fn refuses_what_names_no_instant() {
        for text in [
            "",
            "now",
            "1768471053",
            "2026-01-15",
            "2026-01-15T09:57:33",
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
        assert_eq!(t.plus(Duration::days(1)).since(t), Duration::days(1));
        assert_eq!(t.plus(Duration::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*|[0-9T:+Z.-]{0,40}") {
            let _ = Timestamp::parse(&text);
        }

        #[test]
        fn what_was_written_reads_back(ms in -62_167_219_200_000_i64..253_402_300_800_000) {
            let t = Timestamp::from_epoch_milliseconds(ms).unwrap();
            prop_assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
            prop_assert_eq!(t.epoch_milliseconds(), ms);
        }
    }
}
