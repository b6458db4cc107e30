//! The delivery engine: one queue a webhook, in order; each job is sent until it is answered with a 2xx, four times at
//! the most, with a pause that doubles. Then the event is gone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use unith_events::signature::SIGNATURE_HEADER;

use super::{Settings, Style};

/// Tries after the first one.
const RETRIES: u32 = 3;

/// A POST to be made.
#[derive(Debug, Clone)]
pub struct Job {
    /// The URL the webhook was registered with.
    pub webhook_url: String,
    /// The raw body.
    pub body: Vec<u8>,
    /// The signature header's value.
    pub signature: String,
}

/// One POST, and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The answer, or why there was none.
    pub answer: Result<Answer, NoAnswer>,
    /// How long it took.
    pub took: Duration,
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body, as text.
    pub body: String,
}

impl Answer {
    /// The `status` of our answers' JSON, e.g. `stored`; the problem's title where it is a problem.
    #[must_use]
    pub fn word(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let word = body.get("status").and_then(Value::as_str).or_else(|| body.get("title").and_then(Value::as_str));
        word.or_else(|| body.get("message").and_then(Value::as_str)).unwrap_or_default().to_owned()
    }
}

/// Why a POST was not answered.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum NoAnswer {
    /// It is not a URL of a host we know.
    #[error("the simulated platform knows no host for {0}")]
    UnknownHost(String),
    /// Nothing came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
}

impl Attempt {
    /// Whether the platform is done with this delivery.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| (200..300).contains(&answer.status))
    }
}

type Queues = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<(Job, oneshot::Sender<Vec<Attempt>>)>>>>;

/// Makes the POSTs.
#[derive(Debug, Clone)]
pub(super) struct DeliveryWorker {
    settings: Arc<Settings>,
    hosts: Arc<Mutex<BTreeMap<String, String>>>,
    http: reqwest::Client,
    queues: Queues,
}

impl DeliveryWorker {
    pub(super) fn new(settings: Settings) -> Self {
        let hosts = Arc::new(Mutex::new(settings.hosts.clone()));
        Self { settings: Arc::new(settings), hosts, http: provision::unith::http_client(), queues: Queues::default() }
    }

    pub(super) fn style(&self) -> Style {
        self.settings.style
    }

    pub(super) fn map_host(&self, host: String, base: String) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host, base);
    }

    /// Puts a job behind those that wait for this webhook.
    pub(super) fn queue(&self, webhook_id: u64, job: Job) -> oneshot::Receiver<Vec<Attempt>> {
        let (done, attempts) = oneshot::channel();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(webhook_id).or_insert_with(|| self.start_queue());
        // The worker lives as long as its sender, which we hold.
        let _ = queue.send((job, done));
        attempts
    }

    fn start_queue(&self) -> mpsc::UnboundedSender<(Job, oneshot::Sender<Vec<Attempt>>)> {
        let (queue, mut jobs) = mpsc::unbounded_channel::<(Job, oneshot::Sender<Vec<Attempt>>)>();
        // Without the queues, which hold the sender this worker waits on.
        let courier = Self { queues: Queues::default(), ..self.clone() };
        tokio::spawn(async move {
            while let Some((job, done)) = jobs.recv().await {
                // Whoever emitted the event may not care how it went.
                let _ = done.send(courier.deliver(&job).await);
            }
        });
        queue
    }

    async fn deliver(&self, job: &Job) -> Vec<Attempt> {
        let mut attempts = vec![self.attempt(job).await];
        for retry in 0..RETRIES {
            if attempts.last().is_some_and(Attempt::succeeded) {
                break;
            }
            tokio::time::sleep(self.settings.first_backoff * 2_u32.pow(retry)).await;
            attempts.push(self.attempt(job).await);
        }
        attempts
    }

    pub(super) async fn attempt(&self, job: &Job) -> Attempt {
        let started = Instant::now();
        let limit = self.settings.give_up_after;
        let answer = match tokio::time::timeout(limit, self.post(job)).await {
            Ok(answer) => answer,
            Err(_) => Err(NoAnswer::TimedOut(limit)),
        };
        Attempt { answer, took: started.elapsed() }
    }

    async fn post(&self, job: &Job) -> Result<Answer, NoAnswer> {
        let (host, url) = self.resolve(&job.webhook_url)?;
        let failed = |error: reqwest::Error| NoAnswer::Failed(error.without_url().to_string());
        let request = self
            .http
            .post(url)
            .header("host", host)
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, &job.signature)
            .body(job.body.clone());
        let response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        Ok(Answer { status, body: response.text().await.map_err(failed)? })
    }

    /// `https://<host>/<path>` -> the host, and `<base URL of that host>/<path>`.
    fn resolve<'u>(&self, webhook_url: &'u str) -> Result<(&'u str, String), NoAnswer> {
        let unknown = || NoAnswer::UnknownHost(webhook_url.to_owned());
        let rest = webhook_url.strip_prefix("https://").ok_or_else(unknown)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let base = hosts.get(host).ok_or_else(unknown)?;
        Ok((host, format!("{base}/{path}")))
    }
}
