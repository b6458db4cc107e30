//! What measurements of the receiver work on: the deliveries they feed, the receiver's whole path without a network, the
//! sizes of what is deployed, and the budget all of it must keep.

pub mod budget;
pub mod delivery;
pub mod offline;
pub mod size;
