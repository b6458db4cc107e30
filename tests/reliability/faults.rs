//! The faults of a service, as a proxy in front of it makes them.

use std::time::Duration;

use fastrand::Rng;
use tests::proxy::Fault;

/// A fault, or none in a third of the cases.
pub(crate) fn random_fault(random: &mut Rng) -> Option<Fault> {
    let fault = match random.u8(0..15) {
        0..=4 => return None,
        5 => Fault::access_denied(),
        6 => Fault::aws_error("ResourceNotFoundException"),
        7 => Fault::throttled(),
        8 => Fault::hot_key(),
        9 => Fault::status(500),
        10 => Fault::status(503),
        11 => Fault::refuse(),
        12 => Fault::drop_response(),
        13 => Fault::delay(Duration::from_millis(random.u64(10..500))),
        _ => Fault::hang(),
    };
    Some(if random.bool() { fault.times(random.u32(1..30)) } else { fault })
}
