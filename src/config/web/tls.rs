//! `tls_server_config`: certificates, versions and suites to what rustls speaks. What it cannot do is
//! refused.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};
use serde::Deserialize;

use super::super::ConfigError;
use super::super::place::Place;
use super::client;
use super::file::{ReadFile, read};

/// Most bytes of a file of certificates; all authorities of a distribution take a quarter.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Suites of TLS 1.2 under the names that Go gives them.
const SUITES: [(&str, CipherSuite); 6] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Suites of TLS 1.3. As in Go, a list may name them and they are always there.
const SUITES_13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

const CURVES: [(&str, &dyn SupportedKxGroup); 3] = [
    ("X25519", ring::kx_group::X25519),
    ("CurveP256", ring::kx_group::SECP256R1),
    ("CurveP384", ring::kx_group::SECP384R1),
];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsWire {
    cert: Option<String>,
    cert_file: Option<PathBuf>,
    key: Option<String>,
    key_file: Option<PathBuf>,
    client_auth_type: Option<String>,
    client_ca: Option<String>,
    client_ca_file: Option<PathBuf>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Option<Vec<String>>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Option<Vec<String>>,
}

impl std::fmt::Debug for TlsWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsWire")
    }
}

/// Bytes of PEM, and what to call them in errors.
struct Pem {
    key: &'static str,
    name: String,
    bytes: Vec<u8>,
}

/// What stands in the file or in a file that it names; empty is the same as absent.
fn pem(
    (inline_key, inline): (&'static str, Option<String>),
    (file_key, file): (&'static str, Option<PathBuf>),
    at: &Place<'_>,
    files: &mut Vec<ReadFile>,
) -> Result<Option<Pem>, ConfigError> {
    let inline = inline.filter(|text| !text.is_empty());
    match (inline, file.filter(|file| !file.as_os_str().is_empty())) {
        (Some(_), Some(_)) => {
            Err(at.error(file_key, format!("found {inline_key} as well, expected one of the two")))
        }
        (Some(text), None) => {
            Ok(Some(Pem { key: inline_key, name: inline_key.to_owned(), bytes: text.into_bytes() }))
        }
        (None, Some(file)) => {
            let path = at.path.parent().unwrap_or(Path::new("")).join(file);
            let (bytes, file) = read(&path, MAX_PEM_BYTES).map_err(|error| {
                let found = format!("{}: cannot be read: {error}, expected PEM", path.display());
                at.error(file_key, found)
            })?;
            files.push(file);
            let name = path.display().to_string();
            Ok(Some(Pem { key: file_key, name, bytes }))
        }
        (None, None) => Ok(None),
    }
}

impl Pem {
    fn error(&self, at: &Place<'_>, message: &str) -> ConfigError {
        at.error(self.key, format!("{}: {message}", self.name))
    }

    fn certificates(&self, at: &Place<'_>) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            _ => Err(self.error(at, "found no certificate, expected PEM with BEGIN CERTIFICATE")),
        }
    }
}

impl TlsWire {
    fn is_empty(&self) -> bool {
        let Self {
            cert,
            cert_file,
            key,
            key_file,
            client_auth_type,
            client_ca,
            client_ca_file,
            client_allowed_sans,
            min_version,
            max_version,
            cipher_suites,
            prefer_server_cipher_suites,
            curve_preferences,
        } = self;
        let lists = [client_allowed_sans, cipher_suites, curve_preferences];
        let texts = [cert, key, client_auth_type, client_ca, min_version, max_version];
        lists.iter().all(|list| list.is_none())
            && texts.iter().all(|text| text.is_none())
            && [cert_file, key_file, client_ca_file].iter().all(|file| file.is_none())
            && prefer_server_cipher_suites.is_none()
    }

    /// What rustls is to speak, and which files were read; `None` where nothing of TLS is said.
    pub(super) fn checked(
        mut self,
        at: &Place<'_>,
        files: &mut Vec<ReadFile>,
    ) -> Result<Option<ServerConfig>, ConfigError> {
        if self.is_empty() {
            return Ok(None);
        }
        let chain =
            pem(("cert", self.cert.take()), ("cert_file", self.cert_file.take()), at, files)?;
        let key = pem(("key", self.key.take()), ("key_file", self.key_file.take()), at, files)?;
        let (Some(chain), Some(key)) = (chain, key) else {
            let message = "found no certificate or no key, expected cert_file and key_file";
            return Err(at.error("tls_server_config", message.into()));
        };
        let certificates = chain.certificates(at)?;
        let secret = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|_| {
            key.error(at, "found no private key, expected PEM with BEGIN … PRIVATE KEY")
        })?;
        let provider = Arc::new(self.provider(at)?);
        let versions = self.versions(at)?;
        let verifier = self.verifier(&provider, at, files)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| {
                at.error("cipher_suites", format!("{error}, expected a suite of TLS 1.2"))
            })?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certificates, secret).map_err(|error| {
            let message = format!("{error}, expected the key of the certificate in {}", chain.name);
            key.error(at, &message)
        })?;
        config.ignore_client_order = self.prefer_server_cipher_suites.unwrap_or(true);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(config))
    }

    fn versions(
        &self,
        at: &Place<'_>,
    ) -> Result<Vec<&'static SupportedProtocolVersion>, ConfigError> {
        let version = |key, given: &Option<String>, default| match given.as_deref() {
            None | Some("") => Ok(default),
            Some("TLS12") => Ok(2),
            Some("TLS13") => Ok(3),
            Some(found) => Err(at.error(key, format!("found `{found}`, expected TLS12 or TLS13"))),
        };
        let least = version("min_version", &self.min_version, 2)?;
        let most = version("max_version", &self.max_version, 3)?;
        if least > most {
            return Err(
                at.error("max_version", "found TLS12, expected no less than min_version".into())
            );
        }
        let all = [(2, &TLS12), (3, &TLS13)];
        Ok(all.into_iter().filter(|(n, _)| (least..=most).contains(n)).map(|(_, v)| v).collect())
    }

    /// The suites and curves that are wanted, in that order.
    fn provider(&self, at: &Place<'_>) -> Result<CryptoProvider, ConfigError> {
        let mut provider = ring::default_provider();
        if let Some(names) = self.cipher_suites.as_ref().filter(|names| !names.is_empty()) {
            let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
            let (mut suites, others): (Vec<_>, Vec<_>) =
                provider.cipher_suites.into_iter().partition(is_13);
            for name in names {
                let known = SUITES.iter().find(|(known, _)| known == name);
                match known.and_then(|(_, id)| others.iter().find(|suite| suite.suite() == *id)) {
                    Some(suite) => suites.push(*suite),
                    None if SUITES_13.contains(&name.as_str()) => {}
                    None => {
                        return Err(at.error("cipher_suites", unknown(name, &SUITES.map(|s| s.0))));
                    }
                }
            }
            provider.cipher_suites = suites;
        }
        if let Some(names) = self.curve_preferences.as_ref().filter(|names| !names.is_empty()) {
            let group = |name: &String| {
                let known = CURVES.iter().find(|(known, _)| known == name);
                let message = || unknown(name, &CURVES.map(|curve| curve.0));
                known
                    .map(|(_, group)| *group)
                    .ok_or_else(|| at.error("curve_preferences", message()))
            };
            provider.kx_groups = names.iter().map(group).collect::<Result<_, _>>()?;
        }
        Ok(provider)
    }

    fn verifier(
        &mut self,
        provider: &Arc<CryptoProvider>,
        at: &Place<'_>,
        files: &mut Vec<ReadFile>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, ConfigError> {
        let kind = self.client_auth_type.take().unwrap_or_default();
        let wanted = match kind.as_str() {
            "" | "NoClientCert" => None,
            "VerifyClientCertIfGiven" => Some(true),
            "RequireAndVerifyClientCert" => Some(false),
            found => {
                let why = match found {
                    "RequestClientCert" | "RequireAnyClientCert" | "RequireClientCert" => {
                        ", with which nobody checks a certificate"
                    }
                    _ => "",
                };
                let expected =
                    "expected NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert";
                return Err(
                    at.error("client_auth_type", format!("found `{found}`{why}, {expected}"))
                );
            }
        };
        let (text, file) = (self.client_ca.take(), self.client_ca_file.take());
        let ca = pem(("client_ca", text), ("client_ca_file", file), at, files)?;
        let names = self.client_allowed_sans.take().unwrap_or_default();
        if !names.is_empty() && wanted != Some(false) {
            let message =
                "found without RequireAndVerifyClientCert, expected it as client_auth_type";
            return Err(at.error("client_allowed_sans", message.into()));
        }
        let (is_optional, ca) = match (wanted, ca) {
            (None, None) => return Ok(None),
            (Some(is_optional), Some(ca)) => (is_optional, ca),
            (None, Some(ca)) => {
                return Err(ca.error(
                    at,
                    "found without client_auth_type, expected RequireAndVerifyClientCert",
                ));
            }
            (Some(_), None) => {
                let message = format!("found `{kind}` without client_ca_file, expected both");
                return Err(at.error("client_auth_type", message));
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in ca.certificates(at)? {
            roots.add(certificate).map_err(|error| ca.error(at, &error.to_string()))?;
        }
        // However an address is written, it is compared as the one of the certificate is.
        let plain =
            |name: String| name.parse::<IpAddr>().map_or(name, |address| address.to_string());
        let names: BTreeSet<String> = names.into_iter().map(plain).collect();
        let built = client::verifier(roots, is_optional, names, provider);
        built.map(Some).map_err(|error| ca.error(at, &error.to_string()))
    }
}

fn unknown(found: &str, known: &[&str]) -> String {
    format!("found `{found}`, expected {}", known.join(", "))
}
