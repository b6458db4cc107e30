//! The end of an invocation's time.

use std::time::Duration;

use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

/// When an invocation should end that Lambda stops at `milliseconds` since 1970: `margin` earlier.
///
/// `default` is the time of an invocation whose deadline is in the past: `cargo lambda watch` sends a constant one.
#[must_use]
pub fn deadline(milliseconds: u64, margin: Duration, default: Duration) -> Instant {
    let deadline = i64::try_from(milliseconds).ok().and_then(Timestamp::from_epoch_milliseconds);
    let left = deadline.and_then(|deadline| Duration::try_from(deadline.since(Timestamp::now())).ok());
    let left = left.filter(|left| !left.is_zero()).unwrap_or(default);
    Instant::now() + left.saturating_sub(margin)
}
