//! `self-test` delivers synthetic events the way UNITH does: gateway, function, table.
//!
//! A signed event must be stored, a wrongly signed one refused.

use std::time::{Duration, Instant};

use lambda_support::errors::causes;
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use unith_events::{
    ids::{HeadId, SessionId},
    key_ring::KeyState,
    signature::{SIGNATURE_HEADER, SharedKey, Signature},
    timestamp::Timestamp,
};
use uuid::Builder;

use crate::ring::{RingError, RingStore};

/// UNITH's own time-out.
const TIMEOUT: Duration = Duration::from_secs(5);
/// `receive` responds with a hundred bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The result for one head.
#[derive(Debug, Serialize)]
pub struct HeadSelfTest {
    /// The head whose key signs.
    pub head_id: HeadId,
    /// Whether both deliveries got the expected responses.
    pub ok: bool,
    #[serde(flatten)]
    result: TestResult,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum TestResult {
    Delivered {
        /// The synthetic session, `self-test:<uuid>`.
        session_id: String,
        /// The signed delivery; 200 is expected.
        signed: Delivery,
        /// The wrongly signed delivery; 401 is expected. One per run is enough, and does not look like an attack.
        #[serde(skip_serializing_if = "Option::is_none")]
        forged: Option<Delivery>,
    },
    Failed {
        error: String,
    },
}

/// A delivery and its response.
#[derive(Debug, Default, Serialize)]
struct Delivery {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The response's `status` or `title`.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    latency_ms: u128,
}

#[derive(Debug, thiserror::Error)]
enum SelfTestError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("the ring has no active key for head {0}; run `apply` first")]
    NoKey(HeadId),
}

/// Delivers to `url` with a head's key, and, with `forge`, with a wrong key.
pub async fn self_test(http: &Client, ring: &RingStore, url: &str, head_id: &HeadId, forge: bool) -> HeadSelfTest {
    let (ok, result) = match deliver_both(http, ring, url, head_id, forge).await {
        Ok((ok, result)) => (ok, result),
        Err(error) => (false, TestResult::Failed { error: error.to_string() }),
    };
    HeadSelfTest { head_id: head_id.clone(), ok, result }
}

async fn deliver_both(
    http: &Client,
    ring: &RingStore,
    url: &str,
    head_id: &HeadId,
    forge: bool,
) -> Result<(bool, TestResult), SelfTestError> {
    let no_key = || SelfTestError::NoKey(head_id.clone());
    let entries = ring.read().await?.of_head(head_id);
    let key = &entries.iter().find(|entry| entry.state == KeyState::Active).ok_or_else(no_key)?.key;
    let uuid = Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
    let session_id = format!("{}{uuid}", SessionId::SELF_TEST);
    let body = json!({
        "timestamp": Timestamp::now().to_string(), "head_id": head_id, "session_id": session_id,
        "public_head_id": "self-test", "public_org_id": "self-test", "event_type": "SELF_TEST",
    })
    .to_string();
    let signed = deliver(http, url, &body, &key.sign(body.as_bytes())).await;
    let mut forged = None;
    if forge {
        // A wrong key of the same length: a receiver that accepts it compares nothing.
        let other = |c: char| if c == '0' { '1' } else { '0' };
        let wrong_key = SharedKey::parse(&key.expose().chars().map(other).collect::<String>()).map_err(|_| no_key())?;
        forged = Some(deliver(http, url, &body, &wrong_key.sign(body.as_bytes())).await);
    }
    let ok = signed.status == Some(200)
        && signed.said.as_deref() == Some("stored")
        && forged.as_ref().is_none_or(|forged| forged.status == Some(401));
    Ok((ok, TestResult::Delivered { session_id, signed, forged }))
}

async fn deliver(http: &Client, url: &str, body: &str, signature: &Signature) -> Delivery {
    let started = Instant::now();
    let request = http
        .post(url)
        .timeout(TIMEOUT)
        .header("content-type", "application/json")
        .header(SIGNATURE_HEADER, signature.to_hex())
        .body(body.to_owned());
    let response = async {
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await?.filter(|_| body.len() <= MAX_RESPONSE_BYTES) {
            body.extend_from_slice(&chunk);
        }
        Ok::<_, reqwest::Error>((status, body))
    };
    let response = response.await;
    let latency_ms = started.elapsed().as_millis();
    match response {
        Ok((status, body)) => {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let said = ["status", "title"].iter().find_map(|name| body.get(name)?.as_str());
            Delivery { status: Some(status), said: said.map(str::to_owned), latency_ms, ..Delivery::default() }
        }
        Err(error) => Delivery { error: Some(causes(&error.without_url())), latency_ms, ..Delivery::default() },
    }
}
