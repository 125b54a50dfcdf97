//! A store on loopback that speaks as much of S3 as reading takes, and of the two others; it counts
//! what it is asked and can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::process::PROGRAM;
use xxhash_rust::xxh3::xxh3_128;

/// The account of Azure's emulator, by which its requests are told from the others.
const AZURE: &str = "devstoreaccount1";

/// One question.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Bucket and key, decoded.
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

impl Asked {
    fn is_listing(&self) -> bool {
        self.query.contains_key("list-type") || self.query.contains_key("comp")
    }
}

/// How a question is answered.
#[derive(Debug)]
pub(super) enum Answer {
    Well,
    Status(u16, &'static str),
    /// Half of the body, then the connection ends.
    Half,
    /// As if the way were long.
    After(Duration),
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Arc<Vec<u8>>,
    modified: u64,
}

/// Objects by bucket and key.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeMap<String, Stored>);

impl Objects {
    pub(super) fn put(&mut self, path: &str, bytes: Vec<u8>) {
        let modified = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.0.insert(path.to_owned(), Stored { bytes: Arc::new(bytes), modified });
    }

    pub(super) fn remove_below(&mut self, prefix: &str) {
        self.0.retain(|path, _| !path.starts_with(prefix));
    }
}

type Whim = Box<dyn FnMut(&Asked, &mut Objects) -> Answer + Send>;

#[derive(Default)]
struct Shared {
    objects: Mutex<Objects>,
    asked: Mutex<Vec<Asked>>,
    whim: Mutex<Option<Whim>>,
    /// Keys of one page at most.
    page: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    stop: AtomicBool,
}

/// The server, until it is dropped. It has the bucket `bucket`.
pub(super) struct Store {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Store {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { page: AtomicUsize::new(1000), ..Shared::default() });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if served.stop.load(Ordering::Relaxed) {
                    return;
                }
                let served = Arc::clone(&served);
                // Ends with the connection, or with the first failure on it.
                std::thread::spawn(move || drop(serve(stream, &served)));
            }
        });
        Self { address, shared }
    }

    /// The program, with this store for all three clouds and nothing else of the environment's.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        for (name, _) in std::env::vars() {
            if ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let url = format!("http://{}", self.address);
        command.envs([
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_ACCESS_KEY_ID", "reader"),
            ("AWS_SECRET_ACCESS_KEY", "a-secret"),
            ("AWS_REGION", "eu-central-1"),
            ("GOOGLE_BASE_URL", &url),
            ("GOOGLE_BEARER_TOKEN", "a-secret"),
            ("AZURE_STORAGE_USE_EMULATOR", "true"),
            ("AZURITE_BLOB_STORAGE_URL", &url),
            ("NO_PROXY", "127.0.0.1"),
        ]);
        command
    }

    pub(super) fn objects(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.shared.objects.lock().unwrap()
    }

    /// Uploads a directory below a key, the trainer's record last.
    pub(super) fn upload(&self, from: &Path, key: &str) {
        let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(|entry| (entry.file_name() == "trainer_state.json", entry.file_name()));
        for entry in entries {
            let key = format!("{key}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.upload(&entry.path(), &key);
            } else {
                let bytes = std::fs::read(entry.path()).unwrap();
                self.objects().put(&format!("bucket/{key}"), bytes);
            }
        }
    }

    /// What was asked since the last time.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// Decides on every answer from now on.
    pub(super) fn answers(
        &self,
        whim: impl FnMut(&Asked, &mut Objects) -> Answer + Send + 'static,
    ) {
        *self.shared.whim.lock().unwrap() = Some(Box::new(whim));
    }

    pub(super) fn pages_of(&self, n_keys: usize) {
        self.shared.page.store(n_keys, Ordering::Relaxed);
    }

    pub(super) fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(asked) = question(&mut reader)? {
        let n = shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_in_flight.fetch_max(n, Ordering::Relaxed);
        shared.asked.lock().unwrap().push(asked.clone());
        let answer = {
            let mut objects = shared.objects.lock().unwrap();
            let mut whim = shared.whim.lock().unwrap();
            whim.as_mut().map_or(Answer::Well, |whim| whim(&asked, &mut objects))
        };
        let mut reply = {
            let objects = shared.objects.lock().unwrap();
            reply(&asked, &objects, shared.page.load(Ordering::Relaxed))
        };
        let mut n_sent = reply.body.len();
        match answer {
            Answer::Well => {}
            Answer::After(wait) => std::thread::sleep(wait),
            Answer::Half => n_sent /= 2,
            Answer::Status(status, code) => {
                reply = Reply::error(status, code);
                n_sent = reply.body.len();
            }
        }
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
        let length = reply.n_bytes.unwrap_or(reply.body.len());
        let _ = write!(head, "Content-Length: {length}\r\n");
        for (name, value) in &reply.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        stream.write_all(&reply.body[..n_sent])?;
        if n_sent < reply.body.len() {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
    Ok(())
}

fn question(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines[0].split(' ');
    let (method, target) = (first.next().unwrap(), first.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query =
        pairs.map(|(key, value)| (decoded(key), decoded(&value.replace('+', " ")))).collect();
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let path = decoded(path).trim_matches('/').to_owned();
    Ok(Some(Asked { method: method.to_owned(), path, query, headers }))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Length told, if another than that of the body.
    n_bytes: Option<usize>,
}

impl Reply {
    fn error(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>").into_bytes();
        Self { status, headers: Vec::new(), body, n_bytes: None }
    }
}

fn reply(asked: &Asked, objects: &Objects, page: usize) -> Reply {
    let azure = asked.path.strip_prefix(AZURE).map(|path| path.trim_matches('/'));
    let path = azure.unwrap_or(&asked.path);
    let header = |name: &str| asked.headers.get(name).map_or("", String::as_str);
    let who = header("authorization");
    let signed = if azure.is_some() {
        who.starts_with("SharedKey devstoreaccount1:")
    } else if who.starts_with("AWS4-HMAC-SHA256 Credential=reader/") {
        who.contains("/eu-central-1/s3/aws4_request") && !header("x-amz-date").is_empty()
    } else {
        who == "Bearer a-secret"
    };
    if !signed {
        return Reply::error(403, "AccessDenied");
    }
    if path.split('/').next() != Some("bucket") {
        return Reply::error(
            404,
            if azure.is_some() { "ContainerNotFound" } else { "NoSuchBucket" },
        );
    }
    if asked.is_listing() {
        return listing(asked, objects, page, azure.is_some());
    }
    let Some(stored) = objects.0.get(path) else { return Reply::error(404, "NoSuchKey") };
    let mut headers = vec![
        ("ETag", format!("\"{}\"", tag(stored))),
        ("Last-Modified", rfc1123(stored.modified)),
        ("x-ms-blob-type", "BlockBlob".to_owned()),
    ];
    let matches = header("if-match");
    if !matches.is_empty() && matches.trim_matches('"') != tag(stored) {
        return Reply::error(412, "PreconditionFailed");
    }
    let all = &stored.bytes;
    if asked.method == "HEAD" {
        return Reply { status: 200, headers, body: Vec::new(), n_bytes: Some(all.len()) };
    }
    let range = Some(header("range")).filter(|range| !range.is_empty());
    let range = range.unwrap_or_else(|| header("x-ms-range"));
    let Some((start, end)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Reply { status: 200, headers, body: all.to_vec(), n_bytes: None };
    };
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    if start >= all.len() {
        return Reply::error(416, "InvalidRange");
    }
    let end = end.min(all.len() - 1);
    headers.push(("Content-Range", format!("bytes {start}-{end}/{}", all.len())));
    Reply { status: 206, headers, body: all[start..=end].to_vec(), n_bytes: None }
}

fn listing(asked: &Asked, objects: &Objects, page: usize, azure: bool) -> Reply {
    let of = |name: &str| asked.query.get(name).map_or("", String::as_str);
    let (prefix, by_level) = (of("prefix"), of("delimiter") == "/");
    let after = if azure { of("marker") } else { of("continuation-token") };
    let most = if azure { of("maxresults") } else { of("max-keys") };
    let most = most.parse().unwrap_or(1000).min(page);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let (mut found, mut next) = (String::new(), String::new());
    for (path, stored) in &objects.0 {
        let Some(key) = path.strip_prefix("bucket/").filter(|key| key.starts_with(prefix)) else {
            continue;
        };
        let level = key[prefix.len()..].find('/').filter(|_| by_level);
        let name = level.map_or(key, |end| &key[..=prefix.len() + end]);
        if (!after.is_empty() && name <= after) || seen.contains(name) {
            continue;
        }
        if seen.len() == most {
            seen.last().copied().unwrap_or_default().clone_into(&mut next);
            break;
        }
        seen.insert(name);
        let (size, tag) = (stored.bytes.len(), tag(stored));
        let _ = match (azure, level.is_some()) {
            (false, true) => {
                write!(found, "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
            }
            (false, false) => {
                let time = UNIX_EPOCH + Duration::from_secs(stored.modified);
                // Finer than a header tells it, as S3 does.
                let time = humantime::format_rfc3339_millis(time + Duration::from_millis(345));
                let tag = format!("<ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size>");
                let time = format!("<LastModified>{time}</LastModified>");
                write!(found, "<Contents><Key>{name}</Key>{time}{tag}</Contents>")
            }
            (true, true) => write!(found, "<BlobPrefix><Name>{name}</Name></BlobPrefix>"),
            (true, false) => {
                let time = format!("<Last-Modified>{}</Last-Modified>", rfc1123(stored.modified));
                let rest = format!("<Content-Length>{size}</Content-Length><Etag>{tag}</Etag>");
                let kind = "<Content-Type>application/octet-stream</Content-Type>";
                let properties = format!("<Properties>{time}{rest}{kind}</Properties>");
                write!(found, "<Blob><Name>{name}</Name>{properties}</Blob>")
            }
        };
    }
    let body = if azure {
        format!(
            "<EnumerationResults><Blobs>{found}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        )
    } else {
        let token = format!("<NextContinuationToken>{next}</NextContinuationToken>");
        let token = if next.is_empty() { "" } else { &token };
        format!("<ListBucketResult>{found}{token}</ListBucketResult>")
    };
    Reply { status: 200, headers: Vec::new(), body: body.into_bytes(), n_bytes: None }
}

fn tag(stored: &Stored) -> String {
    format!("{:032x}", xxh3_128(&stored.bytes))
}

/// A time as headers tell it.
fn rfc1123(seconds: u64) -> String {
    let iso = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
    let iso = iso.to_string();
    let day = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let at = iso[5..7].parse::<usize>().unwrap() * 3 - 3;
    let day = day[usize::try_from(seconds / 86_400 % 7).unwrap()];
    let (date, month, year, time) = (&iso[8..10], &month[at..at + 3], &iso[..4], &iso[11..19]);
    format!("{day}, {date} {month} {year} {time} GMT")
}
