//! The HTTP client under the AWS SDK: HTTP/1.1, over TLS by rustls on ring, on connections that are kept.
//!
//! It does what a function needs of the SDK's own client and no more. That one has HTTP/2, proxies and a pool for many
//! hosts beside it, which were a tenth of a function's code, and each connection is a task of its own there. Here a
//! connection moves when somebody waits for its answer, and at no other time.
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
/// A connection that nobody used for this long is not used any more: its server may have hung up on it, and an environment
/// that was frozen meanwhile not have heard of it.
const MAX_IDLE: Duration = Duration::from_mins(1);
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
        let authority = || origin.authority.clone();
        match tokio::time::timeout(within, self.open(origin)).await {
            Ok(opened) => opened
                .map_err(|cause| ConnectorError::io(NoConnection::Failed { authority: authority(), cause }.into())),
            Err(_) => Err(ConnectorError::timeout(NoConnection::OutOfTime { authority: authority(), within }.into())),
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

/// The server hung up before it had a request.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed")]
struct Closed;

/// A service could not be connected to.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error("no connection to {authority}")]
    Failed {
        authority: String,
        #[source]
        cause: Cause,
    },
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
            let moved = Pin::new(&mut self.driver).poll(cx);
            match exchange.as_mut().poll(cx) {
                // Closed before it took the request: nobody else will tell.
                Poll::Pending if moved.is_ready() => Poll::Ready(Err(ConnectorError::io(Closed.into()))),
                exchanged => exchanged,
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::http::Request;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const HANG_UP: &str = "hang up";
    const HANG_UP_ON_OTHERS: &str = "hang up on the connections before";
    const WITHIN: Duration = Duration::from_secs(5);

    /// A server that answers the requests of its n-th connection with the n-th script, and then says nothing; its URL.
    async fn server(scripts: &'static [&'static [&'static str]]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for script in scripts {
                let (mut connection, _) = listener.accept().await.unwrap();
                for answer in script.iter().filter(|answer| **answer != HANG_UP) {
                    if *answer == HANG_UP_ON_OTHERS {
                        silent.clear();
                        continue;
                    }
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        request.push(connection.read_u8().await.unwrap());
                    }
                    connection.write_all(answer.as_bytes()).await.unwrap();
                }
                if script.last() != Some(&HANG_UP) {
                    silent.push(connection);
                }
            }
            std::future::pending::<()>().await;
        });
        url
    }

    fn client() -> Https {
        Https::new(RootCertStore::empty()).unwrap()
    }

    async fn get(client: &Https, url: &str) -> Result<(u16, Vec<u8>), ConnectorError> {
        let answer = client.clone().exchange(Request::get(url).unwrap(), WITHIN).await?;
        Ok((answer.status().as_u16(), answer.body().bytes().unwrap().to_vec()))
    }

    fn kept(client: &Https) -> usize {
        client.idle.lock().unwrap().len()
    }

    #[tokio::test]
    async fn a_connection_is_used_again() {
        let (client, url) = (client(), server(&[&[OK, OK]]).await);
        for _ in 0..2 {
            assert_eq!(get(&client, &url).await.unwrap(), (200, b"ok".to_vec()));
            assert_eq!(kept(&client), 1);
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_not() {
        let (client, url) = (client(), server(&[&[OK, HANG_UP], &[OK]]).await);
        get(&client, &url).await.unwrap();
        // It may have been noticed at once.
        let idle = client.idle.lock().unwrap().pop();
        if let Some(mut idle) = idle {
            let closed = async {
                while idle.connection.is_ready().await {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(WITHIN, closed).await.unwrap();
            client.idle.lock().unwrap().push(idle);
        }
        assert_eq!(get(&client, &url).await.unwrap().0, 200);
    }

    #[tokio::test]
    async fn one_that_closes_before_it_has_the_request_is_told_of() {
        let (client, url) = (client(), server(&[&[OK], &[HANG_UP_ON_OTHERS, OK]]).await);
        let origin = Origin::of(&url.parse().unwrap()).unwrap();
        let request = || http::Request::get("/").header(HOST, "localhost").body(SdkBody::empty()).unwrap();
        let mut closed = client.connect(&origin, WITHIN).await.unwrap();
        closed.exchange(request()).await.unwrap();
        // Whoever hears from the second connection has heard of the end of the first.
        client.connect(&origin, WITHIN).await.unwrap().exchange(request()).await.unwrap();
        let exchanged = tokio::time::timeout(WITHIN, closed.exchange(request())).await.unwrap();
        assert!(exchanged.unwrap_err().is_io());
    }

    #[tokio::test]
    async fn nor_is_one_that_is_old_or_for_somebody_else() {
        let (client, url, other) = (client(), server(&[&[OK], &[OK]]).await, server(&[&[OK]]).await);
        get(&client, &url).await.unwrap();
        get(&client, &other).await.unwrap();
        assert_eq!(kept(&client), 2);
        for idle in client.idle.lock().unwrap().iter_mut() {
            idle.since = Instant::now().checked_sub(MAX_IDLE).unwrap();
        }
        get(&client, &url).await.unwrap();
        assert_eq!(kept(&client), 2, "the old one went, a new one came, the other's stayed");
    }

    #[tokio::test]
    async fn what_is_closed_or_in_trouble_is_not_kept() {
        const CLOSED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const TROUBLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let (client, url) = (client(), server(&[&[CLOSED], &[TROUBLE]]).await);
        for status in [200, 503] {
            assert_eq!(get(&client, &url).await.unwrap().0, status);
            assert_eq!(kept(&client), 0, "{status}");
        }
    }

    #[tokio::test]
    async fn a_request_that_was_given_up_takes_its_connection_along() {
        let (client, url) = (client(), server(&[&[OK], &[OK]]).await);
        get(&client, &url).await.unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(1), get(&client, &url)).await;
        assert!(given_up.is_err());
        assert_eq!(kept(&client), 0);
        assert_eq!(get(&client, &url).await.unwrap().0, 200);
    }

    #[tokio::test]
    async fn the_sdk_is_told_what_may_be_tried_again() {
        let client = client();
        let transient = Some(ErrorKind::TransientError);
        let broken = server(&[&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbro", HANG_UP]]).await;
        assert!(get(&client, &broken).await.unwrap_err().is_io());
        let error = get(&client, &server(&[&["nonsense\r\n\r\n"]]).await).await.unwrap_err();
        assert!(error.is_other() && error.as_other().is_none(), "{error:?}");
        let error = get(&client, &server(&[&[HANG_UP]]).await).await.unwrap_err();
        assert!(error.is_io() || error.as_other() == transient, "{error:?}");
        assert!(get(&client, "ftp://localhost").await.unwrap_err().is_user());
    }

    #[tokio::test]
    async fn a_service_that_cannot_be_connected_to_is_named() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = get(&client(), &format!("http://{unused}")).await.unwrap_err();
        assert!(error.is_io());
        let told = crate::aws::causes(&*error.into_source());
        assert!(told.starts_with(&format!("no connection to {unused}: ")) && told.contains("refused"), "{told}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap();
        let request = Request::get(format!("https://{silent}")).unwrap();
        let error = client().exchange(request, Duration::from_millis(20)).await.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(error.into_source().to_string(), format!("no connection to {silent} within 20 ms"));
    }

    #[test]
    fn hosts_are_written_without_the_schemes_own_port() {
        for (uri, expected) in [
            ("https://dynamodb.eu-west-1.amazonaws.com/", ("dynamodb.eu-west-1.amazonaws.com", 443, None)),
            ("https://localhost:443", ("localhost", 443, Some("localhost"))),
            ("https://localhost:8000", ("localhost", 8000, Some("localhost:8000"))),
            ("http://localhost/path?query", ("localhost", 80, None)),
            ("http://[::1]:8000", ("::1", 8000, Some("[::1]:8000"))),
        ] {
            let origin = Origin::of(&uri.parse().unwrap()).unwrap();
            let (host, port, authority) = expected;
            assert_eq!((origin.host.as_str(), origin.port), (host, port));
            assert_eq!(origin.authority, authority.unwrap_or(host));
            assert_eq!(origin.is_secure, uri.starts_with("https"));
        }
        assert!(Origin::of(&"/path".parse().unwrap()).is_err());
    }
}
