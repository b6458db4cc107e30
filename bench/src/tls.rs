//! TLS in front of the embedded services, under a throw-away CA: over plain HTTP most of a cold start would not show.

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

/// A CA made for this run, and the certificate it gave to `localhost`. Its key is kept nowhere.
#[derive(Clone)]
pub struct Authority {
    bundle: PathBuf,
    acceptor: TlsAcceptor,
}

/// A service behind TLS; it ends when this is dropped.
#[derive(Debug)]
pub struct ApiGateway {
    served: ServerHandle,
}

impl Authority {
    /// Makes it; `bundle` is the file of roots that functions are told to trust.
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

    /// The file of roots to trust.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Serves the HTTP service at `upstream` over TLS.
    pub async fn front(&self, what: &'static str, upstream: &str) -> anyhow::Result<ApiGateway> {
        let upstream: SocketAddr = upstream.trim_start_matches("http://").parse()?;
        let acceptor = self.acceptor.clone();
        let served = ServerHandle::start(listen(what, 0).await?, move |listener, stop| async move {
            tokio::select! {
                () = stop => {}
                () = accept(&listener, &acceptor, upstream) => {}
            }
        })?;
        Ok(ApiGateway { served })
    }
}

impl ApiGateway {
    /// Its base URL, `https://localhost:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        self.served.url().replace("http://127.0.0.1", "https://localhost")
    }
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, upstream: SocketAddr) {
    loop {
        // What goes wrong with one connection is its client's to notice: the function's answer tells of it.
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
