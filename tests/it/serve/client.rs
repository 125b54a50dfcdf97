//! As much of an HTTP client and of the text format as the tests need.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body of a GET.
pub(super) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let cut_short = || io::Error::other(format!("answer to {path} is cut short: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut_short)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(cut_short)?;
    Ok((status, body.to_owned()))
}

/// A body of `/metrics`.
#[derive(Debug)]
pub(super) struct Metrics(pub(super) String);

impl Metrics {
    /// Samples of `weightvane_<name>` that have all `labels`: the text of their labels and the value.
    pub(super) fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(String, f64)> {
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let mut found = Vec::new();
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (family, given) = series.split_once('{').unwrap_or((series, "}"));
            let given = given.trim_end_matches('}');
            let has = |wanted: &String| given.split(',').any(|label| label == wanted);
            if family.strip_prefix("weightvane_") == Some(name) && wanted.iter().all(has) {
                found.push((given.to_owned(), value.parse().unwrap()));
            }
        }
        found
    }

    /// The only such sample.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.all(name, labels);
        assert!(found.len() <= 1, "{name} {labels:?} is not one series: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// A count of a run, 0 where it has none.
    pub(super) fn count(&self, name: &str, run: &str) -> u64 {
        let sum: f64 = self.all(name, &[("run", run)]).iter().map(|(_, value)| value).sum();
        assert!((0.0..1e9).contains(&sum) && sum.fract() == 0.0, "{name} of {run} is {sum}");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        let sum = sum as u64;
        sum
    }

    /// Names of all runs.
    pub(super) fn runs(&self) -> Vec<String> {
        let of = |(labels, _): (String, f64)| {
            let label = labels.split(',').find_map(|l| l.strip_prefix("run=\""))?.to_owned();
            label.strip_suffix('"').map(str::to_owned)
        };
        self.all("run_active", &[]).into_iter().filter_map(of).collect()
    }
}
