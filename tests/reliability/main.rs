//! Experiments: faults, and what became of every delivery. [`streams`] goes on from there: what became of every stored event on
//! the bus and in the sessions table.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an experiment that cannot go on should stop right there, and its figures are printed"
)]

mod environment;
mod faults;
mod floods;
mod lambda;
mod load;
mod open_loop;
mod outage;
mod plan;
mod platform;
mod random_faults;
mod rejections;
mod streams;

use std::{env, str::FromStr};

/// A variable that sets the size or the seed of an experiment.
fn variable<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |value| value.parse().ok().unwrap_or_else(|| panic!("{name} is {value}")))
}
