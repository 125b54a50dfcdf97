//! TLS: who is trusted, what is spoken, and certificates that are replaced.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;

use rcgen::SanType;
use rustls::{ProtocolVersion, version};
use weightvane::daemon::http::Limits;
use weightvane::metrics::Rejection;

use super::certificates::Authority;
use super::client::{self, Client};
use super::{Place, TLS, rejected, serve_file, status, wait_for};

#[test]
fn a_client_that_trusts_the_authority_is_served_and_no_other() {
    let place = Place::new();
    let client = place.certificate();
    let server = place.serve(TLS);
    let address = server.address();
    assert_eq!(server.url(), format!("https://{address}"));
    for (speaks, expected) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut stream = client.speaking(speaks).connect(address);
        let answer = client::ask(&mut stream, "/metrics", "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(stream.conn.protocol_version(), Some(expected));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]), "without HTTP/2");
    }
    let stranger = Client::trusting(&Authority::new("another"));
    let error = stranger.get(address, "/metrics").unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    wait_for("the failed handshake", || (rejected(&server, Rejection::Tls) == 1).then_some(()));
}

#[test]
fn who_forgets_tls_is_told() {
    let place = Place::new();
    place.certificate();
    let server = place.serve(TLS);
    let answer = client::get(server.address(), "/metrics", "").unwrap();
    assert_eq!((answer.status, answer.text()), (400, "TLS is needed: ask https://\n"));
}

/// A `ClientHello` of TLS 1.`minor`, with all that an answer to 1.2 needs.
fn hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor + 1];
    body.extend([7; 32]);
    // No session; one suite, ECDHE-ECDSA with AES-128; no compression.
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // P-256 with SHA-256 for signatures, X25519.
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 29];
    body.extend([0, 16]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}

#[test]
fn older_versions_are_refused() {
    let place = Place::new();
    place.certificate();
    let server = place.serve(TLS);
    let answer = |minor: u8| {
        let mut stream = client::connect(server.address());
        stream.write_all(&hello(minor)).unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        answer
    };
    assert_eq!(answer(2)[0], 0x16, "a handshake goes on");
    // A fatal alert, protocol_version.
    for minor in [0, 1] {
        let answer = answer(minor);
        assert_eq!((answer[0], &answer[5..]), (0x15, &[2, 70][..]), "TLS 1.{minor}");
    }
}

#[test]
fn versions_suites_and_curves_are_as_wanted() {
    let place = Place::new();
    let client = place.certificate();
    let both = |more: &str| {
        let server = place.serve(&TLS.replace('}', &format!(", {more}}}")));
        [&version::TLS12, &version::TLS13].map(|version| {
            let mut stream = client.speaking(version).connect(server.address());
            client::ask(&mut stream, "/metrics", "").ok()?;
            let suite = format!("{:?}", stream.conn.negotiated_cipher_suite()?.suite());
            let group = format!("{:?}", stream.conn.negotiated_key_exchange_group()?.name());
            Some((suite, group))
        })
    };
    let [old, new] = both("min_version: TLS13");
    assert!(old.is_none() && new.is_some());
    let [old, new] = both("max_version: TLS12");
    assert!(old.is_some() && new.is_none());
    let chosen = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    let [old, new] = both(&format!("cipher_suites: [{chosen}], curve_preferences: [CurveP384]"));
    assert_eq!(old, Some((chosen.to_owned(), "secp384r1".to_owned())));
    assert_eq!(new.unwrap().1, "secp384r1");
    // None for an ECDSA key.
    let [old, new] = both("cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]");
    assert!(old.is_none() && new.is_some());
}

#[test]
fn a_certificate_may_stand_in_the_file() {
    let place = Place::new();
    let client = place.certificate();
    let inline = |name: &str| {
        let text = fs::read_to_string(place.path(name)).unwrap();
        text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n") + "\n"
    };
    let (certificate, key) = (inline("server.crt"), inline("server.key"));
    let web = format!("tls_server_config:\n  cert: |\n{certificate}  key: |\n{key}");
    let server = place.serve(&web);
    assert_eq!(status(client.get(server.address(), "/metrics")), 200);
}

#[test]
fn certificates_of_clients_are_asked_for() {
    let place = Place::new();
    let client = place.certificate();
    let clients = Authority::new("clients");
    place.write("clients.crt", clients.pem());
    let tls = |kind: &str, more: &str| {
        let server = place.serve(&format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  \
             client_ca_file: clients.crt\n  client_auth_type: {kind}\n{more}"
        ));
        move |client: &Client| client.get(server.address(), "/metrics").map(|r| r.status).ok()
    };
    let named = client.showing(clients.issue(&["prometheus.example"]));
    let other = client.showing(clients.issue(&["other.example"]));
    let address = SanType::IpAddress("2001:db8::1".parse::<IpAddr>().unwrap());
    let by_address = client.showing(clients.issue_for(vec![address]));
    let stranger = client.showing(Authority::new("strangers").issue(&["prometheus.example"]));
    let asks = tls("RequireAndVerifyClientCert", "");
    assert_eq!([&named, &other].map(&asks), [Some(200); 2]);
    assert_eq!([&client, &stranger].map(&asks), [None; 2]);
    let asks = tls("VerifyClientCertIfGiven", "");
    assert_eq!([&named, &client].map(&asks), [Some(200); 2]);
    assert_eq!(asks(&stranger), None);
    let sans = "  client_allowed_sans: [prometheus.example, '2001:DB8:0::1']\n";
    let asks = tls("RequireAndVerifyClientCert", sans);
    assert_eq!([&named, &by_address].map(&asks), [Some(200); 2]);
    assert_eq!([&client, &stranger, &other].map(&asks), [None; 3]);
    let old = |client: &Client| asks(&client.speaking(&version::TLS12));
    assert_eq!((old(&named), old(&other)), (Some(200), None));
}

#[test]
fn a_certificate_that_is_replaced_is_shown_to_the_next_client() {
    let place = Place::new();
    let old = place.certificate();
    let web = place.write("web.yml", TLS);
    let server = serve_file(&web, Limits::default());
    let address = server.address();
    assert_eq!(status(old.get(address, "/metrics")), 200);
    // Nobody is told: it is found by the look that is taken every few seconds. First the one, then
    // the other, as they are copied: in between the old ones stay in force.
    let (certificate, key) =
        ["server.crt", "server.key"].map(|name| fs::read(place.path(name)).unwrap()).into();
    let new = place.certificate();
    let new_key = fs::read(place.path("server.key")).unwrap();
    fs::write(place.path("server.key"), &key).unwrap();
    wait_for("the key that does not fit to be noticed", || {
        (!server.access().is_current()).then_some(())
    });
    assert_eq!(status(old.get(address, "/metrics")), 200);
    fs::write(place.path("server.key"), new_key).unwrap();
    wait_for("the new certificate", || new.get(address, "/metrics").ok());
    assert!(server.access().is_current() && old.get(address, "/metrics").is_err());
    // When asked, at once; by another name for the same file as well.
    fs::remove_file(place.path("server.crt")).unwrap();
    fs::write(place.path("next.crt"), certificate).unwrap();
    std::os::unix::fs::symlink("next.crt", place.path("server.crt")).unwrap();
    fs::write(place.path("server.key"), key).unwrap();
    server.read_again();
    wait_for("the old certificate", || old.get(address, "/metrics").ok());
    // A file that is broken or gone changes nothing but the gauge.
    fs::write(&web, "tls_server_config: [").unwrap();
    server.read_again();
    wait_for("the broken file to be noticed", || (!server.access().is_current()).then_some(()));
    fs::remove_file(&web).unwrap();
    server.read_again();
    assert_eq!(status(old.get(address, "/metrics")), 200);
    fs::write(&web, "{}\n").unwrap();
    server.read_again();
    wait_for("plain HTTP", || {
        client::get(address, "/metrics", "").ok().filter(|r| r.status == 200)
    });
    assert!(server.access().is_current());
    assert_eq!(server.url(), format!("http://{address}"));
}
