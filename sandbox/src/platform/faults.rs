//! The faults of the simulated platform. A test sets them; `PUT /_sandbox/faults` takes them as JSON.
//!
//! ```
//! use sandbox::platform::{call::Call, faults::{Fault, FailingCall, Faults}};
//!
//! let typed = Faults { masked_keys: true, ..Faults::from(FailingCall::new(Call::Register, Fault::status(503)).times(2)) };
//! let json = r#"{"masked_keys":true,"failing":[{"call":"POST /head-events","how":{"status":[503,null]},"times":2}]}"#;
//! assert_eq!(typed, serde_json::from_str(json).unwrap());
//! ```

use serde::Deserialize;

use super::call::Call;

/// The faults that are present at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each fault is on or off by itself")]
pub struct Faults {
    /// Every response is delayed by this time.
    pub latency_ms: u64,
    /// Keys are shown as stars and their last four digits.
    pub masked_keys: bool,
    /// The response to a registration has no key.
    pub no_key_on_register: bool,
    /// Lists come in pages of this size, as `{"data": […], "nextPage": 2}`.
    pub page_size: Option<usize>,
    /// Webhook ids are strings of six digits, e.g. `"000004"`, in responses and in paths.
    pub string_ids: bool,
    /// Lists leave out registrations younger than this; `u64::MAX` leaves out all.
    pub unlisted_for_ms: u64,
    /// `GET /head-events` ignores `headId` and lists the webhooks of all heads.
    pub unfiltered_list: bool,
    /// Each PATCH gives the webhook a new key.
    pub patch_changes_key: bool,
    /// A registration gets the smallest id that no webhook has: that of a deleted one, if there is one.
    pub reuse_ids: bool,
    /// Head ids are accepted in upper case too. Responses and deliveries have the head's own spelling.
    pub any_case_of_head_ids: bool,
    /// Calls that fail. The first one that matches a request counts.
    pub failing: Vec<FailingCall>,
}

impl Faults {
    /// Whether a request's head id is this head's.
    pub(super) fn is_same_head(&self, head_id: &str, requested: &str) -> bool {
        head_id == requested || (self.any_case_of_head_ids && head_id.eq_ignore_ascii_case(requested))
    }
}

impl From<FailingCall> for Faults {
    fn from(call: FailingCall) -> Self {
        Self { failing: vec![call], ..Self::default() }
    }
}

/// A call that fails a number of times, and works again after that.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FailingCall {
    pub(super) call: Call,
    pub(super) how: Fault,
    #[serde(default)]
    pub(super) says: Option<String>,
    #[serde(default)]
    pub(super) retry_after: Option<String>,
    #[serde(default)]
    pub(super) after_effect: bool,
    /// The head whose calls fail; `None` for those of all heads. It is looked for in path and query.
    #[serde(default)]
    pub(super) head_id: Option<String>,
    pub(super) times: usize,
}

impl FailingCall {
    /// A call that fails once.
    pub fn new(call: Call, how: Fault) -> Self {
        Self { call, how, says: None, retry_after: None, after_effect: false, head_id: None, times: 1 }
    }

    /// Sets how often the call fails.
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Lets the call fail every time.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Lets only the calls of one head fail.
    pub fn of_head(self, head_id: impl Into<String>) -> Self {
        Self { head_id: Some(head_id.into()), ..self }
    }

    /// Sets the body of a [`Fault::Status`].
    pub fn saying(self, body: impl Into<String>) -> Self {
        Self { says: Some(body.into()), ..self }
    }

    /// Sets the `Retry-After` of a [`Fault::Status`] to a value that is not a number of seconds.
    pub fn retry_after(self, date: impl Into<String>) -> Self {
        Self { retry_after: Some(date.into()), ..self }
    }

    /// Lets the platform carry out the call before it fails.
    pub fn after_effect(self) -> Self {
        Self { after_effect: true, ..self }
    }
}

/// The way in which a call fails.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The response has this status and, if given, `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// The connection breaks in the middle of the response.
    Reset,
    /// A response never comes.
    Hang,
    /// The response is 200 with a maintenance page in HTML.
    Html,
    /// The response has this status and `Location`.
    Redirect(u16, String),
    /// The response is 200 with JSON that begins with `[`, followed by white space without end.
    Endless,
    /// The response has this status and JSON text.
    Body(u16, String),
}

impl Fault {
    /// A response with this status.
    pub fn status(status: u16) -> Self {
        Self::Status(status, None)
    }
}
