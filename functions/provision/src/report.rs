//! The report of a run that changes heads, and the errors in it.

use serde::Serialize;
use unith_events::{ids::HeadId, timestamp::Timestamp};

use crate::{
    ring::RingError,
    step::Step,
    unith::{UnithError, webhook::Webhook},
};

/// How many heads a run looks after.
pub const MAX_HEADS: usize = 100;

/// Why a head's part of a run ended.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error(transparent)]
    Unith(#[from] UnithError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("UNITH accepted this without doing it: {0}; try again, or ask UNITH")]
    WithoutEffect(Step),
    #[error(
        "the webhook was registered, but UNITH shows its key nowhere or masked, so nothing it signs can be verified; \
         ask UNITH"
    )]
    NoKey,
    #[error(
        "several runs registered the webhook at once, and UNITH shows no keys that tell them apart; run this again"
    )]
    Ambiguous,
    #[error(
        "UNITH spells head `{named}` as `{listed}`, and so do its deliveries; write `{listed}` in HeadIds, HEAD_IDS or \
         head_ids"
    )]
    OtherSpelling { named: String, listed: String },
    #[error(
        "UNITH accepted a registration at {since} and does not list it; its key is stored, and no other webhook is \
         registered for 24 h: run this again later, or ask UNITH"
    )]
    Unlisted { since: Timestamp },
    #[error(
        "this head was not finished: that takes at least {needs_s} s, and less is left; raise the function's time-out"
    )]
    TooLittleTime { needs_s: u64 },
    #[error("UNITH was too slow: this head was not finished in its time slice; run this again")]
    Slow,
    #[error(
        "somebody switched the head's events off while the webhook was registered, so it would never deliver; run this \
         again"
    )]
    SwitchedOff,
    #[error("there is no webhook to rotate the key of; run `apply` first")]
    NotRegistered,
    #[error("{0} heads are more than a run can look after, which is {MAX_HEADS}; divide them among stacks")]
    TooManyHeads(usize),
    #[error(
        "the webhook that stays no longer delivers, so those that it replaces stay too; is somebody else changing the \
         same webhooks? run this again"
    )]
    Overtaken,
    #[error("not as declared afterwards: {}; is somebody else changing the same webhooks? run this again", listed(.0))]
    NotAsDeclared(Vec<Step>),
}

impl HeadError {
    /// Fails if UNITH spells the webhook's head in another way: a key for one spelling verifies no delivery of another.
    pub(crate) fn check_spelling(webhook: &Webhook, head_id: &str) -> Result<(), Self> {
        let Some(listed) = webhook.other_spelling_of(head_id) else { return Ok(()) };
        Err(Self::OtherSpelling { named: head_id.to_owned(), listed: listed.to_owned() })
    }

    /// Whether UNITH refuses this head, and nothing else is wrong.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unith(error) if error.is_refusal())
    }

    /// Whether the owner or the ring was deleted during the run.
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

/// The result for one head.
#[derive(Debug, Serialize)]
pub struct HeadReport {
    pub head_id: HeadId,
    /// Whether every step was done.
    pub ok: bool,
    /// The steps that were done, in order.
    pub done: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether UNITH refuses the head already when it is looked at. A later refusal is about what was requested.
    #[serde(skip)]
    pub is_refused: bool,
    /// Whether the account got the head since the last run over all heads: its steps are not drift.
    #[serde(skip)]
    pub is_new: bool,
}

impl HeadReport {
    pub fn new(head_id: HeadId, done: Vec<Step>, error: Option<&HeadError>) -> Self {
        Self {
            ok: error.is_none(),
            done,
            notes: Vec::new(),
            error: error.map(|error| explained(&head_id, error)),
            is_refused: false,
            is_new: false,
            head_id,
        }
    }
}

/// An error's message, with the likely cause if UNITH refuses a head whose id is not a UUID.
pub(crate) fn explained(head_id: &HeadId, error: &HeadError) -> String {
    let is_uuid = head_id.len() == 36 && head_id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if error.is_refusal() && !is_uuid {
        format!("{error}; is `{head_id}` the head's public id? UNITH wants the UUID here")
    } else {
        error.to_string()
    }
}

/// Whether a run over heads succeeded; `verdict` returns whether a head did, and whether UNITH refuses it.
///
/// A head that UNITH refuses fails a run that names it, and not one over all heads of the account. If UNITH refuses all
/// of them, something else is wrong.
pub(crate) fn all_ok<R>(heads: &[R], is_all: bool, verdict: impl Fn(&R) -> (bool, bool)) -> bool {
    let is_excused = is_all && !heads.iter().all(|head| verdict(head).1);
    heads.iter().map(verdict).all(|(ok, is_refused)| ok || (is_excused && is_refused))
}
