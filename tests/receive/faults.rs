//! The worst night: a table that is throttled, slow, gone or behind a connection that died.

use std::time::Duration;

use event_store::store::{Put, QuarantineKind, Quarantined, Retention};
use serde_json::json;
use tests::{
    KEY, ReceiveHarness, event, http_api_event,
    proxy::{Fault, Stale},
    sign,
};
use unith_events::{event::Event, key_ring::KeyRing, signature::SharedKey, timestamp::Timestamp, verify::verify};

fn refusal(kind: &str) -> Fault {
    Fault::Answer(
        400,
        json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": "told so"}).to_string(),
    )
}

#[tokio::test]
async fn whatever_the_table_does_the_answer_comes_in_time_and_the_event_is_not_lost() {
    for (fault, reason) in [
        (refusal("ProvisionedThroughputExceededException"), "the table is throttled: see its capacity mode and limits"),
        (refusal("ResourceNotFoundException"), "see TABLE_NAME and AWS_REGION"),
        (refusal("AccessDeniedException"), "the function's role needs dynamodb:PutItem on the table"),
        (Fault::Answer(500, "{}".into()), "did not take the event"),
        (Fault::Refuse, "did not take the event"),
        (Fault::Hang, "did not take the event: request has timed out"),
        (Fault::Delay(Duration::from_secs(20)), "did not take the event: request has timed out"),
    ] {
        let world = ReceiveHarness::new().await;
        let receiver = world.receiver().await;
        world.table.proxy.set(fault.clone());
        let body = event(&json!({}));
        let answer = receiver.deliver(&body, KEY).await;
        assert_eq!(answer.status, 503, "{fault:?}");
        assert_eq!(answer.headers["retry-after"], "2");
        assert!(answer.reason().contains(reason), "{fault:?}: {}", answer.reason());
        let (outcome, level) = (&answer.record["outcome"], &answer.record["level"]);
        assert_eq!((outcome, level), (&json!("unavailable"), &json!("ERROR")), "{fault:?}");
        assert!(answer.record["total_ms"].as_f64().unwrap() < 4_000.0, "{fault:?}: {}", answer.record);
        assert!(answer.record["store_ms"].as_f64().is_some(), "{fault:?}");

        // UNITH tries again, and the night is over.
        world.table.proxy.set(Fault::None);
        assert_eq!(receiver.deliver(&body, KEY).await.word(), (200, "stored".into()), "{fault:?}");
        assert_eq!(world.table.items().await.len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_body_to_be_quarantined_is_not_accepted_unless_it_is_kept() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let conflicting = event(&json!({"public_org_id": "other"}));
    receiver.deliver(&event(&json!({})), KEY).await;
    world.table.proxy.set(refusal("AccessDeniedException"));
    for body in [b"no event".to_vec(), conflicting.clone()] {
        assert_eq!(receiver.deliver(&body, KEY).await.status, 503);
    }
    world.table.proxy.set(Fault::None);
    assert_eq!(receiver.deliver(b"no event", KEY).await.status, 202);
    assert_eq!(receiver.deliver(&conflicting, KEY).await.status, 200);
    assert_eq!(world.table.items().await.len(), 3);
}

/// The SDK's own quota would be used up by then, and leave one attempt to each delivery.
#[tokio::test]
async fn a_long_night_leaves_every_delivery_its_attempts() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    world.table.proxy.set(refusal("ProvisionedThroughputExceededException"));
    for n in 0..60 {
        let before = world.table.proxy.requests();
        let answer = receiver.deliver(&event(&json!({"session_id": n.to_string()})), KEY).await;
        assert_eq!(answer.status, 503);
        assert_eq!(world.table.proxy.requests() - before, 4, "attempts of delivery {n}");
    }
}

#[tokio::test]
async fn a_short_fit_of_throttling_costs_a_retry_and_not_the_event() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let before = world.table.proxy.requests();
    world.table.proxy.set(refusal("ProvisionedThroughputExceededException"));
    let delivery = tokio::spawn({
        let receiver = receiver.clone();
        async move { receiver.deliver(&event(&json!({})), KEY).await }
    });
    while world.table.proxy.requests() == before {
        tokio::task::yield_now().await;
    }
    world.table.proxy.set(Fault::None);
    assert_eq!(delivery.await.unwrap().word(), (200, "stored".into()));
}

#[tokio::test]
async fn a_connection_that_died_while_frozen_costs_a_retry_and_not_the_event() {
    for how in [Stale::Closes, Stale::Swallows] {
        let world = ReceiveHarness::new().await;
        let receiver = world.receiver().await;
        receiver.deliver(&event(&json!({})), KEY).await;
        let before = world.table.proxy.requests();
        world.table.proxy.make_stale(how);
        let answer = receiver.deliver(&event(&json!({"session_id": "after"})), KEY).await;
        assert_eq!(answer.word(), (200, "stored".into()), "{how:?}");
        assert_eq!(world.table.proxy.requests(), before + 2, "{how:?}: the lost one and its retry");
        assert_eq!(world.table.items().await.len(), 2, "{how:?}");
    }
}

#[tokio::test]
async fn an_invocation_that_ends_sooner_is_answered_sooner() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    world.table.proxy.set(Fault::Hang);
    let body = event(&json!({}));
    let request = http_api_event(&body, Some(&sign(&body, KEY)));
    let answer = receiver.invoke_within(&request, Duration::from_secs(1)).await;
    assert_eq!((answer.status, answer.reason()), (503, "out of time while writing to the table"));
    assert!(answer.record["total_ms"].as_f64().unwrap() < 1_000.0, "{}", answer.record);
}

#[tokio::test]
async fn a_delivery_is_rehearsed_before_the_first_request_and_leaves_nothing() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    assert_eq!(world.table.proxy.requests(), 1, "the rehearsal's");
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.word(), (200, "stored".into()));
    assert_eq!((world.table.proxy.requests(), world.table.items().await.len()), (2, 1), "and it wrote nothing");
    assert_eq!(world.table.proxy.connections(), 1, "its connection is used");

    world.table.proxy.set(Fault::Refuse);
    let receiver = world.receiver().await;
    world.table.proxy.set(Fault::None);
    assert_eq!(receiver.deliver(&event(&json!({})), KEY).await.word(), (200, "duplicate".into()));
}

#[tokio::test]
async fn a_rehearsals_table_takes_nothing() {
    let world = ReceiveHarness::new().await;
    let client = sandbox::dynamodb_client(world.table.proxy.url()).unwrap();
    let table = event_store::store::Table::new(client, world.table.name.clone(), Retention::Days(1)).refusing();
    let now = Timestamp::now();
    let body = event(&json!({}));
    let ring = KeyRing::parse(KEY).unwrap();
    let signature = SharedKey::parse(KEY).unwrap().sign(&body);
    let read = Event::parse(&verify(&body, &signature, &ring, now).unwrap()).unwrap();
    assert_eq!(table.put_event(&read, &body, now).await.unwrap(), Put::Duplicate);
    let quarantined = Quarantined {
        kind: QuarantineKind::Unreadable,
        reason: "no reason",
        key_head: None,
        head_id: None,
        session_id: None,
    };
    assert!(!table.quarantine(&body, &quarantined, now).await.unwrap());
    assert_eq!(world.table.items().await.len(), 0);
}

#[tokio::test]
async fn who_knows_how_a_rehearsal_is_signed_gets_nowhere() {
    let world = ReceiveHarness::new().await;
    let receiver = world.receiver().await;
    let answer = receiver.deliver(&event(&json!({})), "rehearsed-deliveries").await;
    assert_eq!(answer.status, 401);
    assert_eq!(world.table.items().await.len(), 0);
}
