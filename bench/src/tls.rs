//! TLS in front of the embedded services, with a throw-away CA. Plain HTTP would hide most of a cold start.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use sandbox::server::{ServerHandle, listen};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// A CA for one run, and the certificate that it issued for `localhost`. Its key is not kept.
#[derive(Clone)]
pub struct Authority {
    bundle: PathBuf,
    acceptor: TlsAcceptor,
}

/// An HTTP service behind TLS; it ends when this is dropped.
#[derive(Debug)]
pub struct TlsEndpoint {
    server: ServerHandle,
}

impl Authority {
    /// Creates the CA, and writes its certificate to the file `bundle`.
    pub fn create(bundle: &Path) -> anyhow::Result<Self> {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "bench, for one run");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate()?;
        let root = ca.self_signed(&ca_key)?;
        let mut leaf = CertificateParams::new(["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()])?;
        leaf.use_authority_key_identifier_extension = true;
        let leaf_key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key))?;
        fs::write(bundle, root.pem()).with_context(|| format!("{} cannot be written", bundle.display()))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone(), root.der().clone()], key)?;
        Ok(Self { bundle: bundle.to_owned(), acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The file of the root certificate that functions trust.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Serves the HTTP service at `upstream` over TLS.
    pub async fn serve(&self, what: &'static str, upstream: &str) -> anyhow::Result<TlsEndpoint> {
        let upstream: SocketAddr = upstream.trim_start_matches("http://").parse()?;
        let acceptor = self.acceptor.clone();
        let server = ServerHandle::start(listen(what, 0).await?, move |listener, stop| async move {
            tokio::select! {
                () = stop => {}
                () = accept(&listener, &acceptor, upstream) => {}
            }
        })?;
        Ok(TlsEndpoint { server })
    }
}

impl TlsEndpoint {
    /// The base URL: `https://localhost:<port>`.
    pub fn url(&self) -> String {
        self.server.url().replace("http://127.0.0.1", "https://localhost")
    }
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, upstream: SocketAddr) {
    loop {
        // A broken connection shows in the function's response.
        if let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = forward(connection, &acceptor, upstream).await;
            });
        }
    }
}

async fn forward(connection: TcpStream, acceptor: &TlsAcceptor, upstream: SocketAddr) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut secure = acceptor.accept(connection).await?;
    let mut plain = TcpStream::connect(upstream).await?;
    plain.set_nodelay(true)?;
    copy_bidirectional(&mut secure, &mut plain).await?;
    Ok(())
}
