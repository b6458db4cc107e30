//! The paths under `/_sandbox`, which only a simulation has.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{post, put},
};
use serde_json::{Value, json};
use unith_events::timestamp::Timestamp;

use super::{account::HEAD_ID, delivery::Attempt, engine::Engine, faults::Faults};
use crate::conversation::Conversation;

pub(super) fn router(engine: Engine) -> Router {
    Router::new()
        .route("/_sandbox/conversations", post(converse))
        .route("/_sandbox/faults", put(set_faults))
        .with_state(engine)
}

async fn set_faults(State(engine): State<Engine>, Json(faults): Json<Faults>) -> StatusCode {
    engine.lock().faults = faults;
    StatusCode::NO_CONTENT
}

/// Plays a conversation that has just ended, and reports the responses to its deliveries.
async fn converse(State(engine): State<Engine>) -> Json<Value> {
    // A conversation takes less than five minutes.
    let start = Timestamp::now().minus(Duration::from_mins(6));
    let conversation = Conversation::any(&mut engine.lock().random, start);
    let mut deliveries = Vec::new();
    for event in &conversation.events {
        for sent in engine.emit(HEAD_ID, &conversation.session_id, event.kind, event.at) {
            let attempts = sent.attempts.await.unwrap_or_default();
            let last = attempts.last().map(Attempt::summary).map(|(status, outcome)| format!("{status} {outcome}"));
            deliveries.push(json!({"event_type": event.kind.as_str(), "attempts": attempts.len(), "response": last}));
        }
    }
    Json(json!({"session_id": conversation.session_id, "deliveries": deliveries}))
}
