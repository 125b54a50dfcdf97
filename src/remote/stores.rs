//! The one runtime and one client for each bucket.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::RemoteError;
use super::place::{Place, Scheme};
use super::words::refusal;

/// Requests of one bucket in flight: a scan and a read.
const MAX_IN_FLIGHT: usize = 2;
/// Buckets that are remembered.
const MAX_BUCKETS: usize = 64;
/// Longest wait for one answer, which is at most 8 MiB.
const ANSWER: Duration = Duration::from_mins(1);
const CONNECT: Duration = Duration::from_secs(5);
/// Times that a request is made again after a failure that may pass (5xx, a lost connection).
const MAX_RETRIES: usize = 3;
/// After so long no request is made again.
const RETRYING: Duration = Duration::from_secs(45);

/// A bucket that can be asked.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) pages: Arc<dyn PaginatedListStore>,
    pub(super) gate: Arc<Semaphore>,
}

impl Bucket {
    fn new(store: impl ObjectStore + PaginatedListStore) -> Self {
        let store = Arc::new(store);
        let gate = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Self { objects: Arc::clone(&store) as _, pages: store, gate }
    }
}

/// The bucket of a place. Made once; the credentials in it renew themselves.
pub(super) fn bucket(place: &Place) -> Result<Bucket, RemoteError> {
    static KNOWN: OnceLock<Mutex<HashMap<(Scheme, String), Bucket>>> = OnceLock::new();
    let known = || KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let name = (place.scheme, place.bucket.clone());
    if let Some(bucket) = known().get(&name) {
        return Ok(bucket.clone());
    }
    let made = make(place).map_err(|error| refusal(&error, place))?;
    let mut known = known();
    if known.len() >= MAX_BUCKETS {
        known.clear();
    }
    Ok(known.entry(name).or_insert(made).clone())
}

fn make(place: &Place) -> Result<Bucket, object_store::Error> {
    let bucket = &place.bucket;
    Ok(match place.scheme {
        Scheme::S3 => {
            let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
            for (key, value) in options(&named) {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            Bucket::new(builder.with_retry(retries()).build()?)
        }
        Scheme::Gs => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            for (key, value) in options(&["GOOGLE_BASE_URL"]) {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Bucket::new(builder.with_retry(retries()).build()?)
        }
        Scheme::Az => {
            let named = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            for (key, value) in options(&named) {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            Bucket::new(builder.with_retry(retries()).build()?)
        }
    })
}

/// What is set of the HTTP client; the rest (proxies, certificates) the environment may say. An
/// endpoint without TLS is taken if one of these variables names it: the default ones all have it.
fn options(endpoints: &[&str]) -> Vec<(ClientConfigKey, String)> {
    let seconds = |wait: Duration| format!("{}s", wait.as_secs());
    let mut options = vec![
        (ClientConfigKey::Timeout, seconds(ANSWER)),
        (ClientConfigKey::ConnectTimeout, seconds(CONNECT)),
    ];
    let named = endpoints.iter().find_map(|name| std::env::var(name).ok());
    if named.is_some_and(|url| url.starts_with("http://")) {
        options.push((ClientConfigKey::AllowHttp, "true".to_owned()));
    }
    options
}

fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(5),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: RETRYING }
}

/// The runtime that all requests are made on: one thread, at a low priority, started by the first.
pub(super) fn runtime() -> Result<&'static Handle, RemoteError> {
    static RUNTIME: OnceLock<Result<Handle, String>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| start().map_err(|error| error.to_string()));
    started.as_ref().map_err(|error| RemoteError::refused(io::ErrorKind::Other, error.clone()))
}

fn start() -> io::Result<Handle> {
    // Fails where the program has chosen one before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_name("object-store")
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name("object-stores".into()).spawn(move || {
        // Of this thread alone. Not idle: on a busy machine the store would hang up on us.
        let _ = rustix::process::nice(19);
        runtime.block_on(std::future::pending::<()>());
    })?;
    Ok(handle)
}
