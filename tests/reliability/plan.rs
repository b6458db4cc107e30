//! What an execution environment lives through, drawn from the seed: deliveries, faults, freezes, a rotation.

use std::{collections::BTreeMap, ops::RangeInclusive};

use fastrand::Rng;
use tests::proxy::{Fault, Stale};

use crate::{
    faults::{Service, random_fault},
    platform::Delivery,
};

/// Deliveries of an environment before Lambda replaces it.
const LIFE: RangeInclusive<usize> = 2..=30;
/// The cache times of the key ring. Without one, every delivery finds the ring as old as after a long freeze.
const KEY_CACHE_SECONDS: [u32; 2] = [0, 300];

/// A time in the life of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Init,
    FirstEvent,
    Warm,
}

/// A fault of a service, from one step of a life to another.
#[derive(Debug)]
pub(crate) struct PlannedFault {
    pub(crate) service: Service,
    pub(crate) fault: Fault,
    /// Step 0 is init, step 1 the first event.
    pub(crate) steps: RangeInclusive<usize>,
}

/// The life of an environment.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The number of the environment.
    pub(crate) number: usize,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) faults: Vec<PlannedFault>,
    /// What becomes of the open connections before a step.
    pub(crate) freezes: BTreeMap<usize, Stale>,
    /// The step before which the key is rotated.
    pub(crate) rotation: Option<usize>,
    pub(crate) key_cache_seconds: u32,
}

impl Phase {
    /// The phase of a step.
    pub(crate) fn of(step: usize) -> Self {
        match step {
            0 => Self::Init,
            1 => Self::FirstEvent,
            _ => Self::Warm,
        }
    }
}

impl Plan {
    /// The lives that take the deliveries, in turn, with faults of `services`.
    pub(crate) fn all(services: &[Service], random: &mut Rng, deliveries: Vec<Delivery>) -> Vec<Self> {
        let (mut plans, mut deliveries) = (Vec::new(), deliveries.into_iter());
        loop {
            let life: Vec<_> = deliveries.by_ref().take(random.usize(LIFE)).collect();
            if life.is_empty() {
                return plans;
            }
            plans.push(Self::random(plans.len(), services, random, life));
        }
    }

    fn random(number: usize, services: &[Service], random: &mut Rng, deliveries: Vec<Delivery>) -> Self {
        let steps = deliveries.len();
        let mut faults = Vec::new();
        for &service in services {
            let mut next = 0;
            while next <= steps {
                let last = if next < 2 { next } else { next + random.usize(0..10) };
                let fault = random_fault(service, random);
                faults.extend(fault.map(|fault| PlannedFault { service, fault, steps: next..=last }));
                // A healthy time after it; the first steps get a fault of their own.
                next = if last < 2 { last + 1 } else { last + random.usize(1..8) };
            }
        }
        let how = |random: &mut Rng| if random.bool() { Stale::Closes } else { Stale::Swallows };
        let freezes = (1..=steps).filter(|_| random.u8(0..20) == 0).collect::<Vec<_>>();
        let freezes = freezes.into_iter().map(|step| (step, how(random))).collect();
        // A forgery makes the function look for a newer ring, and not again for 10 s: `provision` would wait that long. Here
        // the rotation comes before the first forgery.
        let forgery = deliveries.iter().position(Delivery::is_forged).map_or(steps, |index| index + 1);
        let rotation = random.bool().then(|| random.usize(1..=steps).min(forgery));
        let key_cache_seconds = KEY_CACHE_SECONDS[random.usize(..KEY_CACHE_SECONDS.len())];
        Self { number, deliveries, faults, freezes, rotation, key_cache_seconds }
    }
}
