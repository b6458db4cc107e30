//! How long a returned message stays invisible: twice as long with each receive, with jitter.
//!
//! With at least 24 minutes between the later ones, the queue's 1,000 receives take longer than its retention of 14 days.

use std::{ops::RangeInclusive, time::Duration};

const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_mins(30);
/// What the delay is multiplied with, in thousandths.
pub const JITTER: RangeInclusive<u32> = 800..=1_200;

/// The delay after a message's `receive_count`-th receive: 30 s × 2^n up to 30 min, times `jitter` thousandths.
pub fn delay(receive_count: u32, jitter: u32) -> Duration {
    let doublings = receive_count.saturating_sub(1);
    let delay = 2_u32.checked_pow(doublings).and_then(|factor| FIRST.checked_mul(factor)).unwrap_or(LONGEST);
    delay.min(LONGEST) * jitter.clamp(*JITTER.start(), *JITTER.end()) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_delay_doubles_from_30_s_to_30_min() {
        let delays = [1, 2, 3, 4, 5, 6, 7, 8, 1_000].map(|receive_count| delay(receive_count, 1_000).as_secs());
        assert_eq!(delays, [30, 60, 120, 240, 480, 960, 1_800, 1_800, 1_800]);
        assert_eq!((delay(1, 800).as_secs(), delay(1, 1_200).as_secs()), (24, 36));
    }

    #[test]
    fn a_thousand_receives_outlast_the_queues_retention() {
        let shortest: Duration = (1..1_000).map(|receive_count| delay(receive_count, *JITTER.start())).sum();
        assert!(shortest > Duration::from_hours(14 * 24), "{shortest:?}");
    }

    proptest! {
        #[test]
        fn the_delay_is_within_its_bounds(receive_count: u32, jitter: u32) {
            let delay = delay(receive_count, jitter);
            prop_assert!(delay >= FIRST * 4 / 5 && delay <= LONGEST * 6 / 5, "{:?}", delay);
        }

        #[test]
        fn the_delay_never_shrinks_with_more_receives(receive_count in 0..u32::MAX, jitter: u32) {
            prop_assert!(delay(receive_count, jitter) <= delay(receive_count + 1, jitter));
        }
    }
}
