//! A client that speaks HTTP with or without TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

use super::certificates::{self, Authority};

/// What a client trusts, shows and speaks.
#[derive(Clone)]
pub(crate) struct Client {
    roots: Arc<RootCertStore>,
    identity: Option<(String, String)>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

pub(crate) type Encrypted = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    pub(crate) fn trusting(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let versions = vec![&version::TLS12, &version::TLS13];
        Self { roots: Arc::new(roots), identity: None, versions }
    }

    /// The same with a certificate of its own.
    pub(crate) fn showing(&self, identity: (String, String)) -> Self {
        Self { identity: Some(identity), ..self.clone() }
    }

    /// The same with one version alone.
    pub(crate) fn speaking(&self, version: &'static SupportedProtocolVersion) -> Self {
        Self { versions: vec![version], ..self.clone() }
    }

    /// A connection whose handshake is still to come.
    pub(crate) fn connect(&self, address: SocketAddr) -> Encrypted {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match self.identity.as_ref().map(certificates::parsed) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        // As browsers and Prometheus do.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = "localhost".try_into().unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(address))
    }

    pub(crate) fn get(&self, address: SocketAddr, path: &str) -> io::Result<Response> {
        self.ask(address, path, "")
    }

    pub(crate) fn ask(&self, address: SocketAddr, path: &str, more: &str) -> io::Result<Response> {
        ask(&mut self.connect(address), path, more)
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream
}

/// A GET without TLS.
pub(crate) fn get(address: SocketAddr, path: &str, more: &str) -> io::Result<Response> {
    ask(&mut connect(address), path, more)
}

/// The header of a user and a password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A GET after which the connection is closed; `more` are lines of the header.
pub(crate) fn ask(
    stream: &mut (impl Read + Write),
    path: &str,
    more: &str,
) -> io::Result<Response> {
    let host = if more.to_ascii_lowercase().contains("host:") { "" } else { "host: localhost\r\n" };
    let request = format!("GET {path} HTTP/1.1\r\n{host}connection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or_else(|| io::Error::other(format!("no answer: {bytes:?}")))?;
    let head = String::from_utf8(bytes[..end].to_vec()).map_err(io::Error::other)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status: {head}")))?;
    Ok(Response { status, head, body: bytes[end + 4..].to_vec() })
}
