//! The plan: what differs between the declared state, UNITH's and the ring's, as steps. Pure: nothing is asked or done.
//!
//! Whether a head's events are switched on cannot be read from UNITH, so it is no part of the plan: every `apply` states
//! it again, last.

use std::fmt;

use serde::{Serialize, Serializer};
use shared::{
    key_ring::{KeyState, RingKey},
    timestamp::Timestamp,
};

use crate::{
    declared::{Declared, Subscriptions},
    unith::{Webhook, same_url},
};

/// One thing to be done for a head. Each may be done twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Register the webhook, and put its key into the ring.
    Register,
    /// Register it anew, since nobody knows the key of what is registered; the plan after that deletes the old one.
    RegisterAnew,
    /// Put the key of a registered webhook into the ring.
    StoreKey {
        /// The webhook.
        webhook_id: String,
    },
    /// Set a webhook's subscriptions.
    SetSubscriptions {
        /// The webhook.
        webhook_id: String,
        /// As they are.
        from: Subscriptions,
        /// As they are to be.
        to: Subscriptions,
    },
    /// Delete a second registration of our URL; its key stays good for what is on its way.
    DeleteDouble {
        /// The webhook.
        webhook_id: String,
    },
    /// Let a key go whose webhook is not registered any more.
    RetireKey {
        /// The webhook it came with.
        webhook_id: String,
    },
    /// Drop a key from the ring whose time is over.
    DropKey {
        /// The webhook it came with.
        webhook_id: String,
    },
}

impl Step {
    /// Whether nobody has to have changed anything for it to be due: a key whose time is over is what a rotation leaves.
    #[must_use]
    pub fn is_housekeeping(&self) -> bool {
        matches!(self, Self::DropKey { .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register => f.write_str("register the webhook"),
            Self::RegisterAnew => f.write_str("register the webhook anew: the key of the registered one is not known"),
            Self::StoreKey { webhook_id } => write!(f, "put the key of webhook {webhook_id} into the ring"),
            Self::SetSubscriptions { webhook_id, from, to } => {
                write!(f, "subscribe webhook {webhook_id} to {to} (now {from})")
            }
            Self::DeleteDouble { webhook_id } => write!(f, "delete webhook {webhook_id}: our URL is registered twice"),
            Self::RetireKey { webhook_id } => write!(f, "retire the key of webhook {webhook_id}, which is gone"),
            Self::DropKey { webhook_id } => write!(f, "drop the key of webhook {webhook_id}, whose time is over"),
        }
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The webhooks that are ours: those with our URL, oldest first.
#[must_use]
pub fn ours<'w>(listed: &'w [Webhook], url: &str) -> Vec<&'w Webhook> {
    let mut ours: Vec<_> = listed.iter().filter(|webhook| same_url(&webhook.url, url)).collect();
    ours.sort_by_key(|webhook| id_order(&webhook.id));
    ours
}

/// The steps for one head: `listed` are its webhooks at UNITH, `ring` its keys in the ring.
#[must_use]
pub fn plan(declared: &Declared, listed: &[Webhook], ring: &[RingKey], now: Timestamp) -> Vec<Step> {
    let ours = ours(listed, declared.webhook_url.as_str());
    let mut steps = Vec::new();
    let Some(keeper) = keeper(&ours, ring, now) else {
        steps.push(if ours.is_empty() { Step::Register } else { Step::RegisterAnew });
        return with_keys_gone(steps, listed, ring, now);
    };
    let webhook_id = || keeper.id.clone();
    if !is_in_ring(keeper, ring, now) {
        steps.push(Step::StoreKey { webhook_id: webhook_id() });
    }
    if keeper.subscriptions != declared.subscriptions {
        let (from, to) = (keeper.subscriptions, declared.subscriptions);
        steps.push(Step::SetSubscriptions { webhook_id: webhook_id(), from, to });
    }
    let doubles = ours.iter().filter(|webhook| webhook.id != keeper.id);
    steps.extend(doubles.map(|webhook| Step::DeleteDouble { webhook_id: webhook.id.clone() }));
    with_keys_gone(steps, listed, ring, now)
}

/// Which of our registrations stays: the youngest whose key is known. That is the one a rotation made, and the same one
/// for two runs at once. `None` if no key is known.
fn keeper<'w>(ours: &[&'w Webhook], ring: &[RingKey], now: Timestamp) -> Option<&'w Webhook> {
    ours.iter().rev().find(|webhook| webhook.key.is_some() || is_in_ring(webhook, ring, now)).copied()
}

/// Whether the ring has this webhook's key in use, and no other key for it, as far as can be told: UNITH may not show it.
#[must_use]
pub fn is_in_ring(webhook: &Webhook, ring: &[RingKey], now: Timestamp) -> bool {
    let in_use = |entry: &&RingKey| {
        entry.webhook_id.as_deref() == Some(&webhook.id) && entry.state == KeyState::Active && entry.usable(now)
    };
    let mut in_use = ring.iter().filter(in_use);
    match &webhook.key {
        None => in_use.next().is_some(),
        Some(key) => in_use.next().is_some_and(|entry| entry.key.expose() == key.expose()) && in_use.next().is_none(),
    }
}

/// Keys of webhooks that are gone: the active ones are let go, those whose time is over are dropped.
fn with_keys_gone(mut steps: Vec<Step>, listed: &[Webhook], ring: &[RingKey], now: Timestamp) -> Vec<Step> {
    for entry in ring {
        let Some(webhook_id) = entry.webhook_id.clone() else { continue };
        let is_listed = listed.iter().any(|webhook| webhook.id == webhook_id);
        match entry.state {
            KeyState::Active if !is_listed => steps.push(Step::RetireKey { webhook_id }),
            KeyState::Retiring if !entry.usable(now) => steps.push(Step::DropKey { webhook_id }),
            _ => {}
        }
    }
    steps
}

/// Numbers by value, other ids behind them by their text.
fn id_order(id: &str) -> (u64, String) {
    (id.parse().unwrap_or(u64::MAX), id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declared::WebhookUrl;
    use shared::{key_ring::KeyRing, signature::SharedKey};

    const URL: &str = "https://a.example/x";
    const ALL: Subscriptions = Subscriptions::ALL;
    const NONE: Subscriptions = Subscriptions::NONE;

    fn webhook(id: &str, url: &str, key: Option<&str>, subscriptions: Subscriptions) -> Webhook {
        let key = key.map(|key| SharedKey::new(key).unwrap());
        Webhook { id: id.into(), url: url.into(), key, subscriptions, created_at: None }
    }

    fn steps(listed: &[Webhook], ring: &str) -> Vec<String> {
        let declared = Declared {
            webhook_url: WebhookUrl::parse(URL).unwrap(),
            head_ids: vec!["h".into()],
            subscriptions: ALL,
            enable_events: true,
        };
        let ring = KeyRing::parse(&format!(r#"{{"keys": [{ring}]}}"#)).unwrap();
        let now = Timestamp::parse("2026-01-16T10:00:00Z").unwrap();
        plan(&declared, listed, ring.keys(), now).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_table_of_cases() {
        let ours = |id, key| webhook(id, URL, Some(key), ALL);
        let masked = |id| webhook(id, URL, None, ALL);
        let others = webhook("9", "https://other.example/", Some("o"), NONE);
        let k4 = r#"{"webhook_id": 4, "key": "k4"}"#;
        let k4_retiring = r#"{"webhook_id": 4, "key": "k4", "state": "retiring", "until": "2026-01-16T10:15:00Z"}"#;
        let k4_over = r#"{"webhook_id": 4, "key": "k4", "state": "retiring", "until": "2026-01-16T09:00:00Z"}"#;
        let k5 = r#"{"webhook_id": 5, "key": "k5"}"#;
        let all = "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING";
        let (register, store_4) = ("register the webhook", "put the key of webhook 4 into the ring");
        let delete_4 = "delete webhook 4: our URL is registered twice";
        let retire_4 = "retire the key of webhook 4, which is gone";
        let drop_4 = "drop the key of webhook 4, whose time is over";
        let anew = "register the webhook anew: the key of the registered one is not known";
        let subscribe_4 = format!("subscribe webhook 4 to {all} (now none)");
        for (name, listed, ring, expected) in [
            ("nothing is there", vec![], String::new(), vec![register]),
            ("only others' webhooks are there", vec![others.clone()], String::new(), vec![register]),
            ("all is as declared", vec![ours("4", "k4"), others], k4.into(), vec![]),
            ("registered by hand", vec![ours("4", "k4")], String::new(), vec![store_4]),
            (
                "registered by hand in other words",
                vec![webhook("4", "https://A.example:443/x", Some("k4"), ALL)],
                String::new(),
                vec![store_4],
            ),
            ("the key has changed", vec![ours("4", "new")], k4.into(), vec![store_4]),
            (
                "another key is active besides",
                vec![ours("4", "k4")],
                format!(r#"{k4}, {{"webhook_id": 4, "key": "old"}}"#),
                vec![store_4],
            ),
            ("the key is going, but its webhook is not", vec![ours("4", "k4")], k4_retiring.into(), vec![store_4]),
            ("other flags", vec![webhook("4", URL, Some("k4"), NONE)], k4.into(), vec![&subscribe_4]),
            ("flags and key", vec![webhook("4", URL, Some("k4"), NONE)], String::new(), vec![store_4, &subscribe_4]),
            ("masked, and the key is known", vec![masked("4")], k4.into(), vec![]),
            ("masked, and the key is not known", vec![masked("4")], String::new(), vec![anew]),
            (
                "doubles, none known",
                vec![ours("5", "k5"), ours("4", "k4")],
                String::new(),
                vec!["put the key of webhook 5 into the ring", delete_4],
            ),
            ("doubles, the younger one is known", vec![ours("4", "k4"), ours("5", "k5")], k5.into(), vec![delete_4]),
            (
                "doubles by their number, not their text",
                vec![ours("10", "k10"), ours("4", "k4")],
                String::new(),
                vec!["put the key of webhook 10 into the ring", delete_4],
            ),
            (
                "a rotation that died: both active",
                vec![ours("4", "k4"), ours("5", "k5")],
                format!("{k4}, {k5}"),
                vec![delete_4],
            ),
            (
                "a rotation that died: the old one going",
                vec![ours("4", "k4"), ours("5", "k5")],
                format!("{k4_retiring}, {k5}"),
                vec![delete_4],
            ),
            (
                "doubles, one masked and unknown",
                vec![masked("4"), ours("5", "k5")],
                String::new(),
                vec!["put the key of webhook 5 into the ring", delete_4],
            ),
            ("the webhook is gone", vec![], k4.into(), vec![register, retire_4]),
            ("the webhook is gone and its key going", vec![ours("5", "k5")], format!("{k4_retiring}, {k5}"), vec![]),
            ("a key whose time is over", vec![ours("5", "k5")], format!("{k4_over}, {k5}"), vec![drop_4]),
        ] {
            assert_eq!(steps(&listed, &ring), expected, "{name}");
        }
    }
}
