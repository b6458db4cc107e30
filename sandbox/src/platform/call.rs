//! The calls of the management API.

use axum::http::Method;
use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer, value},
};

/// A call of the management API. Its JSON is the method and the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Every call.
    #[serde(rename = "*")]
    Any,
    #[serde(rename = "POST /auth/token")]
    CreateToken,
    #[serde(rename = "GET /user/me")]
    ShowAccount,
    #[serde(rename = "GET /head/all")]
    ListHeads,
    #[serde(rename = "POST /head-events")]
    Register,
    #[serde(rename = "GET /head-events")]
    ListWebhooks,
    #[serde(rename = "GET /head-events/{id}")]
    ShowWebhook,
    #[serde(rename = "PATCH /head-events/{id}")]
    ChangeWebhook,
    #[serde(rename = "DELETE /head-events/{id}")]
    DeleteWebhook,
    #[serde(rename = "GET /head/{head_id}/enable-events")]
    ShowSwitch,
    #[serde(rename = "PUT /head/{head_id}/enable-events")]
    SetSwitch,
}

impl Call {
    pub(super) fn of(method: &Method, route: &str) -> Option<Self> {
        let name = format!("{method} {route}");
        Self::deserialize(IntoDeserializer::<value::Error>::into_deserializer(name)).ok()
    }
}
