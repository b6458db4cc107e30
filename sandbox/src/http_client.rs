//! The HTTP client of the simulators and the tests.

use std::io;

use reqwest::{Client, redirect::Policy};
use rustls::{ClientConfig, RootCertStore};

/// A client for plain HTTP on loopback. It follows no redirects.
pub fn http_client() -> io::Result<Client> {
    // reqwest does not build a client without TLS. This one trusts nobody.
    let tls = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    Client::builder().tls_backend_preconfigured(tls).redirect(Policy::none()).build().map_err(io::Error::other)
}
