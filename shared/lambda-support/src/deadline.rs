//! The end of an invocation's time.

use std::time::Duration;

use tokio::time::Instant;
use unith_events::timestamp::Timestamp;

/// When an invocation should end that Lambda stops at `milliseconds` since 1970: `margin` earlier, or half of what is left.
///
/// `default` is the time of an invocation whose deadline is in the past: `cargo lambda watch` sends a constant one.
pub fn deadline(milliseconds: u64, margin: Duration, default: Duration) -> Instant {
    let deadline = i64::try_from(milliseconds).ok().and_then(Timestamp::from_epoch_milliseconds);
    let left = deadline.and_then(|deadline| deadline.checked_since(Timestamp::now()));
    let left = left.filter(|left| !left.is_zero()).unwrap_or(default);
    Instant::now() + left.saturating_sub(margin.min(left / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_gets_its_time_without_the_margin_and_half_of_a_short_one() {
        let second = Duration::from_secs(1);
        let time_left = |seconds: i64| {
            let at = Timestamp::now().epoch_milliseconds() + seconds * 1_000;
            let left = deadline(at.try_into().unwrap(), 10 * second, 30 * second).duration_since(Instant::now());
            (left.as_secs_f64() * 10.0).ceil() / 10.0
        };
        let cases = [(60, 50.0), (12, 6.0), (4, 2.0), (-60, 20.0)];
        for (seconds, expected) in cases {
            let left = time_left(seconds);
            assert!((expected - 0.5..=expected).contains(&left), "{seconds}: {left}");
        }
    }
}
