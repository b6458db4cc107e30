//! The errors of EventBridge.

use axum::http::StatusCode;

/// An error of a request.
#[derive(Debug)]
pub(super) struct EventBridgeError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl EventBridgeError {
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "ValidationException", message: message.into() }
    }

    pub(super) fn not_found(bus: &str) -> Self {
        let message = format!("Event bus {bus} does not exist.");
        Self { status: StatusCode::BAD_REQUEST, code: "ResourceNotFoundException", message }
    }

    pub(super) fn already_exists(bus: &str) -> Self {
        let message = format!("Event bus {bus} already exists.");
        Self { status: StatusCode::BAD_REQUEST, code: "ResourceAlreadyExistsException", message }
    }

    pub(super) fn internal() -> Self {
        let message = "injected by the sandbox".to_owned();
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "InternalException", message }
    }

    pub(super) fn unknown(operation: &str) -> Self {
        let message = format!("the sandbox has no operation `{operation}`");
        Self { status: StatusCode::BAD_REQUEST, code: "UnknownOperationException", message }
    }
}
