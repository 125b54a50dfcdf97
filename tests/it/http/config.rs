//! What a web configuration file may say.

use std::net::SocketAddr;

use weightvane::config::WebConfig;

use super::{Place, TLS};

/// A hash of `secret` with cost 4.
pub(super) const HASH: &str = "$2y$04$7SmwNwpNqnT3zW1dYpktvOlClUPTsLB3GiCtshK0JRvCvNK8vqpiO";

fn load(place: &Place, text: &str) -> Result<WebConfig, String> {
    let path = place.write("web.yml", text);
    WebConfig::load(&path)
        .map_err(|error| error.to_string().replace(&*path.to_string_lossy(), "web.yml"))
}

#[test]
fn everything_that_the_exporters_of_prometheus_take_is_taken() {
    let place = Place::new();
    place.certificate();
    for empty in ["", "# nothing\n", "{}\n", "tls_server_config: {}\n", "basic_auth_users:\n"] {
        let config = load(&place, empty).unwrap();
        assert!(config.tls.is_none() && config.users.is_empty(), "{empty}");
    }
    let all = format!(
        "{TLS}http_server_config:\n  http2: false\n  headers:\n    Content-Security-Policy: default-src 'none'\n    \
         Strict-Transport-Security: max-age=1\n    X-Frame-Options: sameorigin\n    \
         X-Content-Type-Options: nosniff\n    X-XSS-Protection: ''\n\
         basic_auth_users:\n  alice: {HASH}\n  bob: {HASH}\nrate_limit: {{interval: 1m30s, burst: 20}}\n"
    );
    let config = load(&place, &all).unwrap();
    assert!(config.tls.is_some() && config.remarks.is_empty());
    assert_eq!((config.users.len(), config.headers.len()), (2, 4));
    let limit = config.rate_limit.unwrap();
    assert_eq!((limit.interval.as_secs(), limit.burst), (90, 20));
    // Absolute paths as they are.
    let there = place.dir.path().display();
    let absolute = format!(
        "tls_server_config: {{cert_file: {there}/server.crt, key_file: {there}/server.key}}\n"
    );
    assert!(load(&place, &absolute).unwrap().tls.is_some());
    // What cannot be had and does no harm is said.
    let config = load(&place, "http_server_config: {http2: true}\n").unwrap();
    assert!(config.remarks.len() == 1 && config.remarks[0].contains("HTTP/1.1"));
    let none = load(&place, "rate_limit: {interval: 0s, burst: 0}\n").unwrap();
    assert!(none.rate_limit.is_none());
    let suites = "cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]";
    assert!(
        load(
            &place,
            &TLS.replace('}', &format!(", {suites}, prefer_server_cipher_suites: false}}"))
        )
        .is_ok()
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_cannot_be_honoured_is_refused_in_one_line() {
    let place = Place::new();
    place.certificate();
    place.write("empty.pem", "nothing\n");
    let other = super::certificates::Authority::new("other");
    place.write("other.key", &other.issue(&["x"]).1);
    place.write("ca.crt", other.pem());
    let check = |text: &str, wanted: &[&str]| {
        let message = load(&place, text).unwrap_err();
        for part in wanted {
            assert!(message.contains(part), "{text:?}: {message:?} lacks {part:?}");
        }
        assert!(message.starts_with("web.yml:") && !message.contains('\n'), "{message:?}");
    };
    let tls = |more: &str| TLS.replace('}', &format!(",\n  {more}}}"));
    check("tls_server_conf: {}\n", &["web.yml:1", "tls_server_conf", "tls_server_config"]);
    check("[]\n", &["key: value"]);
    check(
        "tls_server_config:\n  min_version: TLS13\n",
        &["web.yml:1: tls_server_config", "cert_file"],
    );
    check("tls_server_config: {cert_file: server.crt}\n", &["no key", "key_file"]);
    check(
        "tls_server_config: {cert_file: none.crt, key_file: server.key}\n",
        &["cert_file", "none.crt", "No such file"],
    );
    check(
        "tls_server_config: {cert_file: empty.pem, key_file: server.key}\n",
        &["empty.pem", "BEGIN CERTIFICATE"],
    );
    check(
        "tls_server_config: {cert_file: server.crt, key_file: empty.pem}\n",
        &["empty.pem", "PRIVATE KEY"],
    );
    check(
        "tls_server_config: {cert_file: server.crt, key_file: other.key}\n",
        &["key_file", "other.key", "the key of"],
    );
    check(
        "tls_server_config: {cert_file: ., key_file: server.key}\n",
        &["cert_file", "not a file"],
    );
    check(&tls("cert: x"), &["cert_file", "found cert as well"]);
    check(&tls("min_version: TLS11"), &["web.yml:2: min_version", "`TLS11`", "TLS12 or TLS13"]);
    check(&tls("min_version: TLS13, max_version: TLS12"), &["max_version", "min_version"]);
    check(
        &tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"),
        &["cipher_suites", "AES_128_CBC", "CHACHA20"],
    );
    check(
        &tls("max_version: TLS12, cipher_suites: [TLS_AES_128_GCM_SHA256]"),
        &["cipher_suites", "TLS 1.2"],
    );
    check(&tls("curve_preferences: [CurveP521]"), &["curve_preferences", "CurveP521", "X25519"]);
    check(&tls("client_auth_type: RequireAnyClientCert"), &["client_auth_type", "nobody checks"]);
    check(
        &tls("client_auth_type: Sometimes"),
        &["client_auth_type", "`Sometimes`", "RequireAndVerify"],
    );
    check(&tls("client_auth_type: RequireAndVerifyClientCert"), &["without client_ca_file"]);
    check(&tls("client_ca_file: ca.crt"), &["client_ca_file", "without client_auth_type"]);
    check(&tls("client_allowed_sans: [a]"), &["client_allowed_sans", "RequireAndVerifyClientCert"]);
    check(
        &tls("client_ca_file: empty.pem, client_auth_type: VerifyClientCertIfGiven"),
        &["client_ca_file", "empty.pem", "no certificate"],
    );
    check(
        "http_server_config:\n  headers:\n    Server: x\n",
        &["headers", "`Server`", "X-Frame-Options"],
    );
    check(
        "http_server_config:\n  headers:\n    X-Frame-Options: allow\n",
        &["web.yml:3: X-Frame-Options", "`allow`", "deny or sameorigin"],
    );
    check(
        "http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}\n",
        &["X-XSS-Protection", "ASCII"],
    );
    check("rate_limit: {interval: often, burst: 1}\n", &["interval", "`often`", "100ms"]);
    check("rate_limit: {interval: 1s}\n", &["burst", "found nothing", "1 or more"]);
    check("rate_limit: {interval: 1s, burst: 0}\n", &["burst", "found 0"]);
    check("rate_limit: {interval: 1s, burst: -1}\n", &["burst", "whole number"]);
    let long = format!("# {}\n", "x".repeat(70_000));
    let path = place.write("web.yml", &long);
    let error = WebConfig::load(&path).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("more than 65536"));
}

#[test]
fn passwords_in_the_clear_are_refused_and_never_told() {
    let place = Place::new();
    let too_costly = HASH.replacen("04", "16", 1);
    for (users, line) in [
        ("alice: hunter2", 2),
        ("alice: 20481024", 2),
        ("alice: [hunter2]", 2),
        ("alice: $2y$04$hunter2", 2),
        (&format!("alice: {HASH}x"), 2),
        (&format!("alice: {too_costly}"), 2),
        (&format!("alice: {}", HASH.replacen("2y", "2x", 1)), 2),
        (&format!("alice: {HASH}\n  alice: {HASH}"), 2),
        (&format!("'a:b': {HASH}"), 1),
        ("- hunter2", 2),
    ] {
        let message = load(&place, &format!("basic_auth_users:\n  {users}\n")).unwrap_err();
        assert!(message.starts_with(&format!("web.yml:{line}: ")), "{users}: {message}");
        for secret in ["hunter2", "20481024", "7SmwNwpNq"] {
            assert!(!message.contains(secret), "{message}");
        }
    }
    let config = load(&place, &format!("basic_auth_users: {{alice: {HASH}}}\n")).unwrap();
    assert!(!format!("{config:?}").contains("7SmwNwpNq"));
}

#[test]
fn passwords_need_tls_where_others_can_listen() {
    let place = Place::new();
    place.certificate();
    let users = format!("basic_auth_users: {{alice: {HASH}}}\n");
    let at = |text: &str, address: &str, is_forced: bool| {
        let address: SocketAddr = address.parse().unwrap();
        load(&place, text).unwrap().check_address(address, is_forced).map_err(|e| e.to_string())
    };
    for address in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80"] {
        let error = at(&users, address, false).unwrap_err();
        assert!(error.contains(address) && error.contains("without TLS"), "{error}");
        assert_eq!(at(&users, address, true), Ok(()));
        assert_eq!(at(&format!("{TLS}{users}"), address, false), Ok(()));
        assert_eq!(at(TLS, address, false), Ok(()));
    }
    assert_eq!(
        (at(&users, "127.0.0.1:80", false), at(&users, "[::1]:80", false)),
        (Ok(()), Ok(()))
    );
}
