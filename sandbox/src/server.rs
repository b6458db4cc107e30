//! HTTP servers on loopback.

use std::{
    future::Future,
    io,
    net::Ipv4Addr,
    pin::{Pin, pin},
};

use anyhow::anyhow;
use axum::Router;
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
    task::JoinSet,
};

/// Listens on a port of loopback, or on a free one for port 0.
pub async fn listen(service: &str, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        anyhow!("cannot listen on port {port} for {service}: {error}; choose another port, or 0 for a free one")
    })
}

/// A server on loopback. It stops when this is dropped.
#[derive(Debug)]
pub struct ServerHandle {
    url: String,
    _stop: oneshot::Sender<()>,
    /// Dropping it stops the task, and the listener with it.
    _task: JoinSet<()>,
}

impl ServerHandle {
    /// Serves `router`.
    pub fn router(listener: TcpListener, router: Router) -> io::Result<Self> {
        Self::start(listener, |listener, stop| async move {
            // axum retries when it fails to accept a connection; it returns after the stop signal only.
            let _ = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        })
    }

    /// Runs `serve`, which gets the listener and the stop signal.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        listener: TcpListener,
        serve: impl FnOnce(TcpListener, Stop) -> F,
    ) -> io::Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        let stopped: Stop = Box::pin(async move {
            // Nothing is ever sent: the sender is dropped.
            let _ = stopped.await;
        });
        let task = JoinSet::from_iter([serve(listener, stopped)]);
        Ok(Self { url, _stop: stop, _task: task })
    }

    /// The base URL: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Waits until `holds` is true. It looks after every notification of `changed`.
pub(crate) async fn wait_until(changed: &Notify, mut holds: impl FnMut() -> bool) {
    loop {
        let mut next = pin!(changed.notified());
        next.as_mut().enable();
        if holds() {
            return;
        }
        next.await;
    }
}

/// The stop signal of a server: a future that ends when the server has to stop.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;
