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

impl Breaker {
    /// A closed breaker.
    pub fn new(periods: Periods) -> Self {
        Self { periods, open: Mutex::default() }
    }

    /// Whether the table may be asked at `now`. If the breaker was open until now, this delivery is the probe, and further ones
    /// are refused for as long again.
    pub fn admits(&self, now: Instant) -> bool {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match state.as_mut() {
            None => true,
            Some(open) if now < open.until => false,
            Some(open) => {
                open.until = now + open.period;
                true
            }
        }
    }

    /// Closes it.
    pub fn succeeded(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Opens it: twice as long as the last time.
    pub fn failed(&self, now: Instant) {
        let mut state = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let period = state.map_or(self.periods.first, |open| (open.period * 2).min(self.periods.longest));
        *state = Some(Open { until: now + period, period });
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_at_the_first_failure_for_twice_as_long_each_time_and_closes_at_the_first_success() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        assert!(breaker.admits(now) && !breaker.is_open());
        for seconds in [2, 4, 8, 16, 30, 30] {
            breaker.failed(now);
            let period = Duration::from_secs(seconds);
            assert!(!breaker.admits(now + period.saturating_sub(Duration::from_millis(1))), "{seconds}");
            now += period;
            assert!(breaker.admits(now), "{seconds}");
            assert!(!breaker.admits(now), "one probe at a time");
        }
        breaker.succeeded();
        assert!(breaker.admits(now));
        breaker.failed(now);
        assert!(breaker.admits(now + Periods::default().first));
    }
}
