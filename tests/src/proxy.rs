//! A proxy in front of an HTTP service that fails as networks and services do.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing.
    None,
    /// A connection is closed as soon as it is made.
    Refuse,
    /// A request is taken and never answered.
    Hang,
    /// An answer comes this much later.
    Delay(Duration),
    /// The service answers this instead: a status and a JSON body.
    Answer(u16, String),
    /// The request reaches the service, and the connection breaks before the answer is back.
    LoseAnswer,
}

/// What happens on connections that were open before some moment, while new ones work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The next request on it is answered by closing it.
    Closes,
    /// The next request on it vanishes.
    Swallows,
}

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    plan: Arc<Plan>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Plan {
    fault: Mutex<Fault>,
    /// Connections with a number below this are stale.
    stale_below: Mutex<(u64, Stale)>,
    connections: AtomicU64,
    requests: AtomicU64,
}

impl Proxy {
    /// A proxy in front of `upstream`, a URL without a path, that does nothing wrong yet.
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let plan = Arc::new(Plan {
            fault: Mutex::new(Fault::None),
            stale_below: Mutex::new((0, Stale::Closes)),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&plan)));
        Self { url, plan, task }
    }

    /// Where to connect to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What goes wrong from now on.
    pub fn set(&self, fault: Fault) {
        *self.plan.fault.lock().unwrap() = fault;
    }

    /// Makes the connections that are open now stale, as those of a frozen environment become.
    pub fn make_stale(&self, how: Stale) {
        *self.plan.stale_below.lock().unwrap() = (self.plan.connections.load(Ordering::SeqCst), how);
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.plan.connections.load(Ordering::SeqCst)
    }

    /// How many requests were read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.plan.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, upstream: String, plan: Arc<Plan>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = plan.connections.fetch_add(1, Ordering::SeqCst);
        let (upstream, plan) = (upstream.clone(), Arc::clone(&plan));
        tokio::spawn(async move {
            // A broken connection is what this is for; it needs no report.
            let _ = serve(client, &upstream, number, &plan).await;
        });
    }
}

async fn serve(client: TcpStream, upstream: &str, number: u64, plan: &Plan) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    if matches!(*plan.fault.lock().unwrap(), Fault::Refuse) {
        return Ok(());
    }
    let mut server = BufReader::new(TcpStream::connect(upstream).await?);
    while let Some(request) = read_message(&mut client).await? {
        plan.requests.fetch_add(1, Ordering::SeqCst);
        let (stale_below, how) = *plan.stale_below.lock().unwrap();
        if number < stale_below {
            match how {
                Stale::Closes => return Ok(()),
                Stale::Swallows => std::future::pending::<()>().await,
            }
        }
        let fault = plan.fault.lock().unwrap().clone();
        match fault {
            Fault::None => {}
            Fault::Refuse => return Ok(()),
            Fault::Hang => std::future::pending().await,
            Fault::Delay(by) => tokio::time::sleep(by).await,
            Fault::Answer(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} Told So\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                client.get_mut().write_all((head + &body).as_bytes()).await?;
                continue;
            }
            Fault::LoseAnswer => {
                server.get_mut().write_all(&request).await?;
                read_message(&mut server).await?;
                return Ok(());
            }
        }
        server.get_mut().write_all(&request).await?;
        let Some(answer) = read_message(&mut server).await? else {
            return Ok(());
        };
        client.get_mut().write_all(&answer).await?;
    }
    Ok(())
}

/// Reads one HTTP/1.1 message whose length is said in its head. `None` at the end of the connection.
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
