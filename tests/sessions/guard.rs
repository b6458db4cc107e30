//! The guard: whichever writer is last, the row has the fold of the most events.

use std::{slice::from_ref, time::Duration};

use event_store::keys::SessionKey;
use sessions::{
    item::SessionItem,
    table::{Row, SessionsTable},
};
use tests::{
    proxy::Fault,
    sessions_harness::{END, START, SessionsHarness, WARNING, at},
    wait::{PATIENCE, until, within},
};
use unith_events::{
    session::{FOLD_VERSION, Fields, MAX_EVENTS, SessionEvent, fold},
    timestamp::Timestamp,
};

fn event(event_type: &str, occurred_at: Timestamp) -> SessionEvent {
    Fields {
        event_type: event_type.to_owned(),
        occurred_at,
        received_at: occurred_at,
        public_head_id: None,
        public_org_id: None,
        expires_at: None,
    }
    .into()
}

fn row(events: impl IntoIterator<Item = SessionEvent>) -> SessionItem {
    let key = SessionKey { head_id: "h".parse().unwrap(), session_id: "s".parse().unwrap() };
    SessionItem::new(&key, fold(events).unwrap())
}

fn table(harness: &SessionsHarness) -> SessionsTable {
    SessionsTable::new(harness.table.client.clone(), harness.sessions_table.clone())
}

/// The orders in which three writers can finish.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[tokio::test]
async fn the_summary_of_the_most_events_stays_in_whichever_order_writers_finish() {
    let (start, middle, end) = (at("2026-01-15T10:00:00Z"), at("2026-01-15T10:05:00Z"), at("2026-01-15T10:09:00Z"));
    let harness = SessionsHarness::start().await;
    let [a, b, c] = [event(START, start), event(WARNING, middle), event(END, end)];
    // Ties of whole seconds are ordered by the number of events.
    let [tie, before] = [event(START, end), event(WARNING, end)];
    let late = |count: u64| event(WARNING, start.plus(Duration::from_secs(count)));
    let many = |count| (0..count).map(late).collect::<Vec<_>>();
    let full = many(MAX_EVENTS as u64);
    let and = |more: &[SessionEvent]| [&full[..], more].concat();
    let (early, last) = (event(START, start.minus(Duration::from_secs(9))), late(9_999));
    for chain in [
        [vec![a.clone()], vec![a.clone(), b.clone()], vec![a.clone(), b.clone(), c.clone()]],
        [vec![c.clone()], vec![c.clone(), b], vec![a, c.clone(), event(WARNING, middle)]],
        [vec![c.clone()], vec![c.clone(), tie.clone()], vec![c, tie, before]],
        // A session becomes oversized without a later event among its first ones; then an early one arrives.
        [full.clone(), and(from_ref(&last)), and(&[last.clone(), early.clone()])],
        [full.clone(), and(from_ref(&early)), and(&[early, last])],
    ] {
        let chain = chain.map(row);
        for order in ORDERS {
            harness.empty().await;
            for item in order.map(|writer| &chain[writer]) {
                let written = table(&harness).put_if_newer(item).await.unwrap();
                assert_eq!(written.is_done, harness.rows().await[0] == *item, "{order:?}");
            }
            assert_eq!(harness.rows().await, chain[2..], "{order:?}");
        }
    }
}

#[tokio::test]
async fn a_writer_that_was_held_up_does_not_undo_a_newer_summary() {
    let harness = SessionsHarness::start().await;
    let first = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    // It reads the session, and its write is held up on the way.
    harness.table.proxy.set(Fault::delay(Duration::from_millis(400)).after(1).times(1));
    let late = harness.deliver(from_ref(&first));
    let newer = async {
        within(PATIENCE, until(async || harness.table.proxy.requests() == 2)).await;
        let second = harness.store("s", END, "2026-01-15T10:00:00Z").await;
        harness.deliver(&[second]).await
    };
    assert_eq!(tokio::join!(late, newer), (None, None));
    assert_eq!(harness.rows().await, harness.expected_rows().await);
}

#[tokio::test]
async fn a_write_whose_response_is_lost_is_done() {
    let harness = SessionsHarness::start().await;
    let record = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    harness.table.proxy.set(Fault::drop_response().after(1).times(1));
    assert_eq!(harness.deliver(&[record]).await, None);
    // The SDK tried again, and met its own write.
    assert_eq!(harness.counts()["unchanged"], 1);
    assert_eq!(harness.rows().await, harness.expected_rows().await);
}

#[tokio::test]
async fn newer_rules_replace_a_summary_of_the_same_events_and_older_ones_do_not() {
    let harness = SessionsHarness::start().await;
    let record = harness.store("s", START, "2026-01-15T10:00:00Z").await;
    let expected = harness.expected_rows().await;
    for (version, is_replaced) in [(FOLD_VERSION - 1, true), (FOLD_VERSION, false), (FOLD_VERSION + 1, false)] {
        let mut stored = expected[0].clone();
        (stored.summary.fold_version, stored.summary.warnings) = (version, 99);
        harness.empty().await;
        assert!(table(&harness).put_if_newer(&stored).await.unwrap().is_done);
        assert_eq!(harness.deliver(from_ref(&record)).await, None);
        let row = &harness.rows().await[0];
        assert_eq!(*row == expected[0], is_replaced, "{version}: {row:?}");
        assert_eq!(*row == stored, !is_replaced, "{version}: {row:?}");
    }
    // New events count for more than new rules: a function that was rolled back keeps the rows up to date.
    let end = harness.store("s", END, "2026-01-15T10:00:01Z").await;
    assert_eq!(harness.deliver(&[end]).await, None);
    assert_eq!(harness.rows().await, harness.expected_rows().await);
}

#[tokio::test]
async fn a_row_is_replaced_or_deleted_only_as_it_was_seen() {
    let harness = SessionsHarness::start().await;
    let table = table(&harness);
    let at = at("2026-01-15T10:00:00Z");
    let (old, new) = (row([event(START, at)]), row([event(START, at), event(END, at)]));
    let key = SessionKey { head_id: "h".parse().unwrap(), session_id: "s".parse().unwrap() };
    let seen = |item: &SessionItem| Row::Present(Box::new(item.clone()));
    assert!(!table.replace(&seen(&old), &new).await.unwrap().is_done, "there is none");
    assert!(table.replace(&Row::Absent, &new).await.unwrap().is_done);
    assert!(!table.replace(&Row::Absent, &old).await.unwrap().is_done, "there is one");
    assert!(!table.replace(&seen(&old), &old).await.unwrap().is_done, "there is another one");
    assert!(!table.delete(&key, &seen(&old)).await.unwrap().is_done, "there is another one");
    assert_eq!(harness.rows().await, from_ref(&new));
    assert!(table.replace(&seen(&new), &old).await.unwrap().is_done);
    assert!(table.delete(&key, &seen(&old)).await.unwrap().is_done);
    assert!(harness.items().await.is_empty());
}
