//! A step of a run, as plans and reports show it.

use std::fmt;

use serde::{Serialize, Serializer};
use unith_events::{event_type::EventTypes, ids::WebhookId, timestamp::Timestamp};

/// One step for a head, planned or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Register the webhook; its id is `None` until UNITH lists it.
    Register(Option<WebhookId>),
    /// Wait until UNITH lists the webhook that was registered at this time.
    AwaitListed(Timestamp),
    /// Register a new webhook and delete this one.
    Replace(WebhookId),
    StoreKey(WebhookId),
    Subscribe {
        webhook_id: WebhookId,
        from: EventTypes,
        to: EventTypes,
    },
    Delete(WebhookId, DeleteReason),
    RetireKey(WebhookId),
    DropKey(WebhookId),
    /// Switch the head's events on or off.
    Switch(bool),
}

/// Why a webhook is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    Duplicate,
    Replaced,
    /// No key of the ring verifies what it signs.
    Unverifiable,
    /// The run that registered it failed.
    Undone,
    Removed,
}

impl Step {
    /// Whether it becomes due by itself, so that it is not drift: an expired key is what a rotation leaves behind.
    pub fn is_housekeeping(&self) -> bool {
        matches!(self, Self::DropKey(_))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(None) => f.write_str("register the webhook"),
            Self::Register(Some(id)) => write!(f, "register webhook {id}"),
            Self::AwaitListed(since) => {
                write!(f, "wait for the webhook that was registered at {since} to be listed by UNITH")
            }
            Self::Replace(id) => {
                let why = "it is not known to have been registered while the head's events were on";
                write!(f, "replace webhook {id}: {why}")
            }
            Self::StoreKey(id) => write!(f, "store the key of webhook {id}"),
            Self::Subscribe { webhook_id, from, to } => {
                write!(f, "subscribe webhook {webhook_id} to {to} (now {from})")
            }
            Self::Delete(id, reason) => write!(f, "delete webhook {id}{reason}"),
            Self::RetireKey(id) => write!(f, "retire the key of webhook {id}, which is gone"),
            Self::DropKey(id) => write!(f, "drop the key of webhook {id}, which has expired"),
            Self::Switch(true) => f.write_str("switch the head's events on"),
            Self::Switch(false) => f.write_str("switch the head's events off"),
        }
    }
}

impl fmt::Display for DeleteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => ": our URL is registered twice",
            Self::Replaced => "; its key stays valid for a while",
            Self::Unverifiable => ", which delivers nothing that can be verified",
            Self::Undone => " again",
            Self::Removed => "",
        })
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
