//! The errors that end a head's part of a run.

use unith_events::timestamp::Timestamp;

use crate::{ring::RingError, step::Step, unith::UnithError};

/// How many heads a run looks after.
pub const MAX_HEADS: usize = 100;

/// Why a head's part of a run ended.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error(transparent)]
    Unith(#[from] UnithError),
    #[error(transparent)]
    Ring(#[from] RingError),
    /// UNITH accepted the step, and its effect does not show.
    #[error("UNITH accepted this without doing it: {0}; try again, or ask UNITH")]
    WithoutEffect(Step),
    #[error(
        "the webhook was registered, but UNITH shows its key nowhere or masked, so nothing it signs can be verified; ask UNITH"
    )]
    NoKey,
    /// Several webhooks of ours appeared at once, and UNITH does not show which key is whose.
    #[error(
        "several runs registered the webhook at once, and UNITH shows no keys that tell them apart; run this again"
    )]
    Ambiguous,
    #[error(
        "UNITH accepted a registration at {since} and does not list it; its key is stored, and no other webhook is \
         registered for 24 h: run this again later, or ask UNITH"
    )]
    Unlisted { since: Timestamp },
    #[error(
        "the run was not started: it takes {needs_s} s at the least, and less time is left; raise the function's time-out"
    )]
    TooLittleTime { needs_s: u64 },
    /// The head's time slice ended first.
    #[error("UNITH was too slow: this head was not finished in its time slice; run this again")]
    Slow,
    /// A webhook that is registered while events are off never delivers.
    #[error(
        "somebody switched the head's events off while the webhook was registered, so it would never deliver; run this \
         again"
    )]
    SwitchedOff,
    #[error("there is no webhook to rotate the key of; run `apply` first")]
    NotRegistered,
    #[error("{0} heads are more than a run can look after, which is {MAX_HEADS}; divide them among stacks")]
    TooManyHeads(usize),
    /// A second look found steps that are still due.
    #[error("not as declared afterwards: {}; is somebody else changing the same webhooks? run this again", listed(.0))]
    NotAsDeclared(Vec<Step>),
}

impl HeadError {
    /// Whether UNITH refuses this head, and nothing else is wrong.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unith(error) if error.is_refusal())
    }

    /// Whether the owner or the ring was deleted during the run.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        matches!(self, Self::Ring(error) if error.is_deletion())
    }

    /// The error of a call that had only a time slice of the run.
    pub(crate) fn in_time_slice(self) -> Self {
        if matches!(self, Self::Unith(UnithError::OutOfTime { .. })) { Self::Slow } else { self }
    }
}

fn listed(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
