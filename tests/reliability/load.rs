//! Load: deliveries at fixed rates.
//!
//! `LOAD_RATES` has the rates in events per second, separated by commas. `LOAD_SECONDS` is how long each of them lasts, and
//! `LOAD_ENVIRONMENTS` is how many environments share them at most. All of them share the machine's cores, so that more of them
//! do not take more deliveries.

use std::sync::Arc;

use receive::breaker::Periods;

use crate::{
    lambda::{Lambda, body},
    open_loop::offer,
    variable,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_rate_each_delivery_that_got_a_2xx_has_one_item() {
    let (rates, seconds) = (variable("LOAD_RATES", "50".to_owned()), variable("LOAD_SECONDS", 2));
    let limit = variable("LOAD_ENVIRONMENTS", 50);
    for rate in rates.split(',') {
        let rate: u32 = rate.parse().unwrap();
        let lambda = Lambda::new(limit, Periods::default()).await;
        let count = usize::try_from(rate * seconds).unwrap();
        let load = offer(rate, count, |number| Arc::clone(&lambda).deliver(body(number))).await;
        println!("{load}; {}", lambda.check(&load, body).await);
    }
}
