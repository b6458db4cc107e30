//! The report of a run that changes heads.

use serde::Serialize;
use unith_events::ids::HeadId;

use crate::{head_error::HeadError, step::Step};

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
    /// Whether UNITH refuses the head.
    #[serde(skip)]
    pub is_refused: bool,
    /// Whether the ring had no entry of the head: what was done for it is not drift.
    #[serde(skip)]
    pub is_new: bool,
}

impl HeadReport {
    #[must_use]
    pub fn new(head_id: HeadId, done: Vec<Step>, error: Option<&HeadError>) -> Self {
        Self {
            ok: error.is_none(),
            done,
            notes: Vec::new(),
            error: error.map(|error| explained(&head_id, error)),
            is_refused: error.is_some_and(HeadError::is_refusal),
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
