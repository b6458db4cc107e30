//! The simulated platform does what UNITH's developer kit shows. In the other style it spells deliveries as the guide.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use sandbox::{
    http_client::http_client,
    platform::{
        account::{EMAIL, FIRST_SHARED_KEY, HEAD_ID, PUBLIC_HEAD_ID, PUBLIC_ORG_ID, SECRET_KEY},
        call::Call,
        delivery::{Attempt, NoResponse, Sent},
        faults::{FailingCall, Fault, Faults},
        settings::Settings,
        simulator::Platform,
        style::Style,
    },
    server::{ServerHandle, listen},
};
use serde_json::{Value, json};
use unith_events::{
    event_type::{EventType, EventTypes},
    signature::{SharedKey, Signature},
    timestamp::Timestamp,
};

use crate::within_limit;

const URL: &str = "https://hooks.example.com/in";
const HEAD_B: &str = "head-b";
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);

/// The deliveries to a webhook, and its responses.
struct Hook {
    /// The next status is the last one; 0 stands for no response, and an empty list for 200.
    statuses: Vec<u16>,
    bodies: Vec<Value>,
    /// The keys that may sign.
    keys: Vec<String>,
    /// The key of each delivery.
    signed_with: Vec<String>,
}

async fn receive(State(hook): State<Arc<Mutex<Hook>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(
        (&headers["host"], &headers["content-type"]),
        (&"hooks.example.com".parse().unwrap(), &"application/json".parse().unwrap())
    );
    let signature = Signature::parse(headers["x-signature-256"].as_bytes()).unwrap();
    let status = {
        let mut hook = hook.lock().unwrap();
        let signed = |key: &&String| SharedKey::parse(key.as_str()).unwrap().verify(&body, &signature);
        let key = hook.keys.iter().find(signed).expect("an unknown key signed").clone();
        hook.signed_with.push(key);
        hook.bodies.push(serde_json::from_slice(&body).unwrap());
        hook.statuses.pop().unwrap_or(200)
    };
    if status == 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::from_u16(status).unwrap()
}

/// A platform, a client of its API, and a webhook at [`URL`].
struct Api {
    platform: Platform,
    http: reqwest::Client,
    bearer: String,
    hook: Arc<Mutex<Hook>>,
    _hook_server: ServerHandle,
}

impl Api {
    async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    async fn start_with(settings: Settings) -> Self {
        let keys = vec![FIRST_SHARED_KEY.to_owned()];
        let hook = Hook { statuses: Vec::new(), bodies: Vec::new(), keys, signed_with: Vec::new() };
        let hook = Arc::new(Mutex::new(hook));
        let router = Router::new().route("/in", post(receive)).with_state(Arc::clone(&hook));
        let hook_server = ServerHandle::router(listen("a webhook", 0).await.unwrap(), router).unwrap();
        let settings = Settings {
            hosts: [("hooks.example.com".to_owned(), hook_server.url().to_owned())].into(),
            response_timeout: RESPONSE_TIMEOUT,
            first_backoff: Duration::from_millis(10),
            seed: 1,
            ..settings
        };
        let platform = Platform::serve(listen("UNITH", 0).await.unwrap(), settings).unwrap();
        let (http, bearer) = (http_client().unwrap(), String::new());
        let mut api = Self { platform, http, bearer, hook, _hook_server: hook_server };
        let (status, token) = api.call("POST", "/auth/token", &json!({"email": EMAIL, "secretKey": SECRET_KEY})).await;
        assert_eq!(status, 200);
        token["data"]["bearer"].as_str().unwrap().clone_into(&mut api.bearer);
        api
    }

    fn hook(&self) -> MutexGuard<'_, Hook> {
        self.hook.lock().unwrap()
    }

    fn delivered_types(&self) -> Vec<Value> {
        self.hook().bodies.iter().map(|body| body["event_type"].clone()).collect()
    }

    /// A platform with a webhook that gets all events.
    async fn delivering() -> Self {
        let api = Self::start().await;
        api.enable(true).await;
        api.register(&all()).await;
        api
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.platform.url())).bearer_auth(&self.bearer);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = within_limit(request.send()).await.unwrap();
        (response.status().as_u16(), within_limit(response.json()).await.unwrap_or_default())
    }

    async fn register(&self, flags: &Value) -> (u16, Value) {
        self.call("POST", "/head-events", &registration(flags)).await
    }

    async fn change(&self, id: &str, flags: &Value) -> (u16, Value) {
        self.call("PATCH", &format!("/head-events/{id}"), &registration(flags)).await
    }

    async fn delete(&self, id: &str) -> u16 {
        self.call("DELETE", &format!("/head-events/{id}"), &Value::Null).await.0
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, &Value::Null).await
    }

    async fn list(&self, head_id: &str) -> Value {
        let (status, list) = self.get(&format!("/head-events?headId={head_id}")).await;
        assert_eq!(status, 200);
        list
    }

    /// The journal as webhook id, key and whether the webhook became live.
    fn journal(&self) -> Vec<(u64, String, bool)> {
        let changes = self.platform.journal().into_iter();
        changes.map(|change| (change.webhook.id, change.webhook.shared_key, change.live)).collect()
    }

    async fn enable(&self, on: bool) {
        let path = format!("/head/{HEAD_ID}/enable-events?enableEvents={on}");
        assert_eq!(self.call("PUT", &path, &Value::Null).await.0, 200);
    }

    fn send(&self, kind: EventType) -> Vec<Sent> {
        self.platform.emit(HEAD_ID, "session", kind, Timestamp::now())
    }

    async fn emit(&self, kind: EventType) -> Vec<Attempt> {
        match self.send(kind).pop() {
            Some(sent) => attempts(sent).await,
            None => Vec::new(),
        }
    }

    /// Lets a call fail once; the response, its body not read yet.
    async fn failing(&self, how: Fault) -> reqwest::Response {
        self.platform.set_faults(FailingCall::new(Call::ShowAccount, how));
        let request = self.http.get(format!("{}/user/me", self.platform.url())).bearer_auth(&self.bearer);
        within_limit(request.send()).await.unwrap()
    }
}

async fn attempts(sent: Sent) -> Vec<Attempt> {
    within_limit(sent.attempts).await.unwrap()
}

fn all() -> Value {
    json!({"startConversation": true, "endConversation": true, "timeoutConversation": true, "inactivityWarning": true})
}

/// The body of a registration or a change with these flags.
fn registration(flags: &Value) -> Value {
    let mut body = flags.clone();
    body["headId"] = HEAD_ID.into();
    body["webhookUrl"] = URL.into();
    body
}

#[tokio::test]
async fn every_call_except_the_token_needs_a_bearer_token() {
    let mut api = Api::start().await;
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
    let api = Api::start().await;
    let registered = api.register(&json!({"startConversation": true})).await;
    assert_eq!(registered, (200, json!({"sharedKey": FIRST_SHARED_KEY})), "the key without an id");
    let (_, second) = api.register(&all()).await;
    assert_ne!(second["sharedKey"], FIRST_SHARED_KEY);

    let list = api.list(HEAD_ID).await;
    assert_eq!(list.as_array().unwrap().len(), 2, "another registration with the same URL is added");
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

    let (status, patched) = api.change("1", &all()).await;
    assert_eq!((status, &patched["endConversation"]), (200, &json!(true)));
    assert_eq!(patched["sharedKey"], FIRST_SHARED_KEY);

    assert_eq!(api.delete("1").await, 204);
    for method in ["GET", "DELETE"] {
        assert_eq!(api.call(method, "/head-events/1", &Value::Null).await.0, 404, "{method}");
    }
}

#[tokio::test]
async fn an_http_url_an_unknown_head_and_a_public_head_id_cannot_be_registered() {
    let api = Api::start().await;
    for (head, url, status) in
        [(HEAD_ID, "http://hooks.example.com/in", 400), ("no-head", URL, 404), (PUBLIC_HEAD_ID, URL, 404)]
    {
        let (refused, body) = api.call("POST", "/head-events", &json!({"headId": head, "webhookUrl": url})).await;
        assert_eq!(refused, status, "{body}");
    }
    assert!(api.platform.webhooks().is_empty());
}

#[tokio::test]
async fn only_events_of_enabled_heads_and_subscribed_types_are_delivered() {
    let api = Api::start().await;
    assert!(!api.platform.events_enabled(HEAD_ID), "events are off by default");
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
    assert_eq!(
        api.emit(EventType::StartConversation).await.len(),
        1,
        "switching off and on keeps a registration working"
    );
    assert_eq!(api.delivered_types(), ["start_conversation", "inactivity_warning", "start_conversation"]);
}

#[tokio::test]
async fn each_style_has_its_own_spelling_of_deliveries() {
    assert_eq!(Settings::default().style, Style::Kit);
    let kinds = [
        (EventType::StartConversation, "start_conversation"),
        (EventType::InactivityWarning, "inactivity_warning"),
        (EventType::TimeoutConversation, "timeout_conversation"),
        (EventType::EndConversation, "end_conversation"),
    ];
    for (style, timestamp) in [(Style::Kit, "2026-08-31 06:56:30"), (Style::Guide, "2026-08-31T06:56:30Z")] {
        let api = Api::start_with(Settings { style, ..Settings::default() }).await;
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
            assert_eq!(String::from_utf8(sent.body.clone()).unwrap(), expected);
            assert!(attempts(sent).await[0].succeeded());
        }
        assert_eq!(api.hook().bodies.len(), 4, "{style:?}");
    }
}

#[tokio::test]
async fn each_registration_delivers_signed_with_its_own_key() {
    let api = Api::delivering().await;
    let second = api.register(&all()).await.1["sharedKey"].as_str().unwrap().to_owned();
    api.hook().keys.push(second.clone());
    let sent = api.send(EventType::StartConversation);
    assert_eq!(sent.len(), 2);
    for sent in sent {
        assert!(attempts(sent).await[0].succeeded());
    }
    let mut signed_with = api.hook().signed_with.clone();
    signed_with.sort();
    let mut keys = [FIRST_SHARED_KEY.to_owned(), second];
    keys.sort();
    assert_eq!(signed_with, keys);
}

#[tokio::test]
async fn a_registration_made_while_events_are_off_never_delivers() {
    let api = Api::start().await;
    api.register(&all()).await;
    assert!(!api.platform.webhooks()[0].made_while_on);
    api.enable(true).await;
    assert!(api.emit(EventType::StartConversation).await.is_empty());

    assert_eq!(api.change("1", &all()).await.0, 200);
    api.enable(false).await;
    api.enable(true).await;
    assert!(api.emit(EventType::StartConversation).await.is_empty(), "neither a PATCH nor the switch changes that");

    let key = api.register(&all()).await.1["sharedKey"].as_str().unwrap().to_owned();
    api.hook().keys.push(key);
    assert_eq!(
        api.emit(EventType::StartConversation).await.len(),
        1,
        "a registration made while events are on delivers"
    );
    api.platform.delete_in_console(2);
    api.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    assert!(api.platform.webhooks()[1].made_while_on);
}

#[tokio::test]
async fn the_switch_of_a_head_is_read_from_the_query_only() {
    let api = Api::start().await;
    let path = format!("/head/{HEAD_ID}/enable-events");
    assert_eq!(api.get(&path).await, (200, json!(false)));
    let body = json!({"enableEvents": true});
    let ignored = (200, json!({"headId": HEAD_ID, "enableEvents": false}));
    assert_eq!(api.call("PUT", &path, &body).await, ignored, "a body is ignored without an error");
    assert_eq!(api.get(&path).await, (200, json!(false)));

    let on = format!("{path}?enableEvents=true");
    let switched_on = (200, json!({"headId": HEAD_ID, "enableEvents": true}));
    assert_eq!(api.call("PUT", &on, &json!({"enableEvents": false})).await, switched_on);
    assert_eq!(api.get(&path).await, (200, json!(true)));
    assert_eq!(api.call("PUT", &path, &json!({"enableEvents": false})).await, switched_on, "nothing changed");
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
async fn heads_are_listed_in_pages_in_the_order_of_their_creation() {
    let more_heads = vec![HEAD_B.to_owned(), "head-a".to_owned()];
    let api = Api::start_with(Settings { more_heads, ..Settings::default() }).await;
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
async fn heads_are_added_and_deleted_with_their_webhooks() {
    let api = Api::start().await;
    let public_ids = async || -> Vec<String> {
        let (_, list) = api.get("/head/all").await;
        let heads = list["data"].as_array().unwrap().clone();
        heads.iter().map(|head| head["publicId"].as_str().unwrap().to_owned()).collect()
    };
    api.platform.add_head(HEAD_B);
    api.platform.add_head(HEAD_B);
    api.platform.add_head("head-c");
    let added = public_ids().await;
    assert_eq!((added.len(), added[0].as_str()), (3, PUBLIC_HEAD_ID));
    assert!(added[1] != added[2] && added[1] != added[0] && added[2] != added[0], "{added:?}");

    api.platform.enable_in_console(HEAD_B, true);
    api.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    api.platform.register_in_console(HEAD_B, URL, EventTypes::ALL);
    let delivered = api.platform.emit(HEAD_B, "session", EventType::StartConversation, Timestamp::now()).remove(0);
    let body: Value = serde_json::from_slice(&delivered.body).unwrap();
    assert_eq!((body["head_id"].as_str(), body["public_head_id"].as_str()), (Some(HEAD_B), Some(added[1].as_str())));

    api.platform.remove_head(HEAD_B);
    assert_eq!(public_ids().await, [added[0].clone(), added[2].clone()]);
    let left: Vec<_> = api.platform.webhooks().into_iter().map(|webhook| webhook.head_id).collect();
    assert_eq!(left, [HEAD_ID], "the webhooks of the head are deleted too");
    assert_eq!(api.get(&format!("/head/{HEAD_B}/enable-events")).await.0, 404);

    api.platform.add_head(HEAD_B);
    let again = public_ids().await;
    assert!(!added.contains(&again[2]), "{again:?}: a public id is used only once");
    assert!(!api.platform.events_enabled(HEAD_B));
    api.platform.remove_head(HEAD_ID);
    api.platform.add_head(HEAD_ID);
    assert_eq!(public_ids().await.last().unwrap(), PUBLIC_HEAD_ID);
}

#[tokio::test]
async fn the_account_has_the_organisation_of_its_webhooks() {
    let api = Api::start().await;
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
async fn calls_are_counted_by_method_and_route_even_if_they_fail() {
    let mut api = Api::start().await;
    assert_eq!((api.platform.calls(Call::CreateToken), api.platform.calls(Call::Any)), (1, 1));
    api.enable(true).await;
    api.get(&format!("/head/{HEAD_ID}/enable-events")).await;
    api.register(&all()).await;
    api.list(HEAD_ID).await;
    api.get("/head-events/1").await;
    api.delete("9").await;
    api.get("/head/all?page=1").await;
    api.get("/user/me").await;
    api.platform.set_faults(FailingCall::new(Call::Register, Fault::status(503)));
    assert_eq!(api.register(&all()).await.0, 503);
    api.bearer = "made up".to_owned();
    assert_eq!(api.register(&all()).await.0, 401);
    api.get("/no-such-path").await;
    for (call, count) in [
        (Call::SetSwitch, 1),
        (Call::ShowSwitch, 1),
        (Call::Register, 3),
        (Call::ListWebhooks, 1),
        (Call::ShowWebhook, 1),
        (Call::DeleteWebhook, 1),
        (Call::ListHeads, 1),
        (Call::ShowAccount, 1),
        (Call::ChangeWebhook, 0),
    ] {
        assert_eq!(api.platform.calls(call), count, "{call:?}");
    }
    assert_eq!(api.platform.calls(Call::Any), 11);
}

#[tokio::test]
async fn the_journal_has_each_change_of_a_webhook_to_and_from_being_live() {
    let api = Api::start().await;
    let key = |id: u64| api.platform.webhooks().into_iter().find(|webhook| webhook.id == id).unwrap().shared_key;
    let mut expected = Vec::new();
    api.register(&all()).await;
    api.enable(true).await;
    assert_eq!(api.journal(), expected, "it was registered while events were off");

    api.register(&json!({})).await;
    assert_eq!(api.journal(), expected, "subscribed to nothing");
    let second = key(2);
    for (flags, live) in [(json!({"endConversation": true}), Some(true)), (all(), None), (json!({}), Some(false))] {
        assert_eq!(api.change("2", &flags).await.0, 200);
        expected.extend(live.map(|live| (2, second.clone(), live)));
        assert_eq!(api.journal(), expected);
    }

    api.register(&all()).await;
    let third = key(3);
    expected.push((3, third.clone(), true));
    api.enable(true).await;
    assert_eq!(api.journal(), expected, "switching on again changes nothing");
    for live in [false, true] {
        api.enable(live).await;
        expected.push((3, third.clone(), live));
    }
    for live in [false, true] {
        api.platform.enable_in_console(HEAD_ID, live);
        expected.push((3, third.clone(), live));
    }
    api.platform.change_in_console(2, EventTypes::ALL);
    expected.push((2, second.clone(), true));
    api.platform.delete_in_console(2);
    expected.push((2, second, false));
    assert_eq!(api.delete("3").await, 204);
    expected.push((3, third, false));
    api.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    let fourth = key(4);
    expected.push((4, fourth.clone(), true));
    assert_eq!(api.journal(), expected);

    api.platform.set_faults(Faults { patch_changes_key: true, ..Faults::default() });
    assert_eq!(api.change("4", &all()).await.0, 200);
    expected.extend([(4, fourth, false), (4, key(4), true)]);
    assert_eq!(api.journal(), expected, "with a new key it becomes live again");

    let last = key(4);
    api.platform.remove_head(HEAD_ID);
    expected.push((4, last, false));
    assert_eq!(api.journal(), expected);
    let journal = api.platform.journal();
    assert!(journal.is_sorted_by_key(|change| change.at));
    assert!(journal.iter().all(|change| change.webhook.head_id == HEAD_ID && change.webhook.webhook_url == URL));
}

#[tokio::test]
async fn webhook_ids_can_be_strings_with_leading_zeros() {
    let api = Api::start().await;
    api.register(&all()).await;
    assert_eq!(api.get("/head-events/000001").await.0, 404, "without the fault it is a number");
    api.platform.set_faults(Faults { string_ids: true, ..Faults::default() });
    assert_eq!(api.list(HEAD_ID).await[0]["id"], "000001");
    let (status, webhook) = api.get("/head-events/000001").await;
    assert_eq!((status, &webhook["id"]), (200, &json!("000001")));
    assert_eq!(api.get("/head-events/1").await.0, 404, "the text is the id");
    assert_eq!(api.change("000001", &json!({})).await.1["id"], "000001");
    assert_eq!(api.delete("000001").await, 204);
    assert!(api.platform.webhooks().is_empty());
}

#[tokio::test]
async fn a_registration_can_be_missing_from_lists_for_a_while() {
    let api = Api::start().await;
    api.register(&all()).await;
    api.platform.set_faults(Faults { unlisted_for_ms: u64::MAX, ..Faults::default() });
    assert_eq!(api.list(HEAD_ID).await, Value::Null);
    assert_eq!(api.get("/head-events/1").await.0, 200, "the webhook exists");

    api.platform.set_faults(Faults { unlisted_for_ms: 400, ..Faults::default() });
    let started = Instant::now();
    api.register(&all()).await;
    within_limit(async {
        while api.list(HEAD_ID).await.as_array().map_or(0, Vec::len) < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(started.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_list_can_ignore_its_head_id() {
    let settings = Settings { more_heads: vec![HEAD_B.to_owned()], ..Settings::default() };
    let api = Api::start_with(settings).await;
    api.platform.register_in_console(HEAD_ID, URL, EventTypes::ALL);
    api.platform.register_in_console(HEAD_B, URL, EventTypes::ALL);
    let heads = async || -> Vec<Value> {
        let list = api.list(HEAD_B).await;
        list.as_array().unwrap().iter().map(|webhook| webhook["headId"].clone()).collect()
    };
    assert_eq!(heads().await, [HEAD_B]);
    api.platform.set_faults(Faults { unfiltered_list: true, ..Faults::default() });
    assert_eq!(heads().await, [HEAD_ID, HEAD_B]);
}

#[tokio::test]
async fn a_patch_can_change_the_key() {
    let api = Api::delivering().await;
    api.platform.set_faults(Faults { patch_changes_key: true, ..Faults::default() });
    let mut keys = vec![FIRST_SHARED_KEY.to_owned()];
    for _ in 0..2 {
        let (_, patched) = api.change("1", &all()).await;
        let key = patched["sharedKey"].as_str().unwrap().to_owned();
        assert!(!keys.contains(&key), "each PATCH gives a new key");
        assert_eq!(api.list(HEAD_ID).await[0]["sharedKey"], key.as_str());
        keys.push(key);
    }
    api.hook().keys.clone_from(&keys);
    assert!(api.emit(EventType::StartConversation).await[0].succeeded());
    assert_eq!(api.hook().signed_with, keys[2..]);
}

#[tokio::test]
async fn the_id_of_a_deleted_webhook_can_be_used_again_with_another_key() {
    let api = Api::start().await;
    api.platform.set_faults(Faults { reuse_ids: true, ..Faults::default() });
    api.register(&all()).await;
    api.register(&all()).await;
    api.delete("1").await;
    api.register(&all()).await;
    api.register(&all()).await;
    let list = api.list(HEAD_ID).await;
    let ids: Vec<_> = list.as_array().unwrap().iter().map(|webhook| webhook["id"].clone()).collect();
    assert_eq!(ids, [2, 1, 3]);
    assert_ne!(list[1]["sharedKey"], FIRST_SHARED_KEY);
}

#[tokio::test]
async fn head_ids_can_be_accepted_in_upper_case_and_keep_their_own_spelling() {
    let api = Api::start().await;
    let switch = format!("/head/{}/enable-events", HEAD_ID.to_ascii_uppercase());
    assert_eq!(api.get(&switch).await.0, 404);
    api.platform.set_faults(Faults { any_case_of_head_ids: true, ..Faults::default() });
    let (_, set) = api.call("PUT", &format!("{switch}?enableEvents=true"), &Value::Null).await;
    assert_eq!(set, json!({"headId": HEAD_ID, "enableEvents": true}));
    let mut body = registration(&all());
    body["headId"] = HEAD_ID.to_ascii_uppercase().into();
    assert_eq!(api.call("POST", "/head-events", &body).await.0, 200);
    assert_eq!(api.list(&HEAD_ID.to_ascii_uppercase()).await[0]["headId"], HEAD_ID);
}

#[tokio::test]
async fn the_calls_of_one_head_can_fail() {
    let settings = Settings { more_heads: vec![HEAD_B.to_owned()], ..Settings::default() };
    let api = Api::start_with(settings).await;
    let failing = FailingCall::new(Call::Any, Fault::status(403)).of_head(HEAD_B).always();
    api.platform.set_faults(failing);
    for (head, status) in [(HEAD_ID, 200), (HEAD_B, 403)] {
        assert_eq!(api.get(&format!("/head/{head}/enable-events")).await.0, status);
        assert_eq!(api.get(&format!("/head-events?headId={head}")).await.0, status);
    }
}

#[tokio::test]
async fn masked_keys_are_masked_wherever_a_webhook_is_shown() {
    let api = Api::start().await;
    api.register(&all()).await;
    api.platform.set_faults(Faults { masked_keys: true, ..Faults::default() });
    let (_, patched) = api.change("1", &all()).await;
    for webhook in [&api.list(HEAD_ID).await[0], &api.get("/head-events/1").await.1, &patched] {
        assert_eq!(webhook["sharedKey"], "****************************feb3");
    }
}

#[tokio::test]
async fn a_call_can_fail_with_html_a_redirect_or_any_json_body() {
    let api = Api::start().await;
    let response = api.failing(Fault::Html).await;
    assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (200, &"text/html".parse().unwrap()));
    assert!(response.text().await.unwrap().starts_with("<!doctype html>"));

    let response = api.failing(Fault::Redirect(307, "https://elsewhere.example.com/".to_owned())).await;
    let location = "https://elsewhere.example.com/".parse().unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["location"]), (307, &location));

    let response = api.failing(Fault::Body(418, r#"{"a": 1}"#.to_owned())).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!((response.status().as_u16(), response.json().await.unwrap()), (418, json!({"a": 1})));
    assert_eq!(api.get("/user/me").await.0, 200, "the call works again");
}

#[tokio::test]
async fn a_response_can_be_endless() {
    let api = Api::start().await;
    let mut response = api.failing(Fault::Endless).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let mut read = Vec::new();
    while read.len() < 8 * 1024 * 1024 {
        read.extend(within_limit(response.chunk()).await.unwrap().expect("the response ends"));
    }
    assert_eq!(read[0], b'[');
    assert!(read[1..].iter().all(u8::is_ascii_whitespace));
}

#[tokio::test]
async fn each_call_that_reads_heads_or_the_account_can_fail() {
    let api = Api::start().await;
    for (call, path) in [
        (Call::ShowSwitch, format!("/head/{HEAD_ID}/enable-events")),
        (Call::ListHeads, "/head/all".to_owned()),
        (Call::ShowAccount, "/user/me".to_owned()),
    ] {
        api.platform.set_faults(FailingCall::new(call, Fault::status(503)));
        let statuses = [api.get(&path).await.0, api.get(&path).await.0];
        assert_eq!(statuses, [503, 200], "{call:?}");
    }
}

#[tokio::test]
async fn unknown_faults_and_calls_are_refused() {
    let api = Api::start().await;
    let unknown_call = json!({"failing": [{"call": "GET /nothing", "how": "reset", "times": 1}]});
    for (faults, status) in
        [(json!({"string_ids": true}), 204), (json!({"one_registration": "refuses"}), 422), (unknown_call, 422)]
    {
        assert_eq!(api.call("PUT", "/_sandbox/faults", &faults).await.0, status, "{faults}");
    }
}

#[tokio::test]
async fn a_delivery_is_tried_at_most_four_times() {
    let api = Api::delivering().await;

    api.hook().statuses = vec![200, 503, 0];
    let attempts = api.emit(EventType::StartConversation).await;
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt.response.clone().map(|it| it.status)).collect();
    assert_eq!(statuses, [Err(NoResponse::TimedOut(RESPONSE_TIMEOUT)), Ok(503), Ok(200)]);

    api.hook().statuses = vec![200, 500, 500, 401, 404];
    let attempts = api.emit(EventType::EndConversation).await;
    assert_eq!(attempts.len(), 4);
    assert!(attempts.iter().all(|attempt| !attempt.succeeded()));
    let bodies = &api.hook().bodies;
    assert!(bodies[3..].windows(2).all(|pair| pair[0] == pair[1]), "a retry has the same body");
}

#[tokio::test]
async fn events_are_delivered_in_order_even_if_one_is_retried() {
    let api = Api::delivering().await;
    api.hook().statuses = vec![200, 200, 200, 500];
    let kinds = [EventType::StartConversation, EventType::TimeoutConversation, EventType::EndConversation];
    for sent in kinds.map(|kind| api.send(kind)).into_iter().flatten() {
        assert!(attempts(sent).await.last().unwrap().succeeded());
    }
    assert_eq!(
        api.delivered_types(),
        ["start_conversation", "start_conversation", "timeout_conversation", "end_conversation"]
    );
}

#[tokio::test]
async fn a_host_that_is_not_mapped_is_not_reached() {
    let api = Api::start().await;
    api.enable(true).await;
    let unknown = "https://other.example.com/in";
    api.platform.register_in_console(HEAD_ID, unknown, EventTypes::ALL);
    let attempts = api.emit(EventType::StartConversation).await;
    assert_eq!(attempts.len(), 4);
    assert_eq!(attempts[0].response, Err(NoResponse::UnknownHost(unknown.to_owned())));
}
