//! Names under which a browser may ask on loopback.
//!
//! A web page can make its own name resolve to 127.0.0.1 and then read, as its own origin, what is
//! served here to everybody on this machine. Its name gives it away: it is in the header `Host`, which
//! no script can change.

use std::net::IpAddr;

use hyper::Request;
use hyper::header::HOST;
use hyper::http::uri::Authority;

/// Whether every host that the request names may be asked for. A request that names none comes from
/// no browser.
pub(super) fn are_ours<B>(request: &Request<B>, names: &[String]) -> bool {
    let in_uri = request.uri().authority().map(Authority::as_str);
    let in_headers = request.headers().get_all(HOST).into_iter().map(|value| value.to_str());
    let mut all = in_uri.into_iter().map(Ok).chain(in_headers);
    all.all(|host| host.is_ok_and(|host| is_ours(host, names)))
}

/// An address, `localhost`, a name without a dot (no page of the internet has one), or one that is
/// listed; the port does not matter.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || name.ends_with(".localhost")
        || names.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_internet_are_foreign() {
        let names = ["metrics.example.org".to_owned()];
        for (host, expected) in [
            ("127.0.0.1:10717", true),
            ("[::1]:10717", true),
            ("192.0.2.1", true),
            ("localhost:10717", true),
            ("LOCALHOST.", true),
            ("weightvane.localhost:80", true),
            ("gpu-node", true),
            ("", true),
            ("metrics.example.org", true),
            ("Metrics.Example.org.:443", true),
            ("evil.example", false),
            ("evil.example:10717", false),
            ("evil.example.", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:10717", false),
            ("metrics.example.org.evil.example", false),
            ("user@evil.example", false),
            ("[evil.example]", false),
        ] {
            assert_eq!(is_ours(host, &names), expected, "{host}");
        }
    }

    #[test]
    fn every_name_that_is_given_counts() {
        let ask = |uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            are_ours(&request.body(()).unwrap(), &[])
        };
        assert!(ask("/", &[]) && ask("/", &["localhost"]));
        assert!(!ask("/", &["localhost", "evil.example"]));
        assert!(!ask("http://evil.example/", &["localhost"]));
        assert!(!ask("/", &["b\u{e4}d.example"]));
    }
}
