//! Retention: how long items live.

use std::time::Duration;

use lambda_support::env::{Env, EnvError};
use unith_events::timestamp::Timestamp;

const NAME: &str = "RETENTION_DAYS";
const DEFAULT_DAYS: u16 = 365;
/// A little more than a century.
const MAX_DAYS: u16 = 37_000;
const EXPECTED: &str = "a whole number of days from 0 (for ever) to 37000";

/// How long items live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For ever.
    Forever,
    /// This many days.
    Days(u16),
}

impl Retention {
    /// `0` is for ever.
    pub fn from_days(days: u16) -> Self {
        if days == 0 { Self::Forever } else { Self::Days(days) }
    }

    /// Reads `RETENTION_DAYS`; 365 if it is unset.
    ///
    /// # Errors
    /// Any value but whole numbers from 0 to 37000.
    pub fn from_env(env: &Env) -> Result<Self, EnvError> {
        let days = env.parsed(NAME, DEFAULT_DAYS, EXPECTED)?;
        if days > MAX_DAYS {
            return Err(EnvError::Invalid { name: NAME, value: days.to_string(), expected: EXPECTED });
        }
        Ok(Self::from_days(days))
    }

    /// When an item that counts from `start` expires, in seconds since 1970; `None` for never.
    pub fn expires_at(self, start: Timestamp) -> Option<i64> {
        match self {
            Self::Forever => None,
            Self::Days(days) => Some(start.plus(Duration::from_hours(24 * u64::from(days))).epoch_seconds()),
        }
    }

    /// Whether an item that counts from `start` has expired at `now`.
    pub fn has_expired(self, start: Timestamp, now: Timestamp) -> bool {
        self.expires_at(start).is_some_and(|expires_at| expires_at <= now.epoch_seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_counts_from_the_start_and_zero_is_for_ever() {
        let start = Timestamp::parse("2026-01-15T09:57:33Z").unwrap();
        let end = start.plus(Duration::from_hours(24));
        assert_eq!(Retention::from_days(0).expires_at(start), None);
        assert!(!Retention::from_days(0).has_expired(start, end));
        let day = Retention::from_days(1);
        assert_eq!(day.expires_at(start), Some(end.epoch_seconds()));
        assert!(!day.has_expired(start, start));
        assert!(day.has_expired(start, end));
    }
}
