//! The capacity units of an event, as docs/sessions.md has them.

use event_store::{keys::SessionKey, retention::Retention, store::EventStore};
use sessions::{
    table::{SessionsTable, Units},
    updater::{Outcome, Updater},
};
use tests::{
    delivery::{HEAD, SESSION, event},
    sessions_harness::{END, START, SessionsHarness, TIMEOUT, WARNING, event_item},
};

fn updater(harness: &SessionsHarness) -> Updater {
    let client = harness.table.client.clone();
    Updater {
        events: EventStore::new(client.clone(), harness.table.name.clone(), Retention::Forever),
        sessions: SessionsTable::new(client, harness.sessions_table.clone()),
    }
}

#[tokio::test]
async fn an_event_costs_a_read_unit_and_two_write_units_and_the_end_costs_three() {
    let harness = SessionsHarness::start().await;
    let key = SessionKey { head_id: HEAD.parse().unwrap(), session_id: SESSION.parse().unwrap() };
    let mut size = 0;
    for (event_type, occurred_at, write) in [
        (START, "2026-01-15T09:57:33Z", 2.0),
        (WARNING, "2026-01-15T09:59:33Z", 2.0),
        (TIMEOUT, "2026-01-15T10:00:33Z", 2.0),
        // The row moves to another partition of the index: one deletion and one write there.
        (END, "2026-01-15T10:00:33Z", 3.0),
    ] {
        let mut item = event_item(HEAD, SESSION, event_type, occurred_at, Retention::Days(365));
        item.body = event_store::item::Body::new(&event(&serde_json::json!({})));
        size += serde_json::to_vec(&item).unwrap().len();
        harness.put(&harness.table.name, item.into()).await;
        let folded = updater(&harness).update(&key).await.unwrap();
        assert_eq!(folded.outcome, Outcome::Updated);
        assert_eq!(folded.units, Units { read: 1.0, write }, "{event_type}");
    }
    assert!(size < 4_096, "one read unit is 4 KB: {size}");
    // A redelivery reads the session, and its write is refused.
    let folded = updater(&harness).update(&key).await.unwrap();
    assert_eq!((folded.outcome, folded.units), (Outcome::Unchanged, Units { read: 1.0, write: 1.0 }));
}
