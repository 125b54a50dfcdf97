//! Styles and scripts, part of the program.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Where it is served.
    pub path: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// As it is.
    pub plain: Bytes,
    /// Compressed.
    pub gzip: Bytes,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files = [
        ("/page.css", CSS, include_str!("page.css")),
        ("/page/overview.js", JS, include_str!("js/overview.js")),
        ("/page/run.js", JS, include_str!("js/run.js")),
        ("/page/live.js", JS, include_str!("js/live.js")),
        ("/page/morph.js", JS, include_str!("js/morph.js")),
        ("/page/history.js", JS, include_str!("js/history.js")),
        ("/page/colour.js", JS, include_str!("js/colour.js")),
        ("/page/heat.js", JS, include_str!("js/heat.js")),
        ("/page/lines.js", JS, include_str!("js/lines.js")),
        ("/page/chart.js", JS, include_str!("js/chart.js")),
        ("/page/words.js", JS, include_str!("js/words.js")),
        ("/page/uplot.js", JS, include_str!("vendor/uplot.js")),
        ("/page/uplot.css", CSS, include_str!("vendor/uplot.css")),
    ];
    let asset = |(path, kind, text): (_, _, &'static str)| Asset {
        path,
        kind,
        plain: Bytes::from_static(text.as_bytes()),
        gzip: compressed(text.as_bytes()),
    };
    files.map(asset).into()
});

/// All of them, compressed once.
#[must_use]
pub fn assets() -> &'static [Asset] {
    &ASSETS
}

fn compressed(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("a Vec takes all bytes");
    encoder.finish().expect("a Vec takes all bytes").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_import_only_what_is_served() {
        for asset in assets().iter().filter(|asset| asset.kind == JS) {
            let text = std::str::from_utf8(&asset.plain).unwrap();
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let from = line.split('"').nth(1).unwrap().strip_prefix("./").unwrap();
                assert!(
                    assets().iter().any(|other| other.path == format!("/page/{from}")),
                    "{}: {line}",
                    asset.path
                );
            }
        }
    }

    #[test]
    fn the_vendored_library_is_the_one_that_its_page_names() {
        let readme = include_str!("vendor/README.md");
        let header = include_str!("vendor/uplot.js").lines().next().unwrap();
        let version = header.split("(v").nth(1).unwrap().split(')').next().unwrap();
        assert!(readme.contains(&format!("uPlot {version}")), "{header}");
    }
}
