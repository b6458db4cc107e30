//! The receiver's job without the AWS SDK: the request to DynamoDB is written and signed by hand.
//!
//! It shows the cost of the SDK. Do not deploy it: it has no timeouts, retries, reconnects, key ring or log line.

use std::{env::var, fs, sync::Arc};

use event_store::{
    item::body_sha256,
    keys::{event_sk, session_pk},
};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use lambda_http::{Body, Error, Request, Response, run, service_fn};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer, pki_types::pem::PemObject};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;
use unith_events::{
    event::Event,
    key_ring::KeyRing,
    signature::{SIGNATURE_HEADER, SharedKey, Signature},
    timestamp::Timestamp,
    verify::verify,
};

const TARGET: &str = "DynamoDB_20120810.PutItem";
const CONTENT_TYPE: &str = "application/x-amz-json-1.0";

struct Table {
    name: String,
    host: String,
    region: String,
    key_id: String,
    secret: String,
    token: String,
    sender: Mutex<http1::SendRequest<Full<Bytes>>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let ring = KeyRing::of_one(SharedKey::parse(&var("UNITH_SHARED_KEY")?)?);
    let table = Table::connect().await?;
    let (ring, table) = (&ring, &table);
    run(service_fn(|request| receive(request, ring, table))).await
}

async fn receive(request: Request, ring: &KeyRing, table: &Table) -> Result<Response<Body>, Error> {
    let now = Timestamp::now();
    let signature = request.headers().get(SIGNATURE_HEADER).and_then(|value| Signature::parse(value.as_bytes()).ok());
    let verified = signature.and_then(|signature| verify(request.body(), &signature, ring, now).ok());
    let Some(verified) = verified else {
        let problem = json!({"type": "about:blank", "title": "Unauthorized", "status": 401}).to_string();
        return Ok(Response::builder().status(401).body(problem.into())?);
    };
    let event = Event::parse(&verified)?;
    let status = if table.put(&event, verified.body(), now).await? { "stored" } else { "duplicate" };
    Ok(Response::new(json!({"status": status, "event_id": event.event_id}).to_string().into()))
}

impl Table {
    async fn connect() -> Result<Self, Error> {
        let endpoint = var("AWS_ENDPOINT_URL_DYNAMODB")?;
        let host = endpoint.trim_start_matches("https://").to_owned();
        let mut roots = RootCertStore::empty();
        let bundle = fs::read(var("AWS_CA_BUNDLE")?)?;
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).flatten());
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(&host).await?;
        tcp.set_nodelay(true)?;
        let name = host.split(':').next().unwrap_or_default().to_owned().try_into()?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self {
            name: var("TABLE_NAME")?,
            host,
            region: var("AWS_REGION")?,
            key_id: var("AWS_ACCESS_KEY_ID")?,
            secret: var("AWS_SECRET_ACCESS_KEY")?,
            token: var("AWS_SESSION_TOKEN").unwrap_or_default(),
            sender: Mutex::new(sender),
        })
    }

    /// Returns whether the event was new.
    async fn put(&self, event: &Event, body: &[u8], now: Timestamp) -> Result<bool, Error> {
        let id = &event.identity;
        let text = |text: &str| json!({"S": text});
        let request = json!({
            "TableName": self.name,
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            "Item": {
                "pk": text(&session_pk(&id.head_id, &id.session_id)), "sk": text(&event_sk(id)),
                "event_id": text(event.event_id.as_str()), "event_type": text(&event.event_type),
                "occurred_at": text(&id.occurred_at.to_string()), "head_id": text(&id.head_id),
                "session_id": text(&id.session_id), "public_head_id": text(event.public_head_id.as_deref().unwrap_or_default()),
                "public_org_id": text(event.public_org_id.as_deref().unwrap_or_default()), "received_at": text(&now.to_string()),
                "body": text(std::str::from_utf8(body)?), "body_sha256": text(&body_sha256(body)),
            },
        })
        .to_string();
        let response = {
            let mut sender = self.sender.lock().await;
            sender.ready().await?;
            sender.send_request(self.signed(request, now)?).await?
        };
        let status = response.status().as_u16();
        let response = response.into_body().collect().await?.to_bytes();
        if status == 200 {
            return Ok(true);
        }
        let error: Value = serde_json::from_slice(&response)?;
        let kind = error["__type"].as_str().unwrap_or_default();
        if kind.ends_with("ConditionalCheckFailedException") { Ok(false) } else { Err(error.to_string().into()) }
    }

    /// Signs with AWS Signature Version 4.
    fn signed(&self, body: String, now: Timestamp) -> Result<hyper::Request<Full<Bytes>>, Error> {
        let now = now.to_string();
        let time: String = now.split('.').next().unwrap_or_default().chars().filter(|c| !"-:".contains(*c)).collect();
        let (time, date) = (format!("{time}Z"), &time[..8]);
        let scope = format!("{date}/{}/dynamodb/aws4_request", self.region);
        let names = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target";
        let canonical = format!(
            "POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{}\nx-amz-date:{time}\nx-amz-security-token:{}\n\
             x-amz-target:{TARGET}\n\n{names}\n{}",
            self.host,
            self.token,
            sha256(&body),
        );
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(&canonical));
        let mut key = mac(format!("AWS4{}", self.secret).as_bytes(), date)?;
        for part in [self.region.as_str(), "dynamodb", "aws4_request"] {
            key = mac(&key, part)?;
        }
        let signature = hex::encode(mac(&key, &to_sign)?);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key_id
        );
        let request = hyper::Request::post("/")
            .header("host", &self.host)
            .header("content-type", CONTENT_TYPE)
            .header("x-amz-date", time)
            .header("x-amz-security-token", &self.token)
            .header("x-amz-target", TARGET)
            .header("authorization", authorization);
        Ok(request.body(Full::new(body.into()))?)
    }
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn mac(key: &[u8], text: &str) -> Result<Vec<u8>, Error> {
    let mac = Hmac::<Sha256>::new_from_slice(key)?.chain_update(text);
    Ok(mac.finalize().into_bytes().to_vec())
}
