//! A table that does not respond for a while, with and without the circuit breaker.
//!
//! `OUTAGE_SECONDS` is how long, `OUTAGE_RATE` is the rate in events per second, and `OUTAGE_LIMIT` is the number of environments
//! that Lambda makes at most. If rate and limit are scaled together, so are the figures.

use std::{sync::Arc, time::Duration};

use receive::breaker::Periods;
use tests::proxy::Fault;

use crate::{
    lambda::{Lambda, body},
    open_loop::offer,
    variable,
};

/// The rate and the limit that are scaled.
const FULL: u32 = 1_000;
/// Open for no time: every delivery asks the table.
const NO_BREAKER: Periods = Periods { first: Duration::ZERO, longest: Duration::ZERO };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_outage_each_delivery_that_got_a_2xx_has_one_item() {
    let (seconds, rate, limit) =
        (variable("OUTAGE_SECONDS", 2), variable("OUTAGE_RATE", 20), variable("OUTAGE_LIMIT", 20));
    // The last retry is made 7 s after the first attempt.
    let (before, after) = (seconds.min(4), seconds.min(10));
    for (breaker, name) in [(Periods::default(), "with breaker"), (NO_BREAKER, "without breaker")] {
        let lambda = Lambda::new(limit, breaker).await;
        let number_at = |second: u32| usize::try_from(second * rate).unwrap();
        let (begin, end) = (number_at(before), number_at(before + seconds));
        let load = offer(rate, number_at(before + seconds + after), |number| {
            let table = &lambda.harness.table.proxy;
            match number {
                number if number == begin => table.set(Fault::hang()),
                number if number == end => table.clear(),
                _ => {}
            }
            Arc::clone(&lambda).deliver(body(number))
        })
        .await;
        let ends = lambda.check(&load, body).await;
        assert!(ends.times("accepted") > 0, "the table did not fail: {ends}");
        let scale = f64::from(FULL) / f64::from(rate);
        println!("{name}, table silent for {seconds} s, limit {limit}, rate and limit 1:{scale}: {load}; {ends}");
    }
}
