//! An open-loop load generator, and what it measures.
//!
//! Arrivals come at a fixed rate, whatever became of the earlier ones. A latency counts from the moment at which its arrival was
//! due: one that started late because the machine was busy has waited as well. The timer adds up to 1 ms.

use std::{fmt, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The machine is saturated if less than this part of the arrivals succeeded while they came.
const SUSTAINED: f64 = 0.95;

/// What became of arrivals at a fixed rate.
#[derive(Debug)]
pub(crate) struct Load {
    /// Arrivals per second.
    rate: u32,
    /// How long arrivals came.
    lasted: Duration,
    arrivals: Vec<Arrival>,
}

#[derive(Debug)]
struct Arrival {
    number: usize,
    /// From the start of the load.
    due: Duration,
    latency: Duration,
    /// `None` is a failure.
    outcome: Option<String>,
}

/// Offers `count` arrivals, at `rate` per second. `arrive` starts the work of an arrival and returns its outcome.
pub(crate) async fn offer<F>(rate: u32, count: usize, arrive: impl FnMut(usize) -> F) -> Load
where
    F: Future<Output = Option<String>> + Send + 'static,
{
    offer_since(Instant::now(), rate, count, arrive).await
}

/// The same with another intended start of the first arrival.
async fn offer_since<F>(start: Instant, rate: u32, count: usize, mut arrive: impl FnMut(usize) -> F) -> Load
where
    F: Future<Output = Option<String>> + Send + 'static,
{
    let pause = Duration::from_secs(1) / rate;
    let after = |number| pause * u32::try_from(number).unwrap();
    let mut running = JoinSet::new();
    for number in 0..count {
        let due = after(number);
        sleep_until(start + due).await;
        let arrival = arrive(number);
        running.spawn(async move {
            let outcome = arrival.await;
            Arrival { number, due, latency: (start + due).elapsed(), outcome }
        });
    }
    Load { rate, lasted: after(count), arrivals: running.join_all().await }
}

impl Load {
    /// The number of each arrival and its outcome, in any order.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (usize, Option<&str>)> {
        self.arrivals.iter().map(|arrival| (arrival.number, arrival.outcome.as_deref()))
    }
}

/// Quantiles of the latencies. If the machine was saturated, the number of arrivals per second that got a 2xx in time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts are less than 2^32"
)]
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, lasted, arrivals } = self;
        write!(f, "{rate} events/s for {:.0} s: ", lasted.as_secs_f64())?;
        let succeeded: Vec<_> = arrivals.iter().filter(|arrival| arrival.outcome.is_some()).collect();
        let in_time = succeeded.iter().filter(|arrival| arrival.due + arrival.latency <= *lasted).count() as f64;
        if in_time < SUSTAINED * arrivals.len() as f64 {
            return write!(f, "saturated: {:.0} events/s got a 2xx", in_time / lasted.as_secs_f64());
        }
        let mut latencies: Vec<_> = succeeded.iter().map(|arrival| arrival.latency.as_secs_f64() * 1_000.0).collect();
        latencies.sort_unstable_by(f64::total_cmp);
        let quantile = |part: f64| latencies[(latencies.len() as f64 * part).ceil() as usize - 1];
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms", quantile(0.5), quantile(0.99), quantile(0.999))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(latencies: impl Iterator<Item = Duration>) -> Load {
        let arrivals = latencies.enumerate().map(|(number, latency)| Arrival {
            number,
            due: Duration::from_millis(1) * u32::try_from(number).unwrap(),
            latency,
            outcome: Some("stored".to_owned()),
        });
        Load { rate: 1_000, lasted: Duration::from_secs(1), arrivals: arrivals.collect() }
    }

    #[test]
    fn quantiles_are_latencies_that_occurred() {
        let load = load((1..=1_000).map(|number| Duration::from_micros(number * 10)));
        assert_eq!(load.to_string(), "1000 events/s for 1 s: p50 5.0 ms, p99 9.9 ms, p99.9 10.0 ms");
    }

    #[test]
    fn a_growing_backlog_is_saturation_and_not_latency() {
        let load = load((1..=1_000).map(Duration::from_millis));
        assert_eq!(load.to_string(), "1000 events/s for 1 s: saturated: 500 events/s got a 2xx");
    }

    #[tokio::test]
    async fn a_generator_that_is_late_adds_to_the_latency() {
        let late = Duration::from_secs(1);
        let start = Instant::now().checked_sub(late).unwrap();
        let load = offer_since(start, 1_000, 10, async |_| Some(String::new())).await;
        for arrival in load.arrivals {
            assert!(arrival.due + arrival.latency >= late, "{arrival:?}");
        }
    }
}
