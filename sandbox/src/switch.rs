//! A switch in front of a server, for outages.

use std::io;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Forwards connections to a server. Switched off, it closes those that are open and each new one.
#[derive(Debug)]
pub struct Switch {
    url: String,
    is_on: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Switch {
    /// Forwards to `server`, a base URL such as `http://127.0.0.1:9000`.
    pub fn serve(listener: TcpListener, server: &str) -> io::Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let server = server.trim_start_matches("http://").to_owned();
        let (is_on, state) = watch::channel(true);
        Ok(Self { url, is_on, _task: JoinSet::from_iter([accept(listener, server, state)]) })
    }

    /// The base URL: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server is unavailable from now on: nothing that is sent later reaches it.
    pub fn off(&self) {
        self.is_on.send_replace(false);
    }

    /// The server is available from now on.
    pub fn on(&self) {
        self.is_on.send_replace(true);
    }
}

async fn accept(listener: TcpListener, server: String, state: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, server.clone(), state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(mut client: TcpStream, server: String, mut state: watch::Receiver<bool>) {
    tokio::select! {
        // It is looked at before each byte is copied.
        biased;
        _ = state.wait_for(|is_on| !is_on) => {}
        () = async {
            if let Ok(mut server) = TcpStream::connect(server).await {
                // Either side may break off.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        } => {}
    }
}
