//! The sandbox's own parts: if the simulation is wrong, everything tested against it may be.

mod front;
mod platform;
