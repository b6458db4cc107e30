//! The HTTP client under the AWS SDK: HTTP/1.1 on hyper-util's pooling client, with TLS by rustls on ring.
//!
//! The SDK's own client brings HTTP/2 and proxies, a tenth of a function's code. This connector has what a function needs.
//!
//! Invariants: a connection serves one request at a time. A request that fails, or whose caller gives up on it, discards all
//! idle connections to its host, so that the next attempt opens a new one. Connections die unnoticed while an execution
//! environment is frozen, and they die together.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use aws_smithy_runtime_api::client::{
    http::{self as smithy, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::{body::SdkBody, retry::ErrorKind};
use http::{
    Uri,
    uri::{Authority, Scheme},
};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{self, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, ring},
};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::errors::causes;

/// DynamoDB's and Secrets Manager's responses are far smaller.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;
/// A connection that was idle for longer may have been closed by its server without our notice.
const MAX_IDLE: Duration = Duration::from_mins(1);

/// A client with one connection pool per host. Clones share it.
#[derive(Clone)]
pub struct HttpClient {
    connector: TimedConnector,
    pools: Arc<Mutex<HashMap<Authority, Pool>>>,
    max_idle: Duration,
}

type Pool = Client<TimedConnector, SdkBody>;

impl HttpClient {
    /// Trusts certificates under `roots`. A connection, its TLS handshake included, is established within `connect_timeout`
    /// or fails.
    ///
    /// # Errors
    /// The cipher suites do not fit the versions of TLS. With those below this cannot happen.
    pub fn new(roots: RootCertStore, connect_timeout: Duration) -> Result<Self, rustls::Error> {
        let provider = CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..ring::default_provider() };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = TimedConnector { https: HttpsConnector::from((tcp, tls)), timeout: connect_timeout };
        Ok(Self { connector, pools: Arc::default(), max_idle: MAX_IDLE })
    }

    /// Drops the idle connections to `host`: the next request opens a new one.
    pub fn discard_idle(&self, host: &Authority) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    fn pool(&self, host: &Authority) -> Pool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(host) {
            return pool.clone();
        }
        let pool = Client::builder(TokioExecutor::new()).pool_idle_timeout(self.max_idle).build(self.connector.clone());
        pools.insert(host.clone(), pool.clone());
        pool
    }

    async fn exchange(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let host = host_of(request.uri()).map_err(|error| ConnectorError::user(error.into()))?;
        let pool = self.pool(&host);
        let mut discard = DiscardIdle { client: &self, host: Some(host) };
        let (parts, body) = pool.request(request).await.map_err(|error| connector_error(&error))?.into_parts();
        let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await.map_err(|error| match error.downcast() {
            Ok(error) => hyper_error(&error, causes(&*error).into()),
            Err(error) => ConnectorError::other(error, None),
        })?;
        // A server that is in trouble is asked again on another connection.
        if !parts.status.is_server_error() {
            discard.host = None;
        }
        let response = http::Response::from_parts(parts, SdkBody::from(body.to_bytes()));
        HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

/// Discards a host's idle connections when dropped, also when the request's caller gives up, unless the host was taken out.
struct DiscardIdle<'c> {
    client: &'c HttpClient,
    host: Option<Authority>,
}

impl Drop for DiscardIdle<'_> {
    fn drop(&mut self) {
        if let Some(host) = &self.host {
            self.client.discard_idle(host);
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an http or https URL with a host")]
struct InvalidUrl(Uri);

fn host_of(uri: &Uri) -> Result<Authority, InvalidUrl> {
    let is_http = uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    uri.authority().filter(|_| is_http).cloned().ok_or_else(|| InvalidUrl(uri.clone()))
}

/// AWS's servers choose these too. The first one costs least: SHA-256 is in the processor, SHA-384 is not.
const CIPHER_SUITES: [rustls::SupportedCipherSuite; 6] = [
    ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// Connects within a time limit, and names the host in its errors.
#[derive(Clone)]
struct TimedConnector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("no connection to {host}")]
    Failed {
        host: String,
        #[source]
        cause: Cause,
    },
    #[error("no connection to {host} within {} ms", timeout.as_millis())]
    TimedOut { host: String, timeout: Duration },
}

impl Service<Uri> for TimedConnector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(())) // `HttpConnector` always is
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let (connecting, timeout) = (self.https.call(uri), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected.map_err(|cause| ConnectError::Failed { host, cause }),
                Err(_) => Err(ConnectError::TimedOut { host, timeout }),
            }
        })
    }
}

/// Classifies an error for the SDK, which decides by it whether to try again.
fn connector_error(error: &legacy::Error) -> ConnectorError {
    let source = std::error::Error::source(error);
    if let Some(error) = source.and_then(|source| source.downcast_ref::<ConnectError>()) {
        return match error {
            ConnectError::TimedOut { .. } => ConnectorError::timeout(error.to_string().into()),
            ConnectError::Failed { cause, .. } => ConnectorError::io(format!("{error}: {}", causes(&**cause)).into()),
        };
    }
    match source.and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(hyper) => hyper_error(hyper, causes(error).into()),
        None => ConnectorError::io(causes(error).into()),
    }
}

fn hyper_error(error: &hyper::Error, cause: Cause) -> ConnectorError {
    if error.is_user() {
        ConnectorError::user(cause)
    } else if error.is_parse() {
        ConnectorError::other(cause, None)
    } else if error.is_incomplete_message() {
        ConnectorError::other(cause, Some(ErrorKind::TransientError))
    } else {
        ConnectorError::io(cause)
    }
}

impl smithy::HttpConnector for HttpClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().exchange(request))
    }
}

impl smithy::HttpClient for HttpClient {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::http::Request;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const HANG_UP: &str = "hang up";
    const WITHIN: Duration = Duration::from_secs(5);

    /// A server that responds to the requests of its n-th connection with the n-th script, and then stays silent.
    struct Server {
        url: String,
        accepted: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start(scripts: &'static [&'static [&'static str]]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let accepted = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&accepted);
            tokio::spawn(async move {
                for script in scripts {
                    let (mut connection, _) = listener.accept().await.unwrap();
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(async move {
                        for response in script.iter().filter(|response| **response != HANG_UP) {
                            let mut request = Vec::new();
                            while !request.ends_with(b"\r\n\r\n") {
                                request.push(connection.read_u8().await.unwrap());
                            }
                            connection.write_all(response.as_bytes()).await.unwrap();
                        }
                        if script.last() != Some(&HANG_UP) {
                            std::future::pending::<()>().await;
                        }
                    });
                }
                std::future::pending::<()>().await;
            });
            Self { url, accepted }
        }

        fn connections(&self) -> usize {
            self.accepted.load(Ordering::SeqCst)
        }
    }

    fn client() -> HttpClient {
        HttpClient::new(RootCertStore::empty(), WITHIN).unwrap()
    }

    async fn get(client: &HttpClient, url: &str) -> Result<(u16, Vec<u8>), ConnectorError> {
        let exchange = client.clone().exchange(Request::get(url).unwrap());
        let response = timeout(WITHIN, exchange).await.expect("a response in time")?;
        Ok((response.status().as_u16(), response.body().bytes().unwrap().to_vec()))
    }

    #[tokio::test]
    async fn a_connection_is_used_again() {
        let (client, server) = (client(), Server::start(&[&[OK, OK]]).await);
        for _ in 0..2 {
            assert_eq!(get(&client, &server.url).await.unwrap(), (200, b"ok".to_vec()));
        }
        assert_eq!(server.connections(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closed_is_replaced() {
        let (client, server) = (client(), Server::start(&[&[OK, HANG_UP], &[OK, HANG_UP], &[OK]]).await);
        for connections in 1..=3 {
            assert_eq!(get(&client, &server.url).await.unwrap().0, 200);
            assert_eq!(server.connections(), connections);
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_too_long_is_not_used() {
        let (mut client, server) = (client(), Server::start(&[&[OK, OK], &[OK]]).await);
        client.max_idle = Duration::ZERO;
        get(&client, &server.url).await.unwrap();
        get(&client, &server.url).await.unwrap();
        assert_eq!(server.connections(), 2);
    }

    #[tokio::test]
    async fn every_host_has_connections_of_its_own() {
        let (client, one, other) = (client(), Server::start(&[&[OK, OK]]).await, Server::start(&[&[OK]]).await);
        get(&client, &one.url).await.unwrap();
        get(&client, &other.url).await.unwrap();
        client.discard_idle(&other.url.parse::<Uri>().unwrap().into_parts().authority.unwrap());
        get(&client, &one.url).await.unwrap();
        assert_eq!((one.connections(), other.connections()), (1, 1));
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_or_in_trouble_is_not_used_again() {
        const CLOSED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const TROUBLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let (client, server) = (client(), Server::start(&[&[CLOSED], &[TROUBLE, OK], &[OK]]).await);
        for (status, connections) in [(200, 1), (503, 2), (200, 3)] {
            assert_eq!(get(&client, &server.url).await.unwrap().0, status);
            assert_eq!(server.connections(), connections);
        }
    }

    #[tokio::test]
    async fn a_request_that_was_given_up_takes_its_connection_along() {
        let (client, server) = (client(), Server::start(&[&[OK], &[OK]]).await);
        get(&client, &server.url).await.unwrap();
        timeout(Duration::from_millis(1), get(&client, &server.url)).await.unwrap_err();
        assert_eq!(get(&client, &server.url).await.unwrap().0, 200);
        assert_eq!(server.connections(), 2);
    }

    /// Both connections are open and silent, as after a freeze that outlasted the server's patience.
    #[tokio::test]
    async fn two_dead_pooled_connections_cost_one_attempt() {
        let (client, server) = (client(), Server::start(&[&[OK], &[OK], &[OK]]).await);
        let (one, other) = tokio::join!(get(&client, &server.url), get(&client, &server.url));
        assert_eq!((one.unwrap().0, other.unwrap().0, server.connections()), (200, 200, 2));
        timeout(Duration::from_millis(50), get(&client, &server.url)).await.unwrap_err();
        assert_eq!(get(&client, &server.url).await.unwrap().0, 200);
        assert_eq!(server.connections(), 3);
    }

    #[tokio::test]
    async fn errors_say_whether_the_sdk_may_try_again() {
        let client = client();
        let transient = Some(ErrorKind::TransientError);
        let broken = Server::start(&[&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbro", HANG_UP]]).await;
        let error = get(&client, &broken.url).await.unwrap_err();
        assert!(error.is_io() || error.as_other() == transient, "{error:?}");
        let error = get(&client, &Server::start(&[&["nonsense\r\n\r\n"]]).await.url).await.unwrap_err();
        assert!(error.is_other() && error.as_other().is_none(), "{error:?}");
        let error = get(&client, &Server::start(&[&[HANG_UP]]).await.url).await.unwrap_err();
        assert!(error.is_io() || error.as_other() == transient, "{error:?}");
        assert!(get(&client, "ftp://localhost").await.unwrap_err().is_user());
    }

    #[tokio::test]
    async fn a_service_that_cannot_be_connected_to_is_named() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = get(&client(), &format!("http://{unused}")).await.unwrap_err();
        assert!(error.is_io());
        let text = causes(&*error.into_source());
        assert!(text.starts_with(&format!("no connection to {unused}: ")) && text.contains("refused"), "{text}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap();
        let impatient = HttpClient::new(RootCertStore::empty(), Duration::from_millis(20)).unwrap();
        let error = get(&impatient, &format!("https://{silent}")).await.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(error.into_source().to_string(), format!("no connection to {silent} within 20 ms"));
    }
}
