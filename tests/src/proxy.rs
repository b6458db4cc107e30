//! A proxy in front of an HTTP service that fails as networks and services do.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A fault that the proxy injects into every request, or into the next few of them.
#[derive(Debug, Clone)]
pub struct Fault {
    effect: Effect,
    /// The requests that are let through first.
    spared: u32,
    /// `None` is until [`Proxy::clear`].
    remaining: Option<u32>,
}

#[derive(Debug, Clone)]
enum Effect {
    Refuse,
    Hang,
    Delay(Duration),
    Reset,
    Respond { status: u16, body: String },
    DropResponse,
    Truncate,
}

impl Fault {
    /// Closes connections as soon as they are made, and those that carry a request.
    pub fn refuse() -> Self {
        Effect::Refuse.into()
    }

    /// Resets the connection of each request.
    pub fn reset() -> Self {
        Effect::Reset.into()
    }

    /// Takes requests and never responds.
    pub fn hang() -> Self {
        Effect::Hang.into()
    }

    /// Forwards requests after this time.
    pub fn delay(by: Duration) -> Self {
        Effect::Delay(by).into()
    }

    /// Forwards requests and breaks the connection before the response.
    pub fn drop_response() -> Self {
        Effect::DropResponse.into()
    }

    /// Forwards requests and breaks the connection in the middle of the response's body.
    pub fn truncate() -> Self {
        Effect::Truncate.into()
    }

    /// Responds with this status and no error code.
    pub fn status(status: u16) -> Self {
        Effect::Respond { status, body: "{}".to_owned() }.into()
    }

    /// Responds with an AWS error: status 400 and this code.
    pub fn aws_error(code: &str) -> Self {
        // AWS services put a namespace before the code, and clients strip it.
        let body = json!({"__type": format!("com.amazonaws.tests#{code}"), "message": "injected by a test"});
        Effect::Respond { status: 400, body: body.to_string() }.into()
    }

    /// The error of a service that IAM keeps the caller from.
    pub fn access_denied() -> Self {
        Self::aws_error("AccessDeniedException")
    }

    /// The error of a DynamoDB table that is throttled.
    pub fn throttled() -> Self {
        Self::aws_error("ProvisionedThroughputExceededException")
    }

    /// The error of a DynamoDB whose key range is throttled: one hot session.
    pub fn hot_key() -> Self {
        let reason =
            json!({"reason": "TableWriteKeyRangeThroughputExceeded", "resource": "arn:aws:dynamodb:::table/t"});
        let code = "com.amazonaws.tests#ThrottlingException";
        let body = json!({"__type": code, "message": "injected by a test", "throttlingReasons": [reason]});
        Effect::Respond { status: 400, body: body.to_string() }.into()
    }

    /// Changes the status of a response, e.g. to make an AWS error one of the server.
    pub fn with_status(mut self, new: u16) -> Self {
        match &mut self.effect {
            Effect::Respond { status, .. } => *status = new,
            effect => panic!("{effect:?} has no status"),
        }
        self
    }

    /// Lets the next `requests` through before the fault begins.
    pub fn after(self, requests: u32) -> Self {
        Self { spared: requests, ..self }
    }

    /// Limits the fault to the next `requests`.
    pub fn times(self, requests: u32) -> Self {
        Self { remaining: Some(requests), ..self }
    }
}

impl From<Effect> for Fault {
    fn from(effect: Effect) -> Self {
        Self { effect, spared: 0, remaining: None }
    }
}

/// The fate of connections that were open at some moment; new ones work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The next request closes the connection.
    Closes,
    /// The next request vanishes.
    Swallows,
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    fault: Mutex<Option<Fault>>,
    /// Connections with a lower number are stale.
    stale_below: Mutex<(u64, Stale)>,
    connections: AtomicU64,
    requests: AtomicU64,
    injected: AtomicU64,
    last_request: Mutex<Vec<u8>>,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, a URL without a path.
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            fault: Mutex::new(None),
            stale_below: Mutex::new((0, Stale::Closes)),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            last_request: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&state)));
        Self { url, state, task }
    }

    /// The URL to connect to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Injects `fault` from now on, in place of any other.
    pub fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = Some(fault);
    }

    /// Injects no fault from now on.
    pub fn clear(&self) {
        *self.state.fault.lock().unwrap() = None;
    }

    /// Makes all open connections stale, as those of a frozen environment become.
    pub fn make_stale(&self, how: Stale) {
        *self.state.stale_below.lock().unwrap() = (self.state.connections.load(Ordering::SeqCst), how);
    }

    /// The number of connections made so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The number of requests read so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The number of requests and connections that met a fault so far.
    pub fn injected(&self) -> u64 {
        self.state.injected.load(Ordering::SeqCst)
    }

    /// The last request that was read, with its head.
    pub fn last_request(&self) -> String {
        String::from_utf8_lossy(&self.state.last_request.lock().unwrap()).into_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// The effect on a request, or on a connection if only those matter: it uses up one of the fault's times.
    fn next_effect(&self, matters: impl FnOnce(&Effect) -> bool) -> Option<Effect> {
        let mut fault = self.fault.lock().unwrap();
        let Fault { effect, spared, remaining } = fault.as_mut().filter(|fault| matters(&fault.effect))?;
        if *spared > 0 {
            *spared -= 1;
            return None;
        }
        self.injected.fetch_add(1, Ordering::SeqCst);
        let effect = effect.clone();
        if let Some(remaining) = remaining {
            *remaining = remaining.saturating_sub(1);
            if *remaining == 0 {
                *fault = None;
            }
        }
        Some(effect)
    }
}

async fn accept(listener: TcpListener, upstream: String, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        let (upstream, state) = (upstream.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            // Broken connections are the purpose of this proxy.
            let _ = serve(client, &upstream, number, &state).await;
        });
    }
}

async fn serve(client: TcpStream, upstream: &str, number: u64, state: &State) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    if state.next_effect(|effect| matches!(effect, Effect::Refuse)).is_some() {
        return Ok(());
    }
    let mut server = BufReader::new(TcpStream::connect(upstream).await?);
    while let Some(request) = read_message(&mut client).await? {
        state.requests.fetch_add(1, Ordering::SeqCst);
        state.last_request.lock().unwrap().clone_from(&request);
        let (stale_below, how) = *state.stale_below.lock().unwrap();
        if number < stale_below {
            match how {
                Stale::Closes => return Ok(()),
                Stale::Swallows => return swallow(client).await,
            }
        }
        match state.next_effect(|_| true) {
            None => {}
            Some(Effect::Refuse) => return Ok(()),
            Some(Effect::Hang) => {
                drop(server);
                return swallow(client).await;
            }
            Some(Effect::Reset) => return client.get_ref().set_zero_linger(),
            Some(Effect::Delay(by)) => tokio::time::sleep(by).await,
            Some(Effect::Respond { status, body }) => {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} Injected\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n"
                );
                client.get_mut().write_all((head + &body).as_bytes()).await?;
                continue;
            }
            Some(Effect::DropResponse) => {
                server.get_mut().write_all(&request).await?;
                read_message(&mut server).await?;
                return Ok(());
            }
            Some(Effect::Truncate) => {
                server.get_mut().write_all(&request).await?;
                let response = read_message(&mut server).await?.unwrap_or_default();
                // Responses are compact JSON: the last blank line is the end of the head.
                let head = response.windows(4).rposition(|bytes| bytes == b"\r\n\r\n").map_or(0, |at| at + 4);
                return client.get_mut().write_all(&response[..usize::midpoint(head, response.len())]).await;
            }
        }
        server.get_mut().write_all(&request).await?;
        let Some(response) = read_message(&mut server).await? else {
            return Ok(());
        };
        client.get_mut().write_all(&response).await?;
    }
    Ok(())
}

/// Never responds. It ends when the client closes the connection, so that a long outage does not use up all descriptors.
async fn swallow(mut client: BufReader<TcpStream>) -> std::io::Result<()> {
    tokio::io::copy(&mut client, &mut tokio::io::sink()).await.map(drop)
}

/// Reads one HTTP/1.1 message with a `Content-Length`, or without a body; `None` at the end of the connection.
async fn read_message(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    let mut length = 0;
    loop {
        let line_start = message.len();
        if stream.read_until(b'\n', &mut message).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(message.get(line_start..).unwrap_or_default()).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    message.append(&mut body);
    Ok(Some(message))
}
