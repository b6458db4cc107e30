//! Listening on loopback, and serving until asked to stop.

use std::{future::Future, net::Ipv4Addr};

use axum::Router;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("port {port} for {what} cannot be used ({source}): choose another one, or leave it out for a free one")]
pub struct PortTaken {
    what: &'static str,
    port: u16,
    source: std::io::Error,
}

/// Listens on loopback; port 0 is any free one.
pub async fn listen(what: &'static str, port: u16) -> Result<TcpListener, PortTaken> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|source| PortTaken { what, port, source })
}

/// A service on loopback. It ends when this is dropped.
#[derive(Debug)]
pub struct ServerHandle {
    url: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ServerHandle {
    /// Serves `router` on `listener`.
    pub fn router(listener: TcpListener, router: Router) -> std::io::Result<Self> {
        Self::start(listener, |listener, stop| async move {
            // Serving ends with the stop signal; a failure to accept is retried within.
            let _ = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        })
    }

    /// Runs `serve`, which is given the listener and a future that ends when it is to stop.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        listener: TcpListener,
        serve: impl FnOnce(TcpListener, Stop) -> F,
    ) -> std::io::Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, mut stopped) = watch::channel(false);
        let wait: Stop = Box::pin(async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
        Ok(Self { url, stop, task: tokio::spawn(serve(listener, wait)) })
    }

    /// Its base URL, `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.task.abort();
    }
}

/// Ends when a service is to stop.
pub type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
