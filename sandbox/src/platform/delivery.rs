//! The delivery of events: one queue per webhook, in order, with retries.
//!
//! A delivery is repeated until its response is a 2xx, at most three times, with a pause that doubles. After that the
//! event is lost.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use unith_events::signature::SIGNATURE_HEADER;

use super::settings::Settings;
use crate::http_client::http_client;

const RETRIES: u32 = 3;

/// A POST to a webhook.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) webhook_url: String,
    pub(super) body: Vec<u8>,
    /// The value of the signature header.
    pub(super) signature: String,
}

/// One event on its way to one webhook.
#[derive(Debug)]
pub struct Sent {
    pub webhook_id: u64,
    pub body: Vec<u8>,
    /// The value of the signature header.
    pub signature: String,
    /// All attempts, once the last one is done.
    pub attempts: oneshot::Receiver<Vec<Attempt>>,
}

/// One POST and its result.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The response, or the reason why there was none.
    pub response: Result<Response, NoResponse>,
    /// The time from the request to the result.
    pub took: Duration,
}

impl Attempt {
    /// The status and the outcome of the response, or 0 and the reason why there was none.
    pub fn summary(&self) -> (u16, String) {
        match &self.response {
            Ok(response) => (response.status, response.outcome()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Whether the response is a 2xx, which ends the delivery.
    pub fn succeeded(&self) -> bool {
        self.response.as_ref().is_ok_and(|response| (200..300).contains(&response.status))
    }
}

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    /// The `status` of a JSON body, e.g. `stored`, else its `title`, else its `message`, else nothing.
    pub fn outcome(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let outcome = ["status", "title", "message"].into_iter().find_map(|name| body.get(name)?.as_str());
        outcome.unwrap_or_default().to_owned()
    }
}

/// The reason why a POST has no response.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum NoResponse {
    /// The URL is not https, or its host is not in [`Settings::hosts`].
    #[error("the simulated platform does not know the host of {0}")]
    UnknownHost(String),
    /// The response did not come in time.
    #[error("no response within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
}

type Queue = mpsc::UnboundedSender<(Delivery, oneshot::Sender<Vec<Attempt>>)>;

/// Posts deliveries to webhooks.
#[derive(Debug, Clone)]
pub(super) struct DeliveryWorker {
    response_timeout: Duration,
    first_backoff: Duration,
    hosts: Arc<Mutex<BTreeMap<String, String>>>,
    http: reqwest::Client,
    /// By the id of the webhook.
    queues: Arc<Mutex<HashMap<u64, Queue>>>,
}

impl DeliveryWorker {
    pub(super) fn new(settings: Settings) -> io::Result<Self> {
        let Settings { hosts, response_timeout, first_backoff, .. } = settings;
        let (hosts, queues) = (Arc::new(Mutex::new(hosts)), Arc::default());
        Ok(Self { response_timeout, first_backoff, hosts, http: http_client()?, queues })
    }

    pub(super) fn map_host(&self, host: String, base: String) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host, base);
    }

    /// Queues a delivery behind those that wait for the same webhook. The result comes with the last attempt.
    pub(super) fn queue(&self, webhook_id: u64, delivery: Delivery) -> oneshot::Receiver<Vec<Attempt>> {
        let (done, attempts) = oneshot::channel();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(webhook_id).or_insert_with(|| self.start_queue());
        // The receiver lives as long as its sender, which is in `queues`.
        let _ = queue.send((delivery, done));
        attempts
    }

    fn start_queue(&self) -> Queue {
        let (queue, mut deliveries) = mpsc::unbounded_channel::<(Delivery, oneshot::Sender<Vec<Attempt>>)>();
        // The task must not hold the sender that it waits on.
        let worker = Self { queues: Arc::default(), ..self.clone() };
        tokio::spawn(async move {
            while let Some((delivery, done)) = deliveries.recv().await {
                // The caller may not wait for the result.
                let _ = done.send(worker.deliver(&delivery).await);
            }
        });
        queue
    }

    async fn deliver(&self, delivery: &Delivery) -> Vec<Attempt> {
        let mut attempts = vec![self.attempt(delivery).await];
        for retry in 0..RETRIES {
            if attempts.last().is_some_and(Attempt::succeeded) {
                break;
            }
            sleep(self.first_backoff * 2_u32.pow(retry)).await;
            attempts.push(self.attempt(delivery).await);
        }
        attempts
    }

    pub(super) async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let started = Instant::now();
        let response = timeout(self.response_timeout, self.post(delivery)).await;
        let response = response.unwrap_or(Err(NoResponse::TimedOut(self.response_timeout)));
        Attempt { response, took: started.elapsed() }
    }

    async fn post(&self, delivery: &Delivery) -> Result<Response, NoResponse> {
        let (host, url) = self.resolve(&delivery.webhook_url)?;
        let failed = |error: reqwest::Error| NoResponse::Failed(error.without_url().to_string());
        let request = self
            .http
            .post(url)
            .header("host", host)
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, &delivery.signature)
            .body(delivery.body.clone());
        let response = request.send().await.map_err(failed)?;
        Ok(Response { status: response.status().as_u16(), body: response.text().await.map_err(failed)? })
    }

    /// Splits `https://<host>/<path>` into the host and `<base URL of that host>/<path>`.
    fn resolve<'u>(&self, webhook_url: &'u str) -> Result<(&'u str, String), NoResponse> {
        let unknown = || NoResponse::UnknownHost(webhook_url.to_owned());
        let rest = webhook_url.strip_prefix("https://").ok_or_else(unknown)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let base = hosts.get(host).ok_or_else(unknown)?;
        Ok((host, format!("{base}/{path}")))
    }
}
