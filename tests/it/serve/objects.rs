//! Roots and checkpoints in object stores, by a store on loopback.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use super::client::Metrics;
use super::process::{Daemon, Place};
use super::saves::{chain, copy_series, shipped, write_save};
use super::store::{Answer, Asked, Store};

/// Short waits for scans of stores.
const FAST: &str = "scan_interval: 1s\nscan_interval_network: 1s\nquiet: 300ms\nsettle: 2s\n\
                    settle_network: 2s\n";

fn watch(store: &Store, place: &Place, roots: &[&str]) -> Daemon {
    let mut command = store.command();
    command.arg("watch").args(roots).arg("--config").arg(&place.config);
    command.arg("--state-dir").arg(place.dir.path().join("state"));
    command.args(["--listen", "127.0.0.1:0", "--log.format", "json"]);
    Daemon::start(command)
}

fn analyze(store: &Store, path: &str) -> Output {
    store.command().args(["analyze", path, "--format", "json"]).output().unwrap()
}

/// What was measured of a run, without times and places.
fn measured(metrics: &Metrics, run: &str) -> Vec<String> {
    let not = ["seconds", "run_info", "analysis_", "read_bytes", "process_"];
    let of = format!("run=\"{run}\"");
    let lines = metrics.0.lines().filter(|line| line.contains(&of) && !line.starts_with('#'));
    lines.filter(|line| !not.iter().any(|n| line.contains(n))).map(str::to_owned).collect()
}

#[test]
fn a_run_in_a_bucket_has_the_numbers_of_the_same_run_on_disk() {
    let place = Place::new(FAST);
    let n = copy_series("healthy", &place.root.join("run"), 1900);
    let store = Store::start();
    store.upload(&place.root, "runs");
    store.pages_of(7);
    let local = place.watch();
    let remote = watch(&store, &place, &["s3://bucket/runs/"]);
    let (here, there) = (local.wait_analyzed("run", n), remote.wait_analyzed("run", n));
    let (here, there) = (measured(&here, "run"), measured(&there, "run"));
    assert!(here.len() > 50, "{here:#?}");
    assert_eq!(here, there);
    assert_eq!(there.len(), here.len());
    let mode = remote.metrics().all("watch_mode", &[("root", "s3://bucket/runs")]);
    assert!(mode.iter().any(|(labels, on)| labels.contains("polling") && *on > 0.0), "{mode:?}");
    assert!(store.most_in_flight() <= 2);
    // With nothing new a scan is one request.
    store.pages_of(1000);
    std::thread::sleep(Duration::from_secs(1));
    store.asked();
    std::thread::sleep(Duration::from_secs(3));
    let asked = store.asked();
    assert_eq!(kinds(&asked), (asked.len(), 0, 0));
    assert!((1..=4).contains(&asked.len()), "{asked:#?}");
    assert_eq!(remote.metrics().0.matches("a-secret").count(), 0);
}

#[test]
fn what_comes_is_measured_once_what_is_replaced_again_and_what_goes_is_no_failure() {
    let (place, store) = (Place::new(FAST), Store::start());
    let save = |step: u64, seed: u64| {
        let dir = place.dir.path().join(format!("made-{step}-{seed}"));
        write_save(&dir, &chain(2, 16, seed));
        store.upload(&dir, &format!("x/run/checkpoint-{step}"));
    };
    save(1, 1);
    let daemon = watch(&store, &place, &["s3://bucket/x"]);
    daemon.wait_analyzed("run", 1);
    save(2, 2);
    let metrics = daemon.wait_analyzed("run", 2);
    assert_eq!(metrics.value("checkpoint_analyzed_step", &[("run", "run")]), Some(2.0));
    // The same step with other weights.
    save(2, 3);
    daemon.wait_analyzed("run", 3);
    store.objects().remove_below("bucket/x/run/checkpoint-1/");
    save(3, 4);
    let metrics = daemon.wait_analyzed("run", 4);
    assert_eq!(metrics.count("checkpoint_failures_total", "run"), 0);
    drop(daemon);
    // The next start knows them all.
    let again = watch(&store, &place, &["s3://bucket/x/"]);
    save(4, 5);
    let metrics = again.wait_analyzed("run", 5);
    assert_eq!(metrics.runs(), ["run"]);
    let mark = place.dir.path().join("mark");
    std::fs::create_dir(&mark).unwrap();
    std::fs::write(mark.join(".weightvane-ended"), "").unwrap();
    store.upload(&mark, "x/run");
    let ended = |m: &Metrics| m.value("run_active", &[("run", "run")]).is_some_and(|is| is < 0.5);
    again.wait("the run to have ended", ended);
    store.objects().remove_below("bucket/x/run/");
    again.wait("the run to be gone", |metrics| metrics.runs().is_empty());
    assert!(again.stderr().iter().all(|line| !line.contains("a-secret")));
}

#[test]
fn a_store_that_refuses_holds_up_nobody_else() {
    let (place, store) = (Place::new(FAST), Store::start());
    write_save(&place.root.join("run/checkpoint-1"), &chain(2, 16, 1));
    let root = place.root.to_str().unwrap();
    let daemon = watch(&store, &place, &["s3://none/x", root]);
    let metrics = daemon.wait_analyzed("run", 1);
    assert_eq!(metrics.runs(), ["run"]);
    daemon.wait("failed scans to be counted", |metrics| {
        metrics.value("scan_errors_total", &[]).is_some_and(|n| n >= 2.0)
    });
    let told = daemon.logged("part of a root cannot be scanned");
    assert_eq!(told.len(), 1, "{told:?}");
    let error = told[0]["error"].as_str().unwrap();
    assert!(error.ends_with("found no bucket `none`"), "{error}");
}

fn kinds(asked: &[Asked]) -> (usize, usize, usize) {
    let count = |which: &dyn Fn(&Asked) -> bool| asked.iter().filter(|a| which(a)).count();
    let lists = count(&|a| a.query.contains_key("list-type"));
    let heads = count(&|a| a.method == "HEAD");
    (lists, heads, asked.len() - lists - heads)
}

#[test]
fn a_checkpoint_costs_a_handful_of_requests() {
    let store = Store::start();
    for name in ["gpt2", "llama"] {
        store.upload(&shipped("fixtures").join(name), &format!("models/{name}"));
    }
    for (name, most) in [("gpt2", 9), ("llama", 18)] {
        let local = shipped("fixtures").join(name);
        let local = Command::new(super::process::PROGRAM)
            .args(["analyze", "--format", "json"])
            .arg(&local)
            .output()
            .unwrap();
        let remote = analyze(&store, &format!("s3://bucket/models/{name}"));
        assert!(remote.status.success(), "{}", String::from_utf8_lossy(&remote.stderr));
        assert_eq!(local.stdout, remote.stdout);
        let asked = store.asked();
        assert!(asked.len() <= most, "{name}: {:?}: {asked:#?}", kinds(&asked));
    }
    // Tensors of 16 MiB, in requests of 8.
    store.objects().put("bucket/large/model.safetensors", chain(2, 2048, 1));
    let (_, _) = (store.asked(), analyze(&store, "s3://bucket/large"));
    let (_, _, reads) = kinds(&store.asked());
    assert!(reads <= 8, "{reads}");
}

#[test]
fn the_other_clouds_are_listed_and_read() {
    let store = Store::start();
    store.upload(&shipped("fixtures/llama"), "models/llama");
    store.pages_of(2);
    let of = |url: &str| {
        let out = analyze(&store, url);
        assert!(out.status.success(), "{url}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!store.asked().is_empty());
        out.stdout
    };
    let s3 = of("s3://bucket/models/llama");
    assert_eq!(s3, of("gs://bucket/models/llama"));
    assert_eq!(s3, of("az://bucket/models/llama"));
}

fn is_read(asked: &Asked) -> bool {
    asked.path.ends_with("model.safetensors")
}

/// The code with which the analysis of a small checkpoint ends, and what it says.
fn with(answers: impl FnMut(&Asked) -> Answer + Send + 'static) -> (Option<i32>, String) {
    let store = Store::start();
    let mut answers = answers;
    store.objects().put("bucket/x/model.safetensors", chain(2, 64, 1));
    store.answers(move |asked, _| answers(asked));
    let out = analyze(&store, "s3://bucket/x");
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn failures_that_pass_are_waited_for_and_others_told_in_one_line() {
    let twice = |answer: fn() -> Answer| {
        let mut n = 0;
        move |asked: &Asked| {
            n += usize::from(is_read(asked));
            if is_read(asked) && n <= 2 { answer() } else { Answer::Well }
        }
    };
    let told = |(code, text): (Option<i32>, String), expected: i32, part: &str| {
        assert_eq!(code, Some(expected), "{text}");
        assert!(text.contains(part), "{text}");
        assert!(text.lines().count() <= 1 && !text.contains("a-secret"), "{text}");
    };
    told(with(twice(|| Answer::Status(503, "SlowDown"))), 0, "");
    told(with(twice(|| Answer::Half)), 0, "");
    told(with(twice(|| Answer::After(Duration::from_millis(300)))), 0, "");
    told(with(|_| Answer::Status(500, "InternalError")), 66, "InternalError");
    told(
        with(|_| Answer::Status(403, "AccessDenied")),
        66,
        "no permission to read bucket `bucket`",
    );
    told(with(|_| Answer::Status(301, "PermanentRedirect")), 66, "another region");
    told(with(|_| Answer::Status(404, "NoSuchKey")), 66, "");
    let gone = |asked: &Asked| match asked.method.as_str() {
        "GET" if is_read(asked) => Answer::Status(404, "NoSuchKey"),
        _ => Answer::Well,
    };
    told(with(gone), 66, "gone");
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_never_mixed() {
    let store = Store::start();
    store.objects().put("bucket/x/model.safetensors", chain(2, 1024, 1));
    let mut n = 0;
    store.answers(move |asked, objects| {
        n += usize::from(asked.path.ends_with("model.safetensors"));
        if n == 2 {
            objects.put("bucket/x/model.safetensors", chain(2, 1024, 2));
        }
        Answer::Well
    });
    let out = analyze(&store, "s3://bucket/x");
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(75), "{text}");
    assert!(text.contains("found the file changed"), "{text}");
}

#[test]
fn places_that_make_no_sense_are_told_at_once() {
    let (place, store) = (Place::new(FAST), Store::start());
    let run = |args: &[&str]| {
        let out = store.command().args(args).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, text) = run(&["watch", "s3://", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(66), "{text}");
    assert!(text.contains("found no bucket, expected s3://BUCKET/PREFIX"), "{text}");
    let root = place.root.to_str().unwrap();
    let (code, text) = run(&["watch", root, "--state-dir", "s3://bucket/state"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("expected a local path"), "{text}");
    assert!(!Path::new("s3:").exists());
    let (code, text) = run(&["analyze", "s3://bucket/nothing"]);
    assert_eq!(code, Some(66), "{text}");
    assert!(text.contains("found nothing"), "{text}");
}

#[test]
fn without_credentials_the_line_says_which_are_expected() {
    let store = Store::start();
    let mut command = store.command();
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    // An instance's own service, which knows nothing; never the real one.
    let endpoint = command.get_envs().find(|(name, _)| *name == "AWS_ENDPOINT_URL");
    let endpoint = endpoint.and_then(|(_, url)| url).unwrap().to_owned();
    command.env("AWS_METADATA_ENDPOINT", endpoint);
    let out = command.args(["analyze", "s3://bucket/x"]).output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(66), "{text}");
    assert!(text.contains("found no credentials, expected AWS_ACCESS_KEY_ID"), "{text}");
}
