//! The plan of a head: the difference between the declared state, UNITH's and the ring's. Pure.
//!
//! Invariants:
//! - A registration of ours counts only if its key is in the ring with `made_while_on`: UNITH never delivers to a
//!   webhook that was registered while events were off, and does not show which ones those are. Every other
//!   registration of ours is replaced.

use std::time::Duration;

use unith_events::{
    event_type::EventTypes,
    ids::WebhookId,
    key_ring::{KeyState, RingKey},
    signature::SharedKey,
    timestamp::Timestamp,
};

use crate::{
    declared::{Declared, WebhookUrl},
    step::{DeleteReason, Step},
    unith::webhook::Webhook,
};

/// How long a registration that UNITH does not list is waited for before another one is made.
const UNLISTED_IS_WAITED_FOR: Duration = Duration::from_hours(24);

/// A head at UNITH.
#[derive(Debug, Clone)]
pub struct Look {
    /// Its webhooks, those of others included.
    pub listed: Vec<Webhook>,
    pub events_on: bool,
}

/// The changes that a head needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The registration that stays, if any counts.
    pub keeper: Option<Webhook>,
    /// The keeper's key, if the ring does not have it in use.
    pub key_to_store: Option<SharedKey>,
    pub register: bool,
    /// Registrations of ours that do not count and deliver nothing verifiable: deleted before the registration.
    pub delete_first: Vec<Webhook>,
    /// The other registrations of ours that go: deleted when the one that stays is subscribed.
    pub delete_last: Vec<Webhook>,
    /// The keeper's subscriptions, if they are not the declared ones.
    pub subscribe_from: Option<EventTypes>,
    /// Webhooks whose keys are active in the ring and that UNITH does not list.
    pub gone: Vec<WebhookId>,
    /// Webhooks whose keys have expired in the ring.
    pub expired: Vec<WebhookId>,
    /// The value that the switch of the head's events has to be set to.
    pub switch: Option<bool>,
    /// When a webhook was registered that UNITH still does not list: no other one is registered meanwhile.
    pub unlisted_since: Option<Timestamp>,
}

/// The webhooks with our URL, oldest first: by their creation times if UNITH shows them all, else by their numbers.
pub fn ours(listed: &[Webhook], url: &WebhookUrl) -> Vec<Webhook> {
    let mut ours: Vec<_> = listed.iter().filter(|webhook| url.is(&webhook.url)).cloned().collect();
    let number = |webhook: &Webhook| webhook.id.as_str().parse::<u64>().ok();
    // Stable: without either, the order of the list stays.
    if ours.iter().all(|webhook| webhook.created_at.is_some()) {
        ours.sort_by_key(|webhook| (webhook.created_at, number(webhook)));
    } else if ours.iter().all(|webhook| number(webhook).is_some()) {
        ours.sort_by_key(number);
    }
    ours
}

/// Plans one head. `ring` are its entries. Keys of webhooks that are gone retire if `owner` owns them, or nobody does.
pub fn plan(declared: &Declared, look: &Look, ring: &[RingKey], owner: Option<&str>, now: Timestamp) -> Plan {
    let ours = ours(&look.listed, &declared.webhook_url);
    let entry_of = |webhook: &Webhook| entry_of(webhook, ring, &ours);
    let counts = |webhook: &&Webhook| entry_of(webhook).is_some_and(|entry| entry.made_while_on);
    let is_in_use = |webhook: &&Webhook| entry_of(webhook).is_some_and(|entry| entry.state == KeyState::Active);
    // The youngest is the one that a rotation made, and concurrent runs agree on it. One whose key is retiring stays
    // only without another one.
    let youngest = |wanted: &dyn Fn(&&Webhook) -> bool| ours.iter().rev().filter(counts).find(wanted).cloned();
    let keeper = youngest(&is_in_use).or_else(|| youngest(&|_| true));
    let others = ours.iter().filter(|webhook| keeper.as_ref().is_none_or(|keeper| keeper.id != webhook.id)).cloned();
    // Without a keeper, deliveries may or may not be verified; a webhook that delivers stays until it is replaced.
    let goes_first =
        |webhook: &Webhook| keeper.is_none() && (!look.events_on || webhook.subscriptions == EventTypes::NONE);
    let (delete_first, delete_last) = others.partition(goes_first);
    let is_listed = |id: &WebhookId| look.listed.iter().any(|webhook| webhook.id == *id);
    let ids = |wanted: &dyn Fn(&RingKey) -> bool| -> Vec<WebhookId> {
        ring.iter().filter(|entry| wanted(entry)).filter_map(|entry| entry.webhook_id.clone()).collect()
    };
    let is_own = |entry: &RingKey| entry.owner.is_none() || entry.owner.as_deref() == owner;
    let is_found = |entry: &RingKey| ours.iter().filter_map(entry_of).any(|own| own.has_key(&entry.key));
    let unlisted = ring.iter().filter(|entry| entry.webhook_id.is_none() && entry.state == KeyState::Active);
    let unlisted_since =
        unlisted.filter(|entry| is_own(entry) && !is_found(entry)).filter_map(|entry| entry.since).max();
    Plan {
        key_to_store: keeper.as_ref().and_then(|keeper| key_to_store(keeper, entry_of(keeper)?, ring, now)),
        register: keeper.is_none(),
        delete_first,
        delete_last,
        subscribe_from: keeper.as_ref().map(|keeper| keeper.subscriptions).filter(|own| *own != declared.subscriptions),
        gone: ids(&|entry| {
            entry.state == KeyState::Active
                && is_own(entry)
                && entry.webhook_id.as_ref().is_some_and(|id| !is_listed(id))
        }),
        expired: ids(&|entry| entry.state == KeyState::Retiring && !entry.usable(now)),
        switch: (look.events_on != declared.enable_events).then_some(declared.enable_events),
        unlisted_since: unlisted_since.filter(|since| now.since(*since) < UNLISTED_IS_WAITED_FOR),
        keeper,
    }
}

/// The ring's entry for a webhook: the one with its id, or that of a registration that was not listed at the time.
fn entry_of<'r>(webhook: &Webhook, ring: &'r [RingKey], ours: &[Webhook]) -> Option<&'r RingKey> {
    let with_id = |webhook: &Webhook| {
        let entries = ring.iter().filter(|entry| entry.is_of_webhook(&webhook.id));
        let is_shown = |entry: &RingKey| webhook.key.as_ref().is_some_and(|key| entry.has_key(key));
        entries.max_by_key(|entry| (is_shown(entry), entry.state == KeyState::Active))
    };
    with_id(webhook).or_else(|| {
        let mut unlisted = ring.iter().filter(|entry| entry.webhook_id.is_none());
        if let Some(key) = &webhook.key {
            return unlisted.find(|entry| entry.has_key(key));
        }
        // With a masked key, the only webhook without an entry belongs to the only entry without a webhook.
        let unknown = ours.iter().filter(|webhook| with_id(webhook).is_none()).count();
        unlisted.next().filter(|_| unknown == 1 && unlisted.next().is_none())
    })
}

/// The keeper's key, unless the ring has it, and it alone, in use.
fn key_to_store(keeper: &Webhook, entry: &RingKey, ring: &[RingKey], now: Timestamp) -> Option<SharedKey> {
    let shown = keeper.key.as_ref().unwrap_or(&entry.key);
    let in_use = |entry: &&RingKey| entry.is_of_webhook(&keeper.id) && entry.state == KeyState::Active;
    let is_stored = entry.has_key(shown)
        && ring.iter().filter(in_use).count() == 1
        && entry.state == KeyState::Active
        && entry.usable(now);
    (!is_stored).then(|| shown.clone())
}

impl Plan {
    /// The steps that `apply` would take.
    pub fn steps(&self, declared: &Declared) -> Vec<Step> {
        let mut steps = Vec::new();
        let replaced = self.delete_first.iter().chain(&self.delete_last).map(|webhook| webhook.id.clone());
        match (&self.keeper, self.unlisted_since) {
            (None, Some(since)) => steps.push(Step::AwaitListed(since)),
            (None, None) => {
                steps.extend(replaced.map(Step::Replace));
                if steps.is_empty() {
                    steps.push(Step::Register(None));
                }
            }
            (Some(Webhook { id, .. }), _) => {
                steps.extend(self.key_to_store.as_ref().map(|_| Step::StoreKey(id.clone())));
                let subscribe = |from| Step::Subscribe { webhook_id: id.clone(), from, to: declared.subscriptions };
                steps.extend(self.subscribe_from.map(subscribe));
                steps.extend(replaced.map(|id| Step::Delete(id, DeleteReason::Duplicate)));
            }
        }
        steps.extend(self.gone.iter().cloned().map(Step::RetireKey));
        steps.extend(self.expired.iter().cloned().map(Step::DropKey));
        steps.extend(self.switch.map(Step::Switch));
        steps
    }

    /// The plan of a rotation: the registration that stays is replaced, and nothing else changes. `None` without one.
    pub fn rotated(mut self) -> Option<Self> {
        self.delete_last.push(self.keeper.take()?);
        Some(Self { register: true, key_to_store: None, subscribe_from: None, switch: None, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declared::Heads;
    use serde_json::value::RawValue;
    use unith_events::key_ring::KeyRing;

    const URL: &str = "https://a.example/x";
    const ALL: EventTypes = EventTypes::ALL;
    const NONE: EventTypes = EventTypes::NONE;

    fn key(name: &str) -> String {
        format!("key-of-webhook-{name}")
    }

    fn webhook(id: &str, url: &str, key_name: Option<&str>, subscriptions: EventTypes) -> Webhook {
        let key = key_name.map(|name| SharedKey::parse(&key(name)).unwrap());
        let id = WebhookId::from_json(&RawValue::from_string(id.to_owned()).unwrap()).unwrap();
        Webhook { id, head_id: None, url: url.into(), key, subscriptions, created_at: None }
    }

    fn declared() -> Declared {
        Declared {
            webhook_url: WebhookUrl::parse(URL).unwrap(),
            heads: Heads::Named(vec!["h".parse().unwrap()]),
            subscriptions: ALL,
            enable_events: true,
        }
    }

    fn planned(listed: &[Webhook], events_on: bool, ring: &str) -> Plan {
        let ring = KeyRing::parse(&format!(r#"{{"keys": [{ring}]}}"#)).unwrap();
        let now = Timestamp::parse("2026-01-16T10:00:00Z").unwrap();
        plan(&declared(), &Look { listed: listed.to_vec(), events_on }, ring.keys(), Some("me"), now)
    }

    fn steps(listed: &[Webhook], events_on: bool, ring: &str) -> Vec<String> {
        planned(listed, events_on, ring).steps(&declared()).iter().map(ToString::to_string).collect()
    }

    fn entry(id: &str, name: &str, more: &str) -> String {
        format!(r#"{{"webhook_id": {id}, "key": "{}", "made_while_on": true{more}}}"#, key(name))
    }

    #[test]
    fn a_plan_follows_from_the_list_and_the_ring() {
        let ours = |id, key| webhook(id, URL, Some(key), ALL);
        let (w4, masked) = ([ours("4", "k4")], [webhook("4", URL, None, ALL)]);
        let w4_and_w5 = [ours("4", "k4"), ours("5", "k5")];
        let others = webhook("9", "https://other.example/", Some("o"), NONE);
        let (k4, k5) = (entry("4", "k4", ""), entry("5", "k5", ""));
        let k4_off = format!(r#"{{"webhook_id": 4, "key": "{}"}}"#, key("k4"));
        let k4_retiring = entry("4", "k4", r#", "state": "retiring", "until": "2026-01-16T10:15:00Z""#);
        let k4_expired = entry("4", "k4", r#", "state": "retiring", "until": "2026-01-16T09:00:00Z""#);
        let k4_of_another = entry("4", "k4", r#", "owner": "other""#);
        let unlisted = entry("null", "k4", r#", "since": "2026-01-16T09:00:00Z""#);
        let and = |first: &str, second: &str| format!("{first}, {second}");
        let all = "START_CONVERSATION, END_CONVERSATION, TIMEOUT_CONVERSATION, INACTIVITY_WARNING";
        let (register, store_4) = ("register the webhook", "store the key of webhook 4");
        let delete_4 = "delete webhook 4: our URL is registered twice";
        let retire_4 = "retire the key of webhook 4, which is gone";
        let drop_4 = "drop the key of webhook 4, which has expired";
        let replace_4 = "replace webhook 4: it is not known to have been registered while the head's events were on";
        let replace_5 = &replace_4.replace('4', "5");
        let subscribe_4 = &format!("subscribe webhook 4 to {all} (now none)");
        let check = |name: &str, listed: &[Webhook], ring: &str, expected: &[&str]| {
            assert_eq!(steps(listed, true, ring), expected, "{name}");
        };
        check("no webhook is listed", &[], "", &[register]);
        check("only others' webhooks are listed", std::slice::from_ref(&others), "", &[register]);
        check("everything is as declared", &[ours("4", "k4"), others], &k4, &[]);
        check("registered by hand", &w4, "", &[replace_4]);
        check("registered by version 0.1.0", &w4, &k4_off, &[replace_4]);
        let respelled = webhook("4", "https://A.example:443/x", Some("k4"), ALL);
        check("registered by hand with another spelling", &[respelled], "", &[replace_4]);
        check("the key has changed", &[ours("4", "new")], &k4, &[store_4]);
        check("another key of the webhook is active too", &w4, &and(&k4, &entry("4", "old", "")), &[store_4]);
        check("the key is retiring, but its webhook is listed", &w4, &k4_retiring, &[store_4]);
        check("other subscriptions", &[webhook("4", URL, Some("k4"), NONE)], &k4, &[subscribe_4]);
        check("masked, and the key is known", &masked, &k4, &[]);
        check("masked, and the key is unknown", &masked, "", &[replace_4]);
        check("registered twice, neither key known", &w4_and_w5, "", &[replace_4, replace_5]);
        check("registered twice, the younger key known", &w4_and_w5, &k5, &[delete_4]);
        check("a rotation that died with both keys active", &w4_and_w5, &and(&k4, &k5), &[delete_4]);
        check("a rotation that died with the old key retiring", &w4_and_w5, &and(&k4_retiring, &k5), &[delete_4]);
        let retire_5 = &retire_4.replace('4', "5");
        check("a rotation that died, the new webhook gone", &w4, &and(&k4_retiring, &k5), &[store_4, retire_5]);
        check("the webhook is gone", &[], &k4, &[register, retire_4]);
        check("another owner's webhook is gone", &[], &k4_of_another, &[register]);
        check("the webhook is gone, its key retiring", &[ours("5", "k5")], &and(&k4_retiring, &k5), &[]);
        check("an expired key", &[ours("5", "k5")], &and(&k4_expired, &k5), &[drop_4]);
        check("an unlisted webhook is listed now", &w4, &unlisted, &[store_4]);
        check("an unlisted webhook is listed now, masked", &masked, &unlisted, &[store_4]);
        let switched_off = steps(&[ours("4", "k4")], false, &k4);
        assert_eq!(switched_off, ["switch the head's events on"]);
    }

    #[test]
    fn a_webhook_that_delivers_stays_until_it_is_replaced_and_the_others_go_first() {
        let live = webhook("4", URL, Some("k4"), ALL);
        let silent = webhook("5", URL, Some("k5"), NONE);
        let ids = |webhooks: &[Webhook]| webhooks.iter().map(|webhook| webhook.id.to_string()).collect::<Vec<_>>();
        let on = planned(&[live.clone(), silent.clone()], true, "");
        assert_eq!((ids(&on.delete_first), ids(&on.delete_last)), (vec!["5".to_owned()], vec!["4".to_owned()]));
        let off = planned(&[live, silent], false, "");
        assert_eq!((ids(&off.delete_first), ids(&off.delete_last)), (vec!["4".to_owned(), "5".to_owned()], vec![]));
    }

    #[test]
    fn an_unlisted_registration_is_waited_for_24_hours() {
        let pending = |since: &str| entry("null", "k4", &format!(r#", "since": "{since}""#));
        let young = planned(&[], true, &pending("2026-01-15T10:00:01Z"));
        assert!(young.unlisted_since.is_some());
        assert!(planned(&[], true, &pending("2026-01-15T10:00:00Z")).unlisted_since.is_none());
        let working = format!("{}, {}", pending("2026-01-16T09:00:00Z"), entry("3", "k3", ""));
        let beside = planned(&[webhook("3", URL, Some("k3"), ALL)], true, &working);
        assert!(!beside.register && beside.unlisted_since.is_some(), "only a rotation has to wait");
    }

    #[test]
    fn webhooks_are_ordered_by_creation_time_or_number_or_list() {
        let order = |webhooks: &[(&str, Option<&str>)]| {
            let listed: Vec<_> = webhooks
                .iter()
                .map(|(id, at)| Webhook { created_at: at.and_then(Timestamp::parse), ..webhook(id, URL, None, ALL) })
                .collect();
            ours(&listed, &WebhookUrl::parse(URL).unwrap())
                .iter()
                .map(|webhook| webhook.id.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&[("10", None), ("4", None)]), ["4", "10"], "numbers are compared by value");
        let (early, late) = (Some("2026-01-16T09:56:12.076Z"), Some("2026-01-16T09:56:12.077Z"));
        assert_eq!(order(&[("\"a\"", late), ("\"z\"", early)]), ["z", "a"]);
        assert_eq!(order(&[("4", late), ("10", early)]), ["10", "4"], "the creation time counts before the number");
        assert_eq!(order(&[("\"z\"", None), ("\"a\"", None)]), ["z", "a"], "the list's order if nothing else is known");
    }
}
