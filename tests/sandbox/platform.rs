//! The simulated platform does what UNITH's guide says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use sandbox::{
    listen::{Served, listen},
    platform::{
        EMAIL, EventKind, FIRST_SHARED_KEY, HEAD_ID, Platform, SECRET_KEY, Settings,
        delivery::{Attempt, NoAnswer},
    },
};
use serde_json::{Value, json};
use shared::{
    signature::{SharedKey, Signature},
    timestamp::Timestamp,
};

const URL: &str = "https://hooks.example.com/in";

/// A webhook that answers as it is told, and remembers.
#[derive(Clone, Default)]
struct Hook {
    answers: Arc<Mutex<Vec<u16>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    async fn serve(&self) -> Served {
        let router = Router::new().route("/in", post(receive)).with_state(self.clone());
        Served::router(listen("a webhook", 0).await.unwrap(), router).unwrap()
    }
}

/// 0 stands for no answer at all.
async fn receive(State(hook): State<Hook>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = Signature::parse(headers["x-signature-256"].as_bytes()).unwrap();
    assert!(SharedKey::new(FIRST_SHARED_KEY).unwrap().signed(&body, &signature));
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
    async fn start(hook: Option<&Served>) -> Self {
        let hosts: BTreeMap<_, _> =
            hook.iter().map(|hook| ("hooks.example.com".to_owned(), hook.url().to_owned())).collect();
        let settings = Settings {
            hosts,
            give_up_after: Duration::from_millis(300),
            first_backoff: Duration::from_millis(10),
            seed: 1,
            ..Settings::default()
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

    async fn enable(&self, on: bool) {
        let path = format!("/head/{HEAD_ID}/enable-events?enableEvents={on}");
        assert_eq!(self.call("PUT", &path, &Value::Null).await.0, 200);
    }

    async fn emit(&self, kind: EventKind) -> Vec<Attempt> {
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
    ] {
        assert_eq!(api.call(method, path, &Value::Null).await.0, 401, "{method} {path}");
    }
}

#[tokio::test]
async fn a_webhook_lives_as_the_guide_says() {
    let api = Api::start(None).await;
    let (status, answer) = api.register(&json!({"startConversation": true})).await;
    assert_eq!((status, answer), (200, json!({"sharedKey": FIRST_SHARED_KEY})), "the key, and no id");
    let (_, second) = api.register(&all()).await;
    assert_ne!(second["sharedKey"], FIRST_SHARED_KEY);

    let (_, list) = api.call("GET", &format!("/head-events?headId={HEAD_ID}"), &Value::Null).await;
    assert_eq!(list.as_array().unwrap().len(), 2);
    let first = &list[0];
    assert_eq!(
        (&first["id"], &first["webhookUrl"], &first["startConversation"], &first["endConversation"]),
        (&json!(1), &json!(URL), &json!(true), &json!(false)),
        "a flag left out is off"
    );
    assert_eq!(api.call("GET", "/head-events?headId=other", &Value::Null).await, (200, json!([])));
    assert_eq!(api.call("GET", "/head-events/1", &Value::Null).await, (200, first.clone()));

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
    for (head, url, status) in [(HEAD_ID, "http://hooks.example.com/in", 400), ("no-head", URL, 404)] {
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
    api.register(&json!({"startConversation": true, "inactivityWarning": true})).await;
    assert!(api.emit(EventKind::StartConversation).await.is_empty(), "off is the default");
    api.enable(true).await;
    for (kind, delivered) in [
        (EventKind::StartConversation, 1),
        (EventKind::EndConversation, 0),
        (EventKind::InactivityWarning, 1),
        (EventKind::TimeoutConversation, 0),
    ] {
        assert_eq!(api.emit(kind).await.len(), delivered, "{}", kind.as_str());
    }
    api.enable(false).await;
    assert!(api.emit(EventKind::StartConversation).await.is_empty());
    assert_eq!(api.platform.webhooks().len(), 1, "the registration stays");
    let types: Vec<_> = hook.bodies.lock().unwrap().iter().map(|body| body["event_type"].clone()).collect();
    assert_eq!(types, ["START_CONVERSATION", "INACTIVITY_WARNING"]);
}

#[tokio::test]
async fn a_delivery_is_tried_four_times_and_then_given_up() {
    let hook = Hook::default();
    let served = hook.serve().await;
    let api = Api::start(Some(&served)).await;
    api.register(&all()).await;
    api.enable(true).await;

    // Answered from the back of the list.
    *hook.answers.lock().unwrap() = vec![200, 503, 0];
    let attempts = api.emit(EventKind::StartConversation).await;
    let answers: Vec<_> = attempts.iter().map(|attempt| attempt.answer.as_ref().map(|answer| answer.status)).collect();
    assert_eq!(answers, [Err(&NoAnswer::TimedOut(Duration::from_millis(300))), Ok(503), Ok(200)]);

    *hook.answers.lock().unwrap() = vec![200, 500, 500, 401, 404];
    let attempts = api.emit(EventKind::EndConversation).await;
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
    api.register(&all()).await;
    api.enable(true).await;
    *hook.answers.lock().unwrap() = vec![200, 200, 200, 500];
    let kinds = [EventKind::StartConversation, EventKind::TimeoutConversation, EventKind::EndConversation];
    let sent: Vec<_> = kinds.iter().flat_map(|kind| api.platform.emit(HEAD_ID, "s", *kind, Timestamp::now())).collect();
    for sent in sent {
        assert!(sent.attempts.await.unwrap().last().unwrap().succeeded());
    }
    let types: Vec<_> = hook.bodies.lock().unwrap().iter().map(|body| body["event_type"].clone()).collect();
    assert_eq!(types, ["START_CONVERSATION", "START_CONVERSATION", "TIMEOUT_CONVERSATION", "END_CONVERSATION"]);
}

#[tokio::test]
async fn no_host_is_reached_that_is_not_mapped() {
    let api = Api::start(None).await;
    api.register(&all()).await;
    api.enable(true).await;
    let attempts = api.emit(EventKind::StartConversation).await;
    assert_eq!(attempts.len(), 4);
    assert_eq!(attempts[0].answer, Err(NoAnswer::UnknownHost(URL.to_owned())));
}
