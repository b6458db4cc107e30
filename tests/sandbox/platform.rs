//! The simulated platform does what UNITH's developer kit shows, and spells deliveries as the guide does if asked to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use sandbox::{
    platform::{
        EMAIL, EventType, FIRST_SHARED_KEY, HEAD_ID, PUBLIC_HEAD_ID, PUBLIC_ORG_ID, Platform, SECRET_KEY, Settings,
        Style, Subscriptions,
        delivery::{Attempt, NoAnswer},
    },
    server::{ServerHandle, listen},
};
use serde_json::{Value, json};
use unith_events::{
    signature::{SharedKey, Signature},
    timestamp::Timestamp,
};

const URL: &str = "https://hooks.example.com/in";

/// Another head.
const HEAD_B: &str = "head-b";

/// A webhook that answers as it is told, and remembers.
#[derive(Clone)]
struct Hook {
    answers: Arc<Mutex<Vec<u16>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
    /// The keys that may sign.
    keys: Arc<Mutex<Vec<String>>>,
    /// Which of them signed each delivery.
    signed_with: Arc<Mutex<Vec<String>>>,
}

impl Default for Hook {
    fn default() -> Self {
        let keys = Arc::new(Mutex::new(vec![FIRST_SHARED_KEY.to_owned()]));
        Self { answers: Arc::default(), bodies: Arc::default(), keys, signed_with: Arc::default() }
    }
}

impl Hook {
    async fn serve(&self) -> ServerHandle {
        let router = Router::new().route("/in", post(receive)).with_state(self.clone());
        ServerHandle::router(listen("a webhook", 0).await.unwrap(), router).unwrap()
    }
}

/// 0 stands for no answer at all.
async fn receive(State(hook): State<Hook>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = Signature::parse(headers["x-signature-256"].as_bytes()).unwrap();
    let keys = hook.keys.lock().unwrap().clone();
    let key = keys.into_iter().find(|key| SharedKey::parse(key.as_str()).unwrap().signed(&body, &signature));
    hook.signed_with.lock().unwrap().push(key.expect("an unknown key signed"));
    assert_eq!(
        (&headers["host"], &headers["content-type"]),
        (&"hooks.example.com".parse().unwrap(), &"application/json".parse().unwrap())
    );
    hook.bodies.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    let next = hook.answers.lock().unwrap().pop().unwrap_or(200);
    if next == 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::from_u16(next).unwrap()
}

struct Api {
    platform: Platform,
    http: reqwest::Client,
    bearer: String,
}

impl Api {
    async fn start(hook: Option<&ServerHandle>) -> Self {
        Self::start_with(hook, Settings::default()).await
    }

    async fn start_with(hook: Option<&ServerHandle>, settings: Settings) -> Self {
        let hosts: BTreeMap<_, _> =
            hook.iter().map(|hook| ("hooks.example.com".to_owned(), hook.url().to_owned())).collect();
        let settings = Settings {
            hosts,
            give_up_after: Duration::from_millis(300),
            first_backoff: Duration::from_millis(10),
            seed: 1,
            ..settings
        };
        let platform = Platform::serve(listen("UNITH", 0).await.unwrap(), settings).unwrap();
        let mut api = Self { platform, http: provision::unith::http_client(), bearer: String::new() };
        let (status, token) = api.call("POST", "/auth/token", &json!({"email": EMAIL, "secretKey": SECRET_KEY})).await;
        assert_eq!(status, 200);
        token["data"]["bearer"].as_str().unwrap().clone_into(&mut api.bearer);
        api
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.platform.url())).bearer_auth(&self.bearer);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    async fn register(&self, flags: &Value) -> (u16, Value) {
        let mut body = json!({"headId": HEAD_ID, "webhookUrl": URL});
        body.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        self.call("POST", "/head-events", &body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, &Value::Null).await
    }

    async fn list(&self, head_id: &str) -> Value {
        let (status, list) = self.get(&format!("/head-events?headId={head_id}")).await;
        assert_eq!(status, 200);
        list
    }

    fn faults(&self, faults: Value) {
        self.platform.set_faults(serde_json::from_value(faults).unwrap());
    }

    /// The journal as webhook id, key and whether it began.
    fn journal(&self) -> Vec<(u64, String, bool)> {
        self.platform.journal().into_iter().map(|change| (change.webhook_id, change.shared_key, change.live)).collect()
    }

    async fn enable(&self, on: bool) {
        let path = format!("/head/{HEAD_ID}/enable-events?enableEvents={on}");
        assert_eq!(self.call("PUT", &path, &Value::Null).await.0, 200);
    }

    async fn emit(&self, kind: EventType) -> Vec<Attempt> {
        let sent = self.platform.emit(HEAD_ID, "session", kind, Timestamp::now()).pop();
        match sent {
            Some(sent) => sent.attempts.await.unwrap(),
            None => Vec::new(),
        }
    }
}

fn all() -> Value {
    json!({"startConversation": true, "endConversation": true, "timeoutConversation": true, "inactivityWarning": true})
}

#[tokio::test]
async fn every_call_but_the_token_needs_a_bearer() {
    let mut api = Api::start(None).await;
    let wrong = json!({"email": EMAIL, "secretKey": "wrong"});
    assert_eq!(api.call("POST", "/auth/token", &wrong).await.0, 401);
    api.bearer = "made up".to_owned();
    for (method, path) in [
        ("POST", "/head-events"),
        ("GET", "/head-events?headId=x"),
        ("GET", "/head-events/1"),
        ("PATCH", "/head-events/1"),
        ("DELETE", "/head-events/1"),
        ("PUT", "/head/x/enable-events?enableEvents=true"),
        ("GET", "/head/x/enable-events"),
        ("GET", "/head/all"),
        ("GET", "/user/me"),
    ] {
        assert_eq!(api.call(method, path, &Value::Null).await.0, 401, "{method} {path}");
    }
}

#[tokio::test]
async fn a_webhook_is_registered_listed_changed_and_deleted() {
    let api = Api::start(None).await;
    let (status, answer) = api.register(&json!({"startConversation": true})).await;
    assert_eq!((status, answer), (200, json!({"sharedKey": FIRST_SHARED_KEY})), "the key, and no id");
    let (_, second) = api.register(&all()).await;
    assert_ne!(second["sharedKey"], FIRST_SHARED_KEY);

    let list = api.list(HEAD_ID).await;
    assert_eq!(list.as_array().unwrap().len(), 2, "a second registration with the same URL is added");
    assert_eq!(list[1]["sharedKey"], second["sharedKey"]);
    let names: Vec<_> = list[0].as_object().unwrap().keys().map(String::as_str).collect();
    let shown = "createdAt endConversation headId id inactivityWarning orgId sharedKey startConversation \
                 timeoutConversation updatedAt webhookUrl";
    assert_eq!(names.join(" "), shown);
    let first = &list[0];
    assert_eq!(
        (&first["id"], &first["webhookUrl"], &first["startConversation"], &first["endConversation"]),
        (&json!(1), &json!(URL), &json!(true), &json!(false)),
        "a flag left out is off"
    );
    assert_eq!(api.list("other").await, Value::Null, "an empty list");
    assert_eq!(api.get("/head-events/1").await, (200, first.clone()));

    let mut changed = all();
    changed["headId"] = HEAD_ID.into();
    changed["webhookUrl"] = URL.into();
    let (status, patched) = api.call("PATCH", "/head-events/1", &changed).await;
    assert_eq!((status, &patched["endConversation"]), (200, &json!(true)));
    assert_eq!(patched["sharedKey"], FIRST_SHARED_KEY);

    assert_eq!(api.call("DELETE", "/head-events/1", &Value::Null).await.0, 204);
    for method in ["GET", "DELETE"] {
        assert_eq!(api.call(method, "/head-events/1", &Value::Null).await.0, 404, "{method}");
    }
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused() {
    let api = Api::start(None).await;
    for (head, url, status) in
        [(HEAD_ID, "http://hooks.example.com/in", 400), ("no-head", URL, 404), (PUBLIC_HEAD_ID, URL, 404)]
    {
        let (answered, body) = api.call("POST", "/head-events", &json!({"headId": head, "webhookUrl": url})).await;
        assert_eq!(answered, status, "{body}");
    }
    assert!(api.platform.webhooks().is_empty());
}

#[tokio::test]
async fn only_enabled_heads_and_chosen_types_are_delivered() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    assert!(!api.platform.events_enabled(HEAD_ID), "off is the default");
    api.enable(true).await;
    api.register(&json!({"startConversation": true, "inactivityWarning": true})).await;
    for (kind, delivered) in [
        (EventType::StartConversation, 1),
        (EventType::EndConversation, 0),
        (EventType::InactivityWarning, 1),
        (EventType::TimeoutConversation, 0),
    ] {
        assert_eq!(api.emit(kind).await.len(), delivered, "{}", kind.as_str());
    }
    api.enable(false).await;
    assert!(api.emit(EventType::StartConversation).await.is_empty());
    assert_eq!(api.platform.webhooks().len(), 1, "the registration stays");
    api.enable(true).await;
    assert_eq!(api.emit(EventType::StartConversation).await.len(), 1, "off and on again keeps a registration working");
    let types: Vec<_> = hook.bodies.lock().unwrap().iter().map(|body| body["event_type"].clone()).collect();
    assert_eq!(types, ["start_conversation", "inactivity_warning", "start_conversation"]);
}

#[tokio::test]
async fn each_style_spells_deliveries_its_own_way() {
    assert_eq!(Settings::default().style, Style::Kit);
    let kinds = [
        (EventType::StartConversation, "start_conversation"),
        (EventType::InactivityWarning, "inactivity_warning"),
        (EventType::TimeoutConversation, "timeout_conversation"),
        (EventType::EndConversation, "end_conversation"),
    ];
    for (style, timestamp) in [(Style::Kit, "2026-08-31 06:56:30"), (Style::Guide, "2026-08-31T06:56:30Z")] {
        let hook = Hook::default();
        let served = hook.serve().await;
        let api = Api::start_with(Some(&served), Settings { style, ..Settings::default() }).await;
        api.enable(true).await;
        api.register(&all()).await;
        let at = Timestamp::parse("2026-08-31T08:56:30.999+02:00").unwrap();
        for (kind, lower) in kinds {
            let sent = api.platform.emit(HEAD_ID, "session", kind, at).remove(0);
            let event_type = if style == Style::Kit { lower.to_owned() } else { lower.to_uppercase() };
            let expected = format!(r#"{{"timestamp":"{timestamp}","head_id":"{HEAD_ID}","session_id":"session","#)
                + &format!(
                    r#""public_head_id":"{PUBLIC_HEAD_ID}","public_org_id":"{PUBLIC_ORG_ID}","event_type":"{event_type}"}}"#
                );
            assert_eq!(String::from_utf8(sent.body).unwrap(), expected);
            assert!(sent.attempts.await.unwrap()[0].succeeded());
        }
        assert_eq!(hook.bodies.lock().unwrap().len(), 4, "{style:?}");
    }
}

#[tokio::test]
async fn each_registration_delivers_signed_with_its_own_key() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    api.enable(true).await;
    api.register(&all()).await;
    let second = api.register(&all()).await.1["sharedKey"].as_str().unwrap().to_owned();
    hook.keys.lock().unwrap().push(second.clone());
    let sent = api.platform.emit(HEAD_ID, "session", EventType::StartConversation, Timestamp::now());
    assert_eq!(sent.len(), 2);
    for sent in sent {
        assert!(sent.attempts.await.unwrap()[0].succeeded());
    }
    let mut signed_with = hook.signed_with.lock().unwrap().clone();
    signed_with.sort();
    let mut keys = [FIRST_SHARED_KEY.to_owned(), second];
    keys.sort();
    assert_eq!(signed_with, keys);
}

#[tokio::test]
async fn a_registration_made_while_events_are_off_never_delivers() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    api.register(&all()).await;
    assert!(!api.platform.webhooks()[0].made_while_on);
    api.enable(true).await;
    assert!(api.emit(EventType::StartConversation).await.is_empty());

    let mut changed = all();
    changed["headId"] = HEAD_ID.into();
    changed["webhookUrl"] = URL.into();
    assert_eq!(api.call("PATCH", "/head-events/1", &changed).await.0, 200);
    api.enable(false).await;
    api.enable(true).await;
    assert!(api.emit(EventType::StartConversation).await.is_empty(), "neither a PATCH nor the switch mends it");

    let key = api.register(&all()).await.1["sharedKey"].as_str().unwrap().to_owned();
    hook.keys.lock().unwrap().push(key);
    assert_eq!(api.emit(EventType::StartConversation).await.len(), 1, "one made while they are on delivers");
    api.platform.delete_in_console(2);
    api.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    assert!(api.platform.webhooks()[1].made_while_on);
}

#[tokio::test]
async fn the_switch_for_a_heads_events_is_in_the_query_alone() {
    let api = Api::start(None).await;
    let path = format!("/head/{HEAD_ID}/enable-events");
    assert_eq!(api.get(&path).await, (200, json!(false)));
    let body = json!({"enableEvents": true});
    let ignored = (200, json!({"headId": HEAD_ID, "enableEvents": false}));
    assert_eq!(api.call("PUT", &path, &body).await, ignored, "a body is ignored in silence");
    assert_eq!(api.get(&path).await, (200, json!(false)));

    let on = format!("{path}?enableEvents=true");
    let answer = (200, json!({"headId": HEAD_ID, "enableEvents": true}));
    assert_eq!(api.call("PUT", &on, &json!({"enableEvents": false})).await, answer);
    assert_eq!(api.get(&path).await, (200, json!(true)));
    assert_eq!(api.call("PUT", &path, &json!({"enableEvents": false})).await, answer, "nothing changed");
    assert_eq!(api.call("PUT", &format!("{path}?enableEvents=false"), &Value::Null).await.0, 200);
    assert_eq!(api.get(&path).await, (200, json!(false)));

    for head in ["no-head", PUBLIC_HEAD_ID] {
        let path = format!("/head/{head}/enable-events");
        assert_eq!(api.get(&path).await.0, 404, "{head}");
        for path in [format!("{path}?enableEvents=true"), path] {
            assert_eq!(api.call("PUT", &path, &Value::Null).await.0, 404, "{path}");
        }
    }
    assert_eq!(api.get(&format!("/head-events?headId={PUBLIC_HEAD_ID}")).await.0, 404);
}

#[tokio::test]
async fn heads_are_listed_in_pages_and_order_of_creation() {
    let more_heads = vec![HEAD_B.to_owned(), "head-a".to_owned()];
    let api = Api::start_with(None, Settings { more_heads, ..Settings::default() }).await;
    let (status, list) = api.get("/head/all").await;
    assert_eq!((status, &list["meta"]), (200, &json!({"page": 1, "take": 50, "itemCount": 3, "pageCount": 1})));
    let first = json!({"id": HEAD_ID, "publicId": PUBLIC_HEAD_ID, "name": "Jane 1", "operationMode": "ttt"});
    assert_eq!(list["data"][0], first);
    let ids = |list: &Value| -> Vec<String> {
        let heads = list["data"].as_array().unwrap();
        heads.iter().map(|head| head["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&list), [HEAD_ID, HEAD_B, "head-a"]);

    for (query, expected) in [
        ("order=ASC&page=1&take=2", vec![HEAD_ID, HEAD_B]),
        ("order=ASC&page=2&take=2", vec!["head-a"]),
        ("order=ASC&page=3&take=2", vec![]),
        ("order=DESC&page=1&take=1", vec!["head-a"]),
    ] {
        let (_, list) = api.get(&format!("/head/all?{query}")).await;
        assert_eq!(ids(&list), expected, "{query}");
    }
    let (_, list) = api.get("/head/all?take=2&page=2").await;
    assert_eq!(list["meta"], json!({"page": 2, "take": 2, "itemCount": 3, "pageCount": 2}));
}

#[tokio::test]
async fn heads_come_and_go() {
    let api = Api::start(None).await;
    let public_ids = async || -> Vec<String> {
        let (_, list) = api.get("/head/all").await;
        let heads = list["data"].as_array().unwrap().clone();
        heads.iter().map(|head| head["publicId"].as_str().unwrap().to_owned()).collect()
    };
    api.platform.add_head(HEAD_B);
    api.platform.add_head(HEAD_B);
    api.platform.add_head("head-c");
    let made = public_ids().await;
    assert_eq!((made.len(), made[0].as_str()), (3, PUBLIC_HEAD_ID));
    assert!(made[1] != made[2] && made[1] != made[0] && made[2] != made[0], "{made:?}");

    api.platform.enable_in_console(HEAD_B, true);
    api.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    api.platform.register_in_console(HEAD_B, URL, Subscriptions::ALL);
    let delivered = api.platform.emit(HEAD_B, "session", EventType::StartConversation, Timestamp::now()).remove(0);
    let body: Value = serde_json::from_slice(&delivered.body).unwrap();
    assert_eq!((body["head_id"].as_str(), body["public_head_id"].as_str()), (Some(HEAD_B), Some(made[1].as_str())));

    api.platform.remove_head(HEAD_B);
    assert_eq!(public_ids().await, [made[0].clone(), made[2].clone()]);
    let left: Vec<_> = api.platform.webhooks().into_iter().map(|webhook| webhook.head_id).collect();
    assert_eq!(left, [HEAD_ID], "its webhooks go too");
    assert_eq!(api.get(&format!("/head/{HEAD_B}/enable-events")).await.0, 404);

    api.platform.add_head(HEAD_B);
    let again = public_ids().await;
    assert!(!made.contains(&again[2]), "{again:?}: a public id is used once");
    assert!(!api.platform.events_enabled(HEAD_B));
    api.platform.remove_head(HEAD_ID);
    api.platform.add_head(HEAD_ID);
    assert_eq!(public_ids().await.last().unwrap(), PUBLIC_HEAD_ID);
}

#[tokio::test]
async fn the_account_has_an_organisation() {
    let api = Api::start(None).await;
    let (status, account) = api.get("/user/me").await;
    assert_eq!((status, &account["email"]), (200, &json!(EMAIL)));
    assert!(account["id"].is_string());
    api.register(&all()).await;
    let organisation = &account["organisation"];
    assert_eq!(organisation["id"], api.list(HEAD_ID).await[0]["orgId"]);
    assert_eq!(organisation["publicId"], PUBLIC_ORG_ID);
    assert!(organisation["name"].is_string());
}

#[tokio::test]
async fn calls_are_counted_by_method_and_route_also_those_that_fail() {
    let mut api = Api::start(None).await;
    assert_eq!((api.platform.calls("POST /auth/token"), api.platform.total_calls()), (1, 1));
    api.enable(true).await;
    api.get(&format!("/head/{HEAD_ID}/enable-events")).await;
    api.register(&all()).await;
    api.list(HEAD_ID).await;
    api.get("/head-events/1").await;
    api.call("DELETE", "/head-events/9", &Value::Null).await;
    api.get("/head/all?page=1").await;
    api.get("/user/me").await;
    api.faults(json!({"failing": [{"call": "POST /head-events", "how": {"status": [503, null]}, "times": 1}]}));
    assert_eq!(api.register(&all()).await.0, 503);
    api.bearer = "made up".to_owned();
    assert_eq!(api.register(&all()).await.0, 401);
    api.get("/no-such-path").await;
    for (call, count) in [
        ("PUT /head/{head_id}/enable-events", 1),
        ("GET /head/{head_id}/enable-events", 1),
        ("POST /head-events", 3),
        ("GET /head-events", 1),
        ("GET /head-events/{id}", 1),
        ("DELETE /head-events/{id}", 1),
        ("GET /head/all", 1),
        ("GET /user/me", 1),
        ("PATCH /head-events/{id}", 0),
    ] {
        assert_eq!(api.platform.calls(call), count, "{call}");
    }
    assert_eq!(api.platform.total_calls(), 11);
}

#[tokio::test]
async fn the_journal_has_each_begin_and_end_of_being_live() {
    let api = Api::start(None).await;
    let key = |id: u64| api.platform.webhooks().into_iter().find(|webhook| webhook.id == id).unwrap().shared_key;
    let mut expected = Vec::new();
    api.register(&all()).await;
    api.enable(true).await;
    assert_eq!(api.journal(), expected, "made while events were off");

    api.register(&json!({})).await;
    assert_eq!(api.journal(), expected, "subscribed to nothing");
    let second = key(2);
    let body = |flags: Value| {
        let mut body = json!({"headId": HEAD_ID, "webhookUrl": URL});
        body.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        body
    };
    for (flags, live) in [(json!({"endConversation": true}), Some(true)), (all(), None), (json!({}), Some(false))] {
        assert_eq!(api.call("PATCH", "/head-events/2", &body(flags)).await.0, 200);
        expected.extend(live.map(|live| (2, second.clone(), live)));
        assert_eq!(api.journal(), expected);
    }

    api.register(&all()).await;
    let third = key(3);
    expected.push((3, third.clone(), true));
    api.enable(true).await;
    assert_eq!(api.journal(), expected, "on twice is on");
    for live in [false, true] {
        api.enable(live).await;
        expected.push((3, third.clone(), live));
    }
    for live in [false, true] {
        api.platform.enable_in_console(HEAD_ID, live);
        expected.push((3, third.clone(), live));
    }
    api.platform.change_in_console(2, Subscriptions::ALL);
    expected.push((2, second.clone(), true));
    api.platform.delete_in_console(2);
    expected.push((2, second, false));
    assert_eq!(api.call("DELETE", "/head-events/3", &Value::Null).await.0, 204);
    expected.push((3, third, false));
    api.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    let fourth = key(4);
    expected.push((4, fourth.clone(), true));
    assert_eq!(api.journal(), expected);

    api.faults(json!({"patch_changes_key": true}));
    assert_eq!(api.call("PATCH", "/head-events/4", &body(all())).await.0, 200);
    expected.extend([(4, fourth, false), (4, key(4), true)]);
    assert_eq!(api.journal(), expected, "a new key is a new beginning");

    let last = key(4);
    api.platform.remove_head(HEAD_ID);
    expected.push((4, last, false));
    assert_eq!(api.journal(), expected);
    let journal = api.platform.journal();
    assert!(journal.is_sorted_by_key(|change| change.at));
    assert!(journal.iter().all(|change| change.head_id == HEAD_ID && change.webhook_url == URL));
}

#[tokio::test]
async fn ids_can_be_strings_with_leading_zeros() {
    let api = Api::start(None).await;
    api.register(&all()).await;
    assert_eq!(api.get("/head-events/000001").await.0, 404, "not without the fault");
    api.faults(json!({"string_ids": true}));
    assert_eq!(api.list(HEAD_ID).await[0]["id"], "000001");
    let (status, webhook) = api.get("/head-events/000001").await;
    assert_eq!((status, &webhook["id"]), (200, &json!("000001")));
    assert_eq!(api.get("/head-events/1").await.0, 404, "the id is the text");
    let body = json!({"headId": HEAD_ID, "webhookUrl": URL});
    assert_eq!(api.call("PATCH", "/head-events/000001", &body).await.1["id"], "000001");
    assert_eq!(api.call("DELETE", "/head-events/000001", &Value::Null).await.0, 204);
    assert!(api.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_registration_can_be_missing_from_lists_for_a_while() {
    let api = Api::start(None).await;
    api.register(&all()).await;
    api.faults(json!({"unlisted_for_ms": u64::MAX}));
    assert_eq!(api.list(HEAD_ID).await, Value::Null);
    assert_eq!(api.get("/head-events/1").await.0, 200, "it is there");

    api.faults(json!({"unlisted_for_ms": 400}));
    let started = std::time::Instant::now();
    api.register(&all()).await;
    let listed = async || api.list(HEAD_ID).await.as_array().map_or(0, Vec::len);
    while listed().await < 2 {
        assert!(started.elapsed() < Duration::from_secs(10), "it is never listed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_list_can_ignore_its_filter() {
    let settings = Settings { more_heads: vec![HEAD_B.to_owned()], ..Settings::default() };
    let api = Api::start_with(None, settings).await;
    api.platform.register_in_console(HEAD_ID, URL, Subscriptions::ALL);
    api.platform.register_in_console(HEAD_B, URL, Subscriptions::ALL);
    let heads = async || -> Vec<Value> {
        let list = api.list(HEAD_B).await;
        list.as_array().unwrap().iter().map(|webhook| webhook["headId"].clone()).collect()
    };
    assert_eq!(heads().await, [HEAD_B]);
    api.faults(json!({"unfiltered_list": true}));
    assert_eq!(heads().await, [HEAD_ID, HEAD_B]);
}

#[tokio::test]
async fn a_patch_can_change_the_key() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    api.enable(true).await;
    api.register(&all()).await;
    api.faults(json!({"patch_changes_key": true}));
    let mut body = all();
    body["headId"] = HEAD_ID.into();
    body["webhookUrl"] = URL.into();
    let mut keys = vec![FIRST_SHARED_KEY.to_owned()];
    for _ in 0..2 {
        let (_, patched) = api.call("PATCH", "/head-events/1", &body).await;
        let key = patched["sharedKey"].as_str().unwrap().to_owned();
        assert!(!keys.contains(&key), "each PATCH gives a new one");
        assert_eq!(api.list(HEAD_ID).await[0]["sharedKey"], key.as_str());
        keys.push(key);
    }
    hook.keys.lock().unwrap().clone_from(&keys);
    assert!(api.emit(EventType::StartConversation).await[0].succeeded());
    assert_eq!(*hook.signed_with.lock().unwrap(), keys[2..]);
}

#[tokio::test]
async fn masked_keys_are_masked_wherever_a_webhook_is_shown() {
    let api = Api::start(None).await;
    api.register(&all()).await;
    api.faults(json!({"masked_keys": true}));
    let mut body = all();
    body["headId"] = HEAD_ID.into();
    body["webhookUrl"] = URL.into();
    let (_, patched) = api.call("PATCH", "/head-events/1", &body).await;
    for webhook in [&api.list(HEAD_ID).await[0], &api.get("/head-events/1").await.1, &patched] {
        assert_eq!(webhook["sharedKey"], "****************************feb3");
    }
}

/// A call fails in a way; the response, its body not read yet.
async fn failing(api: &Api, how: Value) -> reqwest::Response {
    api.faults(json!({"failing": [{"call": "GET /user/me", "how": how, "times": 1}]}));
    let request = api.http.get(format!("{}/user/me", api.platform.url())).bearer_auth(&api.bearer);
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_call_can_be_answered_with_what_is_no_answer() {
    let api = Api::start(None).await;
    let response = failing(&api, json!("html")).await;
    assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (200, &"text/html".parse().unwrap()));
    assert!(response.text().await.unwrap().starts_with("<!doctype html>"));

    // A 304 with a location, since the client would follow a redirect.
    let response = failing(&api, json!({"redirect": [304, "https://elsewhere.example.com/"]})).await;
    let location = "https://elsewhere.example.com/".parse().unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["location"]), (304, &location));

    let response = failing(&api, json!({"body": [418, r#"{"a": 1}"#]})).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!((response.status().as_u16(), response.json().await.unwrap()), (418, json!({"a": 1})));
    assert_eq!(api.get("/user/me").await.0, 200, "then it works again");
}

#[tokio::test]
async fn an_answer_can_be_endless() {
    let api = Api::start(None).await;
    let mut response = failing(&api, json!("endless")).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let mut read = Vec::new();
    while read.len() < 8 * 1024 * 1024 {
        read.extend(response.chunk().await.unwrap().expect("it does not end"));
    }
    assert_eq!(read[0], b'[');
    assert!(read[1..].iter().all(u8::is_ascii_whitespace));
}

#[tokio::test]
async fn the_new_calls_can_be_made_to_fail() {
    let api = Api::start(None).await;
    for (call, path) in [
        ("GET /head/{head_id}/enable-events", format!("/head/{HEAD_ID}/enable-events")),
        ("GET /head/all", "/head/all".to_owned()),
        ("GET /user/me", "/user/me".to_owned()),
    ] {
        api.faults(json!({"failing": [{"call": call, "how": {"status": [503, null]}, "times": 1}]}));
        let statuses = [api.get(&path).await.0, api.get(&path).await.0];
        assert_eq!(statuses, [503, 200], "{call}");
    }
}

#[tokio::test]
async fn an_unknown_fault_is_refused() {
    let api = Api::start(None).await;
    for (faults, status) in [(json!({"string_ids": true}), 204), (json!({"one_registration": "refuses"}), 422)] {
        assert_eq!(api.call("PUT", "/_sandbox/faults", &faults).await.0, status, "{faults}");
    }
}

#[tokio::test]
async fn a_delivery_is_tried_four_times_and_then_given_up() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    api.enable(true).await;
    api.register(&all()).await;

    // Answered from the back of the list.
    *hook.answers.lock().unwrap() = vec![200, 503, 0];
    let attempts = api.emit(EventType::StartConversation).await;
    let answers: Vec<_> = attempts.iter().map(|attempt| attempt.answer.as_ref().map(|answer| answer.status)).collect();
    assert_eq!(answers, [Err(&NoAnswer::TimedOut(Duration::from_millis(300))), Ok(503), Ok(200)]);

    *hook.answers.lock().unwrap() = vec![200, 500, 500, 401, 404];
    let attempts = api.emit(EventType::EndConversation).await;
    assert_eq!(attempts.len(), 4);
    assert!(attempts.iter().all(|attempt| !attempt.succeeded()));
    let bodies = hook.bodies.lock().unwrap();
    assert!(bodies[3..].windows(2).all(|pair| pair[0] == pair[1]), "a retry says the same");
}

#[tokio::test]
async fn deliveries_keep_their_order() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    api.enable(true).await;
    api.register(&all()).await;
    *hook.answers.lock().unwrap() = vec![200, 200, 200, 500];
    let kinds = [EventType::StartConversation, EventType::TimeoutConversation, EventType::EndConversation];
    let sent: Vec<_> = kinds.iter().flat_map(|kind| api.platform.emit(HEAD_ID, "s", *kind, Timestamp::now())).collect();
    for sent in sent {
        assert!(sent.attempts.await.unwrap().last().unwrap().succeeded());
    }
    let types: Vec<_> = hook.bodies.lock().unwrap().iter().map(|body| body["event_type"].clone()).collect();
    assert_eq!(types, ["start_conversation", "start_conversation", "timeout_conversation", "end_conversation"]);
}

#[tokio::test]
async fn no_host_is_reached_that_is_not_mapped() {
    let api = Api::start(None).await;
    api.enable(true).await;
    api.register(&all()).await;
    let attempts = api.emit(EventType::StartConversation).await;
    assert_eq!(attempts.len(), 4);
    assert_eq!(attempts[0].answer, Err(NoAnswer::UnknownHost(URL.to_owned())));
}
