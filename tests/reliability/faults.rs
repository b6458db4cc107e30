//! The faults of a service, as a proxy in front of it makes them.

use std::time::Duration;

use fastrand::Rng;
use tests::proxy::Fault;

/// A service that a function depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Table,
    Queue,
    Secrets,
}

/// A fault, or none in a quarter of the cases. Silence lasts for a few requests, because every one costs a time-out.
pub(crate) fn random_fault(service: Service, random: &mut Rng) -> Option<Fault> {
    let fault = match random.u8(0..16) {
        0..=3 => return None,
        4 => Fault::delay(Duration::from_millis(random.u64(10..500))).times(random.u32(1..10)),
        5 => Fault::reset(),
        6 => Fault::truncate(),
        7 => Fault::status(400),
        8 => Fault::status(500),
        9 => Fault::status(503),
        10 if service == Service::Table => Fault::throttled(),
        10 => Fault::aws_error("ThrottlingException"),
        11 if service == Service::Table => Fault::hot_key(),
        11 => Fault::access_denied(),
        12 if service == Service::Queue => Fault::aws_error("QueueDoesNotExist"),
        12 => Fault::aws_error("ResourceNotFoundException"),
        13 => Fault::refuse(),
        14 => Fault::drop_response(),
        _ => return Some(Fault::hang().times(random.u32(1..6))),
    };
    Some(if random.bool() { fault.times(random.u32(1..30)) } else { fault })
}
