//! The circuit breaker: a table that has just failed is not asked.
//!
//! Waiting for a sick table costs what saves events: at 1,000 deliveries per second, two attempts of 350 ms each need more
//! environments than an account's default limit.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long the breaker stays open.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// After the first failure. Each further one doubles it.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self { first: Duration::from_secs(2), longest: Duration::from_secs(30) }
    }
}

/// Open after a failure for a period. Then one delivery is the probe.
#[derive(Debug, Default)]
pub struct Breaker {
    periods: Periods,
    open: Mutex<Option<Open>>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    period: Duration,
}

/// How a delivery was admitted to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The breaker was closed.
    Normal,
    /// The breaker was open until now.
    Probe,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(periods: Periods) -> Self {
        Self { periods, open: Mutex::default() }
    }

    /// Whether the table may be asked at `now`. After an open period the delivery is the probe, if it has the `full` time for
    /// all attempts; further ones are refused for as long again.
    pub fn admits(&self, now: Instant, full: bool) -> Option<Admission> {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match state.as_mut() {
            None => Some(Admission::Normal),
            Some(open) if full && now >= open.until => {
                open.until = now + open.period;
                Some(Admission::Probe)
            }
            Some(_) => None,
        }
    }

    /// Closes it. A delivery that was admitted before it opened does not.
    pub fn succeeded(&self, admission: Admission) {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if admission == Admission::Probe {
            *state = None;
        }
    }

    /// Opens it; for twice as long as the last time after a probe. Deliveries that fail together open it once.
    pub fn failed(&self, admission: Admission, now: Instant) {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let period = match *state {
            None => self.periods.first,
            Some(open) if admission == Admission::Probe => (open.period * 2).min(self.periods.longest),
            Some(_) => return,
        };
        *state = Some(Open { until: now + period, period });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn it_opens_at_the_first_failure_for_twice_as_long_each_time_and_closes_at_the_first_success() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        let mut admission = breaker.admits(now, true).unwrap();
        assert_eq!(admission, Admission::Normal, "it is closed");
        for seconds in [2, 4, 8, 16, 30, 30] {
            breaker.failed(admission, now);
            let period = Duration::from_secs(seconds);
            assert_eq!(breaker.admits(now + period.saturating_sub(MILLISECOND), true), None, "{seconds}");
            now += period;
            assert_eq!(breaker.admits(now, false), None, "a probe has the full time");
            admission = breaker.admits(now, true).unwrap();
            assert_eq!((admission, breaker.admits(now, true)), (Admission::Probe, None), "one probe at a time");
        }
        breaker.succeeded(admission);
        assert_eq!(breaker.admits(now, false), Some(Admission::Normal));
        breaker.failed(Admission::Normal, now);
        assert_eq!(breaker.admits(now + Periods::default().first, true), Some(Admission::Probe));
    }

    #[test]
    fn deliveries_that_were_admitted_together_open_it_once_and_do_not_close_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..5 {
            breaker.failed(Admission::Normal, now);
        }
        breaker.succeeded(Admission::Normal);
        assert_eq!(breaker.admits(now, true), None, "it is open");
        assert_eq!(breaker.admits(now + Periods::default().first, true), Some(Admission::Probe));
    }
}
