//! The HTTP client under the AWS SDK: HTTP/1.1, over TLS by rustls on ring, on connections that are kept.
//!
//! It does what a function needs of the SDK's own client and no more. That one has HTTP/2, proxies and a pool for many
//! hosts beside it, which were a fifth of a function's binary, and each connection is a task there, which costs an event
//! a dozen switches. Here a connection moves when somebody waits for its answer, and at no other time.
//!
//! What always holds: a connection serves one request at a time; it is kept for the next one only after its answer was
//! read to the end and it says that it is ready. A request that was given up on (a time-out) takes its connection along.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::{body::SdkBody, retry::ErrorKind};
use bytes::Bytes;
use http::{
    HeaderValue, Uri,
    header::HOST,
    response::Parts,
    uri::{PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The largest answer that is read: DynamoDB's and Secrets Manager's are far smaller.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// A connection that nobody used for this long is not used any more: servers hang up on it about then.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Where the SDK has no time-out of its own.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// The client: what it trusts, and the connections it keeps. Clones share them.
#[derive(Clone)]
pub struct Https {
    tls: TlsConnector,
    idle: Arc<Mutex<Vec<Idle>>>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Https")
    }
}

struct Idle {
    origin: Origin,
    connection: Connection,
    since: Instant,
}

impl Https {
    /// A client that trusts what `roots` vouch for.
    ///
    /// # Errors
    /// None that could occur: the cipher suites below fit the versions of TLS they are used with.
    pub fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..ring::default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), idle: Arc::default() })
    }

    async fn exchange(self, request: HttpRequest, connect_within: Duration) -> Result<HttpResponse, ConnectorError> {
        let mut request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let origin = Origin::of(request.uri()).map_err(|error| ConnectorError::user(error.into()))?;
        let host = origin.authority.parse::<HeaderValue>().map_err(|error| ConnectorError::user(error.into()))?;
        request.headers_mut().entry(HOST).or_insert(host);
        *request.uri_mut() = path_of(request.uri());
        let mut connection = match self.kept(&origin).await {
            Some(connection) => connection,
            None => self.connect(&origin, connect_within).await?,
        };
        let (parts, body) = connection.exchange(request).await?;
        // A server that is in trouble is asked again on another connection.
        if !parts.status.is_server_error() && connection.is_ready().await {
            self.keep(origin, connection);
        }
        let response = http::Response::from_parts(parts, SdkBody::from(body));
        HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
    }

    /// A connection to `origin` that was used before and is still open.
    async fn kept(&self, origin: &Origin) -> Option<Connection> {
        loop {
            let mut idle = {
                let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let newest = all.iter().rposition(|idle| idle.origin == *origin)?;
                all.swap_remove(newest)
            };
            if idle.since.elapsed() < MAX_IDLE && idle.connection.is_ready().await {
                return Some(idle.connection);
            }
        }
    }

    fn keep(&self, origin: Origin, connection: Connection) {
        let idle = Idle { origin, connection, since: Instant::now() };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }

    async fn connect(&self, origin: &Origin, within: Duration) -> Result<Connection, ConnectorError> {
        match tokio::time::timeout(within, self.open(origin)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(cause)) => {
                let authority = origin.authority.clone();
                Err(ConnectorError::io(NoConnection::Failed { authority, cause }.into()))
            }
            Err(_) => {
                let authority = origin.authority.clone();
                Err(ConnectorError::timeout(NoConnection::OutOfTime { authority, within }.into()))
            }
        }
    }

    async fn open(&self, origin: &Origin) -> Result<Connection, Cause> {
        let tcp = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = if origin.is_secure {
            let name = ServerName::try_from(origin.host.clone())?;
            Box::new(self.tls.connect(name, tcp).await?)
        } else {
            Box::new(tcp)
        };
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver })
    }
}

/// As AWS's servers would choose them; the first one costs least, since SHA-256 is in the processor and SHA-384 is not.
const CIPHER_SUITES: [rustls::SupportedCipherSuite; 6] = [
    ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A service could not be connected to.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error("no connection to {authority}: {cause}")]
    Failed { authority: String, cause: Cause },
    #[error("no connection to {authority} within {} ms", within.as_millis())]
    OutOfTime { authority: String, within: Duration },
}

/// Bytes in both directions: plain for an emulator on this machine, TLS for everything else.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Connection {
    sender: SendRequest<SdkBody>,
    driver: http1::Connection<TokioIo<Box<dyn Stream>>, SdkBody>,
}

impl Connection {
    /// Sends a request and reads the whole answer.
    async fn exchange(&mut self, request: http::Request<SdkBody>) -> Result<(Parts, Bytes), ConnectorError> {
        let answer = self.sender.send_request(request);
        let mut exchange = pin!(async {
            let (parts, body) = answer.await.map_err(classify)?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| match error.downcast() {
                Ok(error) => classify(*error),
                Err(error) => ConnectorError::other(error, None),
            })?;
            Ok((parts, body.to_bytes()))
        });
        poll_fn(|cx| {
            // How the connection ended, its exchange knows as well.
            let _ = Pin::new(&mut self.driver).poll(cx);
            exchange.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it is open, and through with what it was asked before.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            let open = Pin::new(&mut self.driver).poll(cx).is_pending();
            Poll::Ready(open && self.sender.is_ready())
        })
        .await
    }
}

/// What the SDK makes of a fault decides whether it tries again.
fn classify(error: hyper::Error) -> ConnectorError {
    if error.is_user() {
        ConnectorError::user(error.into())
    } else if error.is_parse() {
        ConnectorError::other(error.into(), None)
    } else if error.is_incomplete_message() {
        ConnectorError::other(error.into(), Some(ErrorKind::TransientError))
    } else {
        ConnectorError::io(error.into())
    }
}

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    is_secure: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// As the `Host` header has it: with the port only where it is not the scheme's own.
    authority: String,
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no http or https URL with a host")]
struct NoOrigin(Uri);

impl Origin {
    fn of(uri: &Uri) -> Result<Self, NoOrigin> {
        let no_origin = || NoOrigin(uri.clone());
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(no_origin)?;
        let (is_secure, default_port) = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => (true, 443),
            Some(scheme) if *scheme == Scheme::HTTP => (false, 80),
            _ => return Err(no_origin()),
        };
        let port = uri.port_u16().unwrap_or(default_port);
        let authority = if port == default_port { host.to_owned() } else { format!("{host}:{port}") };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { is_secure, host, port, authority })
    }
}

fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")).into()
}

#[derive(Debug)]
struct Connector {
    https: Https,
    connect_within: Duration,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.https.clone().exchange(request, self.connect_within))
    }
}

impl HttpClient for Https {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let connect_within = settings.connect_timeout().unwrap_or(CONNECT_WITHIN);
        SharedHttpConnector::new(Connector { https: self.clone(), connect_within })
    }
}
