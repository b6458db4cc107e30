//! What is stored: sessions as UNITH sends them, in the order in which they are stored, and the poison among them.

use std::{collections::BTreeSet, time::Duration};

use fastrand::Rng;
use serde_json::json;
use unith_events::timestamp::Timestamp;

use super::delivery::{Delivery, Way};

const START: &str = "START_CONVERSATION";
const WARNING: &str = "INACTIVITY_WARNING";
const TIMEOUT: &str = "TIMEOUT_CONVERSATION";
const END: &str = "END_CONVERSATION";
/// Types that UNITH does not name.
const OTHER: [&str; 3] = ["HANDED_OVER", "Survey_Answered", "VIDEO#PLAYED%"];
/// The bus refuses events of this type as malformed.
pub(crate) const REFUSED: &str = "REFUSED";
/// The same unless their body is a text.
pub(crate) const REFUSED_AS_COPY: &str = "REFUSED_AS_COPY";
const HEADS: [&str; 5] = ["head-0", "head-1", "head-2", "head#3", "hëad-4"];
/// The name of the member that makes a body one that some consumer cannot read.
const ODD: &str = r#""odd":"#;

/// The mean distance between the starts of two sessions, in deliveries. A session has about as many events.
const SPACING: usize = 5;
/// The distance between two events of a session, in deliveries.
const STEP: usize = 10;
/// How far an event moves at most. It is more than a step, so that events of a session change places.
const JITTER: usize = 40;
/// Every so many sessions, one has many events.
const BUSY: usize = 400;
const BUSY_EVENTS: u64 = 150;

/// The deliveries of an experiment.
pub(crate) struct Plan {
    /// In parts, one per phase.
    pub(crate) parts: Vec<Vec<Delivery>>,
    /// The keys of the items that `publish` cannot publish.
    pub(crate) not_published: BTreeSet<(String, String)>,
    /// The keys of the items that `sessions` cannot fold.
    pub(crate) not_folded: BTreeSet<(String, String)>,
}

impl Plan {
    /// At least `count` events in so many parts. Poison is in the part with the number `poisoned`.
    pub(crate) fn random(random: &mut Rng, count: usize, parts: usize, poisoned: usize) -> Self {
        let (mut placed, mut events, mut number) = (Vec::new(), 0, 0);
        while events < count {
            let session = Session::random(random, number);
            for (index, (event_type, second)) in session.conversation(random).into_iter().enumerate() {
                let mut position = number * SPACING + index * STEP + random.usize(0..JITTER);
                let body = session.body(random, event_type, second);
                if random.u8(..50) == 0 {
                    placed.push((position + random.usize(0..JITTER), Delivery::new(body.clone(), Way::Direct)));
                }
                if random.u8(..200) == 0 {
                    placed.push((position, Delivery::new(with_member(&body, r#""other":true"#), Way::Direct)));
                }
                if random.u8(..200) == 0 {
                    placed.push((position, Delivery::unreadable(format!("{body}\n{position}").into_bytes())));
                }
                let way = match random.u8(..100) {
                    0 => Way::WithBytes,
                    1..=3 => {
                        position += random.usize(0..count / 4);
                        Way::Redriven
                    }
                    _ => Way::Direct,
                };
                placed.push((position, Delivery::new(body, way)));
                events += 1;
            }
            number += 1;
        }
        placed.sort_by_key(|(position, _)| *position);
        let mut deliveries: Vec<_> = placed.into_iter().map(|(_, delivery)| delivery).collect();
        let size = deliveries.len().div_ceil(parts);
        let mut plan = Self { parts: Vec::new(), not_published: BTreeSet::new(), not_folded: BTreeSet::new() };
        for part in 0..parts {
            let rest = deliveries.split_off(size.min(deliveries.len()));
            plan.parts.push(std::mem::replace(&mut deliveries, rest));
            if part == poisoned {
                plan.poison(random, (count / 2_000).max(12));
            }
        }
        plan
    }

    /// Puts poison of every kind between the deliveries of the last part.
    fn poison(&mut self, random: &mut Rng, count: usize) {
        for number in 0..count {
            // Another event of an earlier part's session: it has been stored, so that the poison is not alone.
            let known = &self.parts[random.usize(0..self.parts.len() - 1)];
            let known = known.iter().filter_map(Delivery::key).next_back();
            let (pk, _) = known.expect("every part has an event");
            let other = Session { head: HEADS[number % HEADS.len()], id: format!("poison-{number}"), start: base() };
            let sk = format!("EVENT#2026-01-15T00:00:00.000Z#3#BROKEN-{number}");
            let delivery = match number % 6 {
                0 => Delivery::broken(pk, sk),
                1 => Delivery::broken(format!("SESSION#head-0#broken-{number}"), sk),
                2 => Delivery::broken(format!("SESSION#odd-{number}"), sk),
                3 => Delivery::new(other.body(random, "TOO_LARGE", 1), Way::TooLarge),
                4 => Delivery::new(other.body(random, REFUSED, 1), Way::Direct),
                _ => Delivery::new(other.body(random, REFUSED_AS_COPY, 1), Way::Direct),
            };
            let key = delivery.key().expect("it is not a body without a key");
            if number % 6 < 5 {
                self.not_published.insert(key.clone());
            }
            if [1, 2].contains(&(number % 6)) {
                self.not_folded.insert(key);
            }
            let part = self.parts.last_mut().expect("there is a part");
            part.insert(random.usize(..=part.len()), delivery);
            // The rest of the session comes behind it.
            if number % 6 >= 3 {
                for (event_type, second) in [(START, 0), (END, 2)] {
                    part.push(Delivery::new(other.body(random, event_type, second), Way::Direct));
                }
            }
        }
    }
}

struct Session {
    head: &'static str,
    id: String,
    start: Timestamp,
}

fn base() -> Timestamp {
    Timestamp::parse("2026-01-15T09:00:00Z").unwrap()
}

impl Session {
    fn random(random: &mut Rng, number: usize) -> Self {
        let id = match random.u8(..50) {
            0 => format!("self-test:{number}"),
            1 => format!("sëssion #{number}%"),
            _ => format!("session-{number}"),
        };
        let start = base().plus(Duration::from_secs(number as u64));
        let is_busy = number % BUSY == BUSY / 2;
        let id = if is_busy { format!("busy-{number}") } else { id };
        Self { head: HEADS[random.usize(..HEADS.len())], id, start }
    }

    /// Its events, each with the second in which it happened. Many of them tie; some sessions have no START, or no END.
    fn conversation(&self, random: &mut Rng) -> BTreeSet<(&'static str, u64)> {
        let (mut events, mut second) = (BTreeSet::new(), 0);
        let rounds = if random.u8(..8) == 0 { 2 } else { 1 };
        for _ in 0..rounds {
            if random.u8(..12) > 0 {
                events.insert((START, second));
            }
            for _ in 0..random.usize(..5) {
                second += random.u64(..3);
                events.insert((if random.bool() { WARNING } else { OTHER[random.usize(..OTHER.len())] }, second));
            }
            if self.id.starts_with("busy") {
                events.extend((0..BUSY_EVENTS).map(|more| (OTHER[0], second + more)));
            }
            second += random.u64(..3);
            let ends: &[_] = match random.u8(..10) {
                0..=2 => &[TIMEOUT, END],
                3..=7 => &[END],
                8 => &[TIMEOUT],
                _ => &[],
            };
            events.extend(ends.iter().map(|event_type| (*event_type, second)));
            second += random.u64(..2);
        }
        if events.is_empty() || random.u8(..10) == 0 {
            events.insert((WARNING, second));
        }
        events
    }

    /// A body, sometimes one that cannot be copied into a bus event.
    fn body(&self, random: &mut Rng, event_type: &str, second: u64) -> String {
        let at = self.start.plus(Duration::from_secs(second)).to_string();
        let body = json!({
            "timestamp": at, "head_id": self.head, "session_id": self.id, "event_type": event_type,
            "public_head_id": "jane-15326", "public_org_id": "acme",
        });
        let body = body.to_string();
        let odd = |value: &str| with_member(&body, &format!("{ODD}{value}"));
        match random.u8(..150) {
            0 => odd(r#""\ud83d""#),
            1 => odd("1e400"),
            2 => odd("18446744073709551615"),
            3 => odd(&format!("{}{}", "[".repeat(200), "]".repeat(200))),
            4 => format!("\u{feff}{body}"),
            5 => format!(" \n{}\t", with_member(&body, r#""text":"a \u00e9 \ud83d\ude00 \u001f ü \\\" {[""#)),
            _ => body,
        }
    }
}

fn with_member(body: &str, member: &str) -> String {
    format!("{},{member}}}", body.trim_end().strip_suffix('}').expect("a body is an object"))
}

/// Whether a body is copied into its bus event.
pub(crate) fn is_copied(body: &str, event_type: &str) -> bool {
    body.trim_start_matches([' ', '\n']).starts_with('{') && !body.contains(ODD) && event_type != REFUSED_AS_COPY
}
