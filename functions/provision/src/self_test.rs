//! `self-test`: a signed synthetic event to the public URL, which must be stored, and a wrongly signed one, which must
//! be refused. It goes the way UNITH's deliveries go: gateway, function, table.

use std::time::{Duration, Instant};

use fastrand::Rng;
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use unith_events::{
    key_ring::KeyState,
    signature::{SIGNATURE_HEADER, SharedKey, Signature},
    timestamp::Timestamp,
};

use crate::ring::{RingError, RingStore};

/// UNITH gives up after this long.
const UNITH_WAITS: Duration = Duration::from_secs(5);

/// Our own responses have a hundred bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// How a head's self-test went.
#[derive(Debug, Serialize)]
pub struct SelfTestReport {
    /// The head whose key signed.
    pub head_id: String,
    /// Whether both deliveries were answered as they must be.
    pub ok: bool,
    /// The synthetic session, reserved: `self-test:<uuid>`.
    pub session_id: String,
    /// The signed delivery; 200 is right.
    pub signed: Answer,
    /// The wrongly signed one; 401 is right. One a run is enough, and does not look like an attack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forged: Option<Answer>,
}

/// How a delivery was answered.
#[derive(Debug, Serialize)]
pub struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    latency_ms: u128,
}

/// Tests the way to the table with a head's key, and, with `forge`, that nothing else gets in; `url` is where deliveries
/// go.
pub async fn self_test(
    http: &Client,
    ring: &RingStore,
    url: &str,
    head_id: &str,
    forge: bool,
) -> Result<SelfTestReport, SelfTestError> {
    let entries = ring.read().await?.of_head(head_id);
    let active = entries.iter().find(|entry| entry.state == KeyState::Active);
    let key = &active.ok_or_else(|| SelfTestError::NoKey(head_id.to_owned()))?.key;
    let session_id = format!("self-test:{}", uuid(&mut Rng::new()));
    let body = json!({
        "timestamp": Timestamp::now().to_string(), "head_id": head_id, "session_id": session_id,
        "public_head_id": "self-test", "public_org_id": "self-test", "event_type": "SELF_TEST",
    })
    .to_string();
    // A key that differs from the real one and is as long: who accepts it compares nothing.
    let other = |c: char| if c == '0' { '1' } else { '0' };
    let wrong_key: String = key.expose().chars().map(other).collect();
    let wrong = SharedKey::parse(&wrong_key).map_err(|_| SelfTestError::NoKey(head_id.to_owned()))?;
    let signed = deliver(http, url, &body, &key.sign(body.as_bytes())).await;
    let forged = if forge { Some(deliver(http, url, &body, &wrong.sign(body.as_bytes())).await) } else { None };
    let ok = signed.status == Some(200)
        && signed.said.as_deref() == Some("stored")
        && forged.as_ref().is_none_or(|forged| forged.status == Some(401));
    Ok(SelfTestReport { head_id: head_id.to_owned(), ok, session_id, signed, forged })
}

/// What keeps a self-test from being made.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The ring cannot be read.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// There is nothing to sign with.
    #[error("the ring has no active key for head {0}: run `apply` first")]
    NoKey(String),
}

async fn deliver(http: &Client, url: &str, body: &str, signature: &Signature) -> Answer {
    let started = Instant::now();
    let request = http
        .post(url)
        .timeout(UNITH_WAITS)
        .header("content-type", "application/json")
        .header(SIGNATURE_HEADER, signature.to_hex())
        .body(body.to_owned());
    let answer = async {
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await?.filter(|_| body.len() <= MAX_RESPONSE_BYTES) {
            body.extend_from_slice(&chunk);
        }
        Ok::<_, reqwest::Error>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let answer = answer.await;
    let latency_ms = started.elapsed().as_millis();
    match answer {
        Ok((status, text)) => {
            let said: Value = serde_json::from_str(&text).unwrap_or_default();
            let word = said.get("status").and_then(Value::as_str).or_else(|| said.get("title").and_then(Value::as_str));
            Answer { status: Some(status), said: word.map(str::to_owned), error: None, latency_ms }
        }
        Err(error) => Answer {
            status: None,
            said: None,
            error: Some(lambda_support::errors::causes(&error.without_url())),
            latency_ms,
        },
    }
}

/// A random UUID (version 4).
#[must_use]
pub fn uuid(random: &mut Rng) -> String {
    let bits = random.u128(..) & !(0xf000 << 64) & !(0xc000 << 48) | (0x4000 << 64) | (0x8000 << 48);
    let digits = format!("{bits:032x}");
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
