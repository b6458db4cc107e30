//! The command `list`.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use event_store::keys::SessionKey;
use serde_json::{Value, json};
use sessions::item::SessionItem;
use tests::{
    proxy::Fault,
    sessions_harness::{END, START, SessionsHarness, TIMEOUT, WARNING, at},
};
use unith_events::session::{Fields, fold};

/// Writes the rows of sessions that began and were last heard of then; of each the id, the start and the last event.
async fn write(harness: &SessionsHarness, head: &str, sessions: impl Iterator<Item = (String, String, &str, String)>) {
    let event = |event_type: &str, occurred_at: &str| {
        let (event_type, occurred_at) = (event_type.to_owned(), at(occurred_at));
        let received_at = occurred_at;
        Fields { event_type, occurred_at, received_at, public_head_id: None, public_org_id: None, expires_at: None }
    };
    let put = |(session, start, last_type, last): (String, String, &str, String)| {
        let key = SessionKey { head_id: head.parse().unwrap(), session_id: session.parse().unwrap() };
        let summary = fold([event(START, &start), event(last_type, &last)].map(Into::into)).unwrap();
        let item = serde_dynamo::to_item(SessionItem::new(&key, summary)).unwrap();
        WriteRequest::builder().put_request(PutRequest::builder().set_item(Some(item)).build().unwrap()).build()
    };
    let puts: Vec<_> = sessions.map(put).collect();
    for chunk in puts.chunks(25) {
        let write = harness.table.client.batch_write_item().request_items(&harness.sessions_table, chunk.to_vec());
        assert!(write.send().await.unwrap().unprocessed_items.unwrap_or_default().is_empty());
    }
}

/// Sessions of one day: every third one has ended, and of the others those before 11:00 are lost at noon.
async fn write_day(harness: &SessionsHarness, count: usize) {
    let session = |n: usize| {
        let start = format!("2026-01-15T{:02}:{:02}:00.000Z", n / 60, n % 60);
        (
            n.to_string(),
            start.clone(),
            if n.is_multiple_of(3) { END } else { WARNING },
            start.replace(":00.000Z", ":30Z"),
        )
    };
    write(harness, "h", (0..count).map(session)).await;
}

async fn list(harness: &SessionsHarness, filter: &Value) -> Value {
    let mut input = json!({"action": "list", "head_id": "h"});
    input.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
    harness.invoke(input).await.unwrap()
}

fn ids(report: &Value) -> Vec<String> {
    assert_eq!(report["ok"], true, "{report}");
    let sessions = report["sessions"].as_array().unwrap().iter();
    sessions.map(|session| session["session_id"].as_str().unwrap().to_owned()).collect()
}

/// The ids on all pages from `filter` on, and the number of pages.
async fn all_pages(harness: &SessionsHarness, filter: &Value) -> (Vec<String>, usize) {
    let (mut filter, mut all, mut pages) = (filter.clone(), Vec::new(), 0);
    loop {
        let report = list(harness, &filter).await;
        all.extend(ids(&report));
        pages += 1;
        if report["cursor"].is_null() {
            return (all, pages);
        }
        filter["cursor"] = report["cursor"].clone();
    }
}

fn numbers(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn sessions_are_listed_newest_first_50_at_a_time() {
    let harness = SessionsHarness::start().await;
    write_day(&harness, 120).await;
    write(
        &harness,
        "h#1",
        [("other".to_owned(), "2026-01-15T10:00:00Z".into(), END, "2026-01-15T10:01:00Z".into())].into_iter(),
    )
    .await;
    let report = list(&harness, &json!({})).await;
    assert_eq!(ids(&report), numbers((70..120).rev()));
    assert_eq!(harness.lines().last().unwrap()["result"]["sessions"], 50, "the log has their number");
    for limit in [7, 50, 119, 120, 200] {
        let (all, pages) = all_pages(&harness, &json!({"limit": limit})).await;
        assert_eq!(all, numbers((0..120).rev()), "{limit}");
        assert!(pages <= 120 / limit + 1, "{limit}: {pages}");
    }
    assert_eq!(all_pages(&harness, &json!({"head_id": "h#1"})).await, (vec!["other".to_owned()], 1));
    assert_eq!(all_pages(&harness, &json!({"head_id": "none"})).await, (Vec::new(), 1));
}

#[tokio::test]
async fn an_entry_has_what_is_known_of_the_session() {
    let harness = SessionsHarness::start().await;
    let mut records = Vec::new();
    for (session, event_type, occurred_at) in [
        ("ended", START, "2026-01-15T10:00:00Z"),
        ("ended", WARNING, "2026-01-15T10:02:00Z"),
        ("ended", TIMEOUT, "2026-01-15T10:03:00Z"),
        ("ended", END, "2026-01-15T10:03:00Z"),
        ("lost", WARNING, "2026-01-15T10:59:59Z"),
        ("open", START, "2026-01-15T11:00:00Z"),
    ] {
        records.push(harness.store(session, event_type, occurred_at).await);
    }
    assert_eq!(harness.deliver(&records).await, None);
    insta::assert_json_snapshot!(list(&harness, &json!({})).await);
}

#[tokio::test]
async fn a_list_has_the_sessions_of_one_state_and_a_range_of_starts() {
    let harness = SessionsHarness::start().await;
    write_day(&harness, 720).await;
    let open = |n: &usize| !n.is_multiple_of(3);
    // 10:59 was last heard of at 10:59:30, more than an hour before noon.
    for (filter, expected) in [
        (json!({"state": "ended"}), numbers((0..720).rev().filter(|n| !open(n)))),
        (json!({"state": "open"}), numbers((660..720).rev().filter(open))),
        (json!({"state": "lost"}), numbers((0..660).rev().filter(open))),
        (json!({"from": "2026-01-15T10:00:00Z", "to": "2026-01-15T10:10:00Z"}), numbers((600..610).rev())),
        (json!({"from": "2026-01-15T11:55:00Z"}), numbers((715..720).rev())),
        (json!({"to": "2026-01-15T00:05:00+00:00"}), numbers((0..5).rev())),
        (
            json!({"from": "2026-01-15T10:00:00Z", "to": "2026-01-15T10:10:00Z", "state": "lost"}),
            numbers((600..610).rev().filter(open)),
        ),
        (json!({"from": "2026-01-15T11:30:00Z", "state": "lost"}), Vec::new()),
        (json!({"from": "2026-01-16T00:00:00Z"}), Vec::new()),
    ] {
        for limit in [40, 200] {
            let mut filter = filter.clone();
            filter["limit"] = json!(limit);
            assert_eq!(all_pages(&harness, &filter).await.0, expected, "{filter}");
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_between_two_pages_is_shown_once_and_none_is_skipped() {
    let harness = SessionsHarness::start().await;
    let start = |n: usize| format!("2026-01-15T11:{n:02}:00Z");
    let mut records = Vec::new();
    for n in 0..20 {
        records.push(harness.store(&n.to_string(), START, &start(n)).await);
    }
    assert_eq!(harness.deliver(&records).await, None);
    let (all, open) = (json!({"limit": 6}), json!({"limit": 6, "state": "open"}));
    let pages = [list(&harness, &all).await, list(&harness, &open).await];
    // One was shown, one comes next, one is the last.
    let mut ended = Vec::new();
    for n in [17, 13, 0] {
        ended.push(harness.store(&n.to_string(), END, "2026-01-15T11:40:00Z").await);
    }
    // A session that began since is not in a list that is under way.
    ended.push(harness.store("new", START, "2026-01-15T11:50:00Z").await);
    assert_eq!(harness.deliver(&ended).await, None);
    for ((page, mut filter), expected) in pages
        .iter()
        .zip([all, open])
        .zip([numbers((0..20).rev()), numbers((0..20).rev().filter(|n| ![13, 0].contains(n)))])
    {
        filter["cursor"] = page["cursor"].clone();
        let rest = all_pages(&harness, &filter).await.0;
        assert_eq!([ids(page), rest].concat(), expected, "{filter}");
    }
    assert_eq!(all_pages(&harness, &json!({"state": "ended"})).await.0, numbers([17, 13, 0].into_iter()));
}

#[tokio::test]
async fn whether_a_session_is_lost_is_decided_once_for_all_pages() {
    let harness = SessionsHarness::start().await;
    let session =
        |n: usize| (n.to_string(), format!("2026-01-15T11:{n:02}:00Z"), WARNING, format!("2026-01-15T11:{n:02}:01Z"));
    write(&harness, "h", (0..20).map(session)).await;
    let mut filter = json!({"state": "open", "limit": 6});
    let first = list(&harness, &filter).await;
    harness.set_now("2026-01-15T18:00:00Z");
    filter["cursor"] = first["cursor"].clone();
    let rest = all_pages(&harness, &filter).await.0;
    assert_eq!([ids(&first), rest].concat(), numbers((0..20).rev()));
    assert_eq!(all_pages(&harness, &json!({"state": "open"})).await.0, Vec::<String>::new());
    assert_eq!(all_pages(&harness, &json!({"state": "lost"})).await.0.len(), 20);
}

#[tokio::test]
async fn a_call_examines_a_bounded_number_of_rows_and_goes_on_from_its_cursor() {
    let harness = SessionsHarness::start().await;
    // Years of lost sessions, and behind them one that is open since long ago, and was heard of just now.
    let lost = |n: usize| {
        let start = format!("2025-{:02}-{:02}T{:02}:{:02}:00Z", n / 1_000 + 1, n / 100 % 10 + 1, n / 60 % 24, n % 60);
        (format!("lost-{n}"), start.clone(), WARNING, start)
    };
    let open = ("open".to_owned(), "2024-01-01T00:00:00Z".to_owned(), WARNING, "2026-01-15T11:59:00Z".to_owned());
    write(&harness, "h", (0..2_100).map(lost).chain([open])).await;
    let filter = json!({"state": "open", "limit": 5});
    let first = list(&harness, &filter).await;
    assert_eq!((ids(&first), &first["examined"]), (Vec::new(), &json!(2_000)));
    assert!(first["cursor"].is_string());
    assert_eq!(all_pages(&harness, &filter).await, (vec!["open".to_owned()], 2));
}

#[tokio::test]
async fn a_call_ends_with_its_time_and_each_one_makes_progress() {
    let harness = SessionsHarness::start().await;
    write_day(&harness, 5).await;
    let (mut input, mut all) = (json!({"action": "list", "head_id": "h"}), Vec::new());
    for n in 0..5 {
        let report = harness.invoke_within(input.clone(), Duration::ZERO).await.unwrap();
        assert_eq!(ids(&report).len(), 1);
        all.extend(ids(&report));
        assert_eq!(report["cursor"].is_null(), n == 4, "{report}");
        input["cursor"] = report["cursor"].clone();
    }
    assert_eq!(all, numbers((0..5).rev()));
}

#[tokio::test]
async fn values_that_cannot_be_are_refused_with_a_sentence() {
    let harness = SessionsHarness::start().await;
    write_day(&harness, 5).await;
    let filter = json!({"state": "open", "limit": 1, "from": "2026-01-15T00:00:00Z"});
    harness.set_now("2026-01-15T00:10:00Z");
    let cursor = list(&harness, &filter).await["cursor"].clone();
    let cursor = cursor.as_str().unwrap();
    let other = "`cursor` is not one of this list: repeat `head_id`, `state`, `from` and `to` with it";
    for (change, expected) in [
        (json!({"limit": 0}), "`limit` is 0: expected 1 to 200"),
        (json!({"limit": 201}), "`limit` is 201: expected 1 to 200"),
        (json!({"from": "2026-01-15T00:00:00Z", "to": "2026-01-15T00:00:00Z"}), "`from` must be before `to`"),
        (json!({"from": "today"}), "not an ISO 8601 date and time"),
        (json!({"state": "closed"}), "unknown variant `closed`, expected one of `open`, `ended`, `lost`"),
        (json!({"head_id": ""}), "expected 1 to 256 bytes without control characters"),
        (json!({"heads": []}), "unknown field `heads`"),
        (json!({"cursor": cursor}), other),
        (json!({"cursor": cursor, "state": "open"}), other),
        (json!({"cursor": cursor, "state": "lost", "from": "2026-01-15T00:00:00Z"}), other),
        (json!({"cursor": cursor, "state": "open", "from": "2026-01-15T00:00:00Z", "head_id": "other"}), other),
        (json!({"cursor": "x"}), other),
        (json!({"cursor": ""}), other),
        (json!({"cursor": cursor.replace('.', "-"), "state": "open", "from": "2026-01-15T00:00:00Z"}), other),
    ] {
        let mut input = json!({"action": "list", "head_id": "h"});
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = harness.invoke(input).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{change}: {error}");
    }
    // The limit may change on the way.
    let mut next = filter;
    (next["cursor"], next["limit"]) = (json!(cursor), json!(200));
    assert_eq!(ids(&list(&harness, &next).await), ["2", "1"]);
}

#[tokio::test]
async fn a_table_that_does_not_respond_is_reported_and_rows_of_another_form_are_counted() {
    let harness = SessionsHarness::start().await;
    write_day(&harness, 3).await;
    let mut item = harness.items().await[0].clone();
    item.insert("pk".into(), AttributeValue::S("SESSION#h#edited".into()));
    item.insert("warnings".into(), AttributeValue::S("many".into()));
    harness.put(&harness.sessions_table, item).await;
    let report = list(&harness, &json!({})).await;
    assert_eq!((ids(&report).len(), &report["invalid"]), (3, &json!(1)));
    harness.table.proxy.set(Fault::access_denied());
    let report = list(&harness, &json!({})).await;
    assert_eq!(report["ok"], false);
    let error = report["error"].as_str().unwrap();
    assert!(error.ends_with("the function's role needs dynamodb:Query on the table"), "{error}");
    let line = harness.lines().last().unwrap().clone();
    assert_eq!((&line["level"], &line["message"]), (&json!("ERROR"), &json!("command failed")));
}
