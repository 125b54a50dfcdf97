//! For whom a certificate is: its subject alternative names (RFC 5280 §4.2.1.6). rustls compares them
//! with the name of a server, wildcards and all; of clients they are compared as they are.

use std::net::IpAddr;

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
/// `[3]` of a certificate: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// Kinds of names.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;

/// id-ce-subjectAltName, 2.5.29.17.
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];

/// DNS names, addresses of mail, URIs and IP addresses; `None` for what is no certificate. One
/// without such names has none.
pub(super) fn alternative_names(certificate: &[u8]) -> Option<Vec<String>> {
    let (outer, _) = expect(certificate, SEQUENCE)?;
    let (mut signed, _) = expect(outer, SEQUENCE)?;
    while !signed.is_empty() {
        let (tag, content, rest) = element(signed)?;
        if tag == EXTENSIONS {
            return names_of(expect(content, SEQUENCE)?.0);
        }
        signed = rest;
    }
    Some(Vec::new())
}

fn names_of(mut extensions: &[u8]) -> Option<Vec<String>> {
    while !extensions.is_empty() {
        let (extension, rest) = expect(extensions, SEQUENCE)?;
        extensions = rest;
        let (id, mut value) = expect(extension, OBJECT_ID)?;
        if id != ALTERNATIVE_NAMES {
            continue;
        }
        if let Some((_, behind)) = expect(value, BOOLEAN) {
            value = behind;
        }
        let (names, _) = expect(expect(value, OCTETS)?.0, SEQUENCE)?;
        return general_names(names);
    }
    Some(Vec::new())
}

fn general_names(mut names: &[u8]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    while !names.is_empty() {
        let (tag, content, rest) = element(names)?;
        names = rest;
        match tag {
            EMAIL | DNS | URI => found.push(std::str::from_utf8(content).ok()?.to_owned()),
            IP => found.push(address(content)?.to_string()),
            _ => {}
        }
    }
    Some(found)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Content of the first element, which must have this tag, and what is behind it.
fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// Tag and content of the first element, and what is behind it. Tags of one byte, lengths of at most
/// four: a certificate has no others.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn all_kinds_of_names_are_found() {
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        let all = certificate(vec![
            SanType::DnsName("prometheus.example".try_into().unwrap()),
            SanType::Rfc822Name("who@example.org".try_into().unwrap()),
            SanType::URI("spiffe://example/prometheus".try_into().unwrap()),
            SanType::IpAddress(IpAddr::from([192, 0, 2, 7])),
            SanType::IpAddress(six),
        ]);
        let expected = [
            "prometheus.example",
            "who@example.org",
            "spiffe://example/prometheus",
            "192.0.2.7",
            "2001:db8::1",
        ];
        assert_eq!(alternative_names(&all).unwrap(), expected);
        // A long list needs a length of more than one byte.
        let many = (0..200).map(|n| SanType::DnsName(format!("n{n}.example").try_into().unwrap()));
        let many = alternative_names(&certificate(many.collect())).unwrap();
        assert_eq!((many.len(), many[199].as_str()), (200, "n199.example"));
        assert_eq!(alternative_names(&certificate(Vec::new())), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        let whole = certificate(vec![SanType::DnsName("a.example".try_into().unwrap())]);
        for cut in 0..whole.len() {
            assert_eq!(alternative_names(&whole[..cut]), None, "{cut} of {} bytes", whole.len());
        }
        assert_eq!(alternative_names(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(alternative_names(&[SEQUENCE, 0x80, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in 0_usize..400,
            byte in any::<u8>(),
        ) {
            let _ = alternative_names(&bytes);
            let mut changed = certificate(vec![SanType::DnsName("a.example".try_into().unwrap())]);
            let at = at % changed.len();
            changed[at] = byte;
            let _ = alternative_names(&changed);
        }
    }
}
