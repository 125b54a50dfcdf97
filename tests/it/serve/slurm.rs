//! The scripts for SLURM, run as SLURM runs them, but by us: prolog, a training, epilog.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::process::{FAST, PROGRAM, Place};
use super::saves::{copy_series, shipped};

const JOB: &str = "4711";
const MARK: &str = ".weightvane-ended";
const PATIENCE: Duration = Duration::from_mins(1);

fn script(name: &str) -> PathBuf {
    shipped("../config/slurm").join(name)
}

fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whom a job runs as: root starts it as another where that user can run the program.
fn user() -> (u32, u32) {
    let own = fs::metadata("/proc/self").unwrap();
    let nobody =
        ["--reuid", "65534", "--regid", "65534", "--init-groups", "--", PROGRAM, "--version"];
    let can = Command::new("setpriv").args(nobody).output();
    if own.uid() == 0 && can.is_ok_and(|out| out.status.success()) {
        (65_534, 65_534)
    } else {
        (own.uid(), own.gid())
    }
}

/// A node with one job.
struct Node {
    place: Place,
    jobs: PathBuf,
    user: (u32, u32),
}

impl Node {
    fn new() -> Self {
        let (place, user) = (Place::new(FAST), user());
        // The user of the job has to get at its directory, and owns it.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.dir.path(), open).unwrap();
        std::os::unix::fs::chown(&place.root, Some(user.0), Some(user.1)).unwrap();
        let jobs = place.dir.path().join("jobs");
        Self { place, jobs, user }
    }

    /// What is kept of the job.
    fn of_job(&self, name: &str) -> PathBuf {
        self.jobs.join(JOB).join(name)
    }

    /// Runs a script with the environment that slurmd gives, and `more`.
    fn run(&self, name: &str, more: &[(&str, &str)]) -> Output {
        let mut command = Command::new("bash");
        command.arg(script(name)).env_clear().stdin(Stdio::null());
        let dir = self.place.root.join("run");
        command.env("SLURM_JOB_COMMENT", format!("of mine, weightvane={};", dir.display()));
        let (user, group) = (self.user.0.to_string(), self.user.1.to_string());
        command.envs([("SLURM_JOB_ID", JOB), ("SLURM_JOB_UID", &user), ("SLURM_JOB_GID", &group)]);
        command.envs([("SLURMD_NODENAME", "gpu03"), ("SLURM_NODELIST", "gpu[03-05,9],login1")]);
        command.env("WEIGHTVANE", PROGRAM).env("WEIGHTVANE_JOBS", &self.jobs);
        command.env("WEIGHTVANE_CONFIG", &self.place.config);
        command.envs(more.iter().copied());
        // A daemon that kept our pipes would hold this up until its end.
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{name} {more:?}: {out:?}");
        out
    }

    /// The daemon's process.
    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.of_job("pid")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }
}

/// What has ended may wait for whoever started it to ask.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

#[test]
fn a_job_that_asks_has_a_daemon_beside_it_and_its_end_is_told() {
    let node = Node::new();
    node.run("prolog.sh", &[]);
    let pid = node.pid();
    let owner = until("the daemon to be the user's", || {
        let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        (owner == node.user.0).then_some(owner)
    });
    assert_eq!(owner, node.user.0);
    let run = node.place.root.join("run");
    assert_eq!(fs::metadata(&run).unwrap().uid(), node.user.0, "made for the trainer");
    // A daemon elsewhere watches the same volume.
    let central = node.place.watch();
    copy_series("healthy", &run, 1900);
    central.wait_analyzed("run", 2);
    let textfile = node.of_job("own/weightvane.prom");
    let log = || fs::read_to_string(node.of_job("log")).unwrap_or_default();
    let text = until("the textfile", || {
        assert!(is_alive(pid), "{}", log());
        let text = fs::read_to_string(&textfile).unwrap_or_default();
        let analyzed = "weightvane_checkpoints_analyzed_total{run=\"run\",job=\"4711\"} 2\n";
        text.contains(analyzed).then_some(text)
    });
    let bare = text.lines().filter(|l| !l.starts_with('#') && !l.contains("job=\"4711\"")).count();
    assert_eq!(bare, 0, "{text}");
    let active = |wanted: f64| {
        let is = move |value: f64| (value - wanted).abs() < 0.5;
        central.wait("what is told of the run", |m| {
            m.value("run_active", &[("run", "run")]).is_some_and(is)
        });
    };
    active(1.0);

    node.run("epilog.sh", &[]);
    assert!(!is_alive(pid), "the daemon has ended");
    assert!(!node.jobs.join(JOB).exists(), "its metrics are gone");
    assert_eq!(fs::metadata(run.join(MARK)).unwrap().uid(), node.user.0);
    active(0.0);
    // An epilog may run again.
    node.run("epilog.sh", &[]);
}

#[test]
fn nothing_is_started_where_nobody_asks_and_nothing_fails() {
    let node = Node::new();
    for more in [
        ("SLURM_JOB_COMMENT", ""),
        ("SLURM_JOB_COMMENT", "weightvane"),
        ("SLURM_JOB_COMMENT", "weightvane=relative"),
        ("SLURM_JOB_COMMENT", "noweightvane=/tmp"),
        ("SLURM_NODELIST", "gpu[02-03]"),
        ("SLURM_NODELIST", "login1,gpu03"),
        ("SLURM_JOB_ID", "../4711"),
        ("SLURM_JOB_UID", ""),
    ] {
        node.run("prolog.sh", &[more]);
        assert!(!node.jobs.exists(), "{more:?}");
        node.run("epilog.sh", &[more]);
    }
    assert!(!node.place.root.join("run").exists());
}

#[test]
fn a_daemon_that_cannot_start_costs_nothing_and_leaves_its_reason() {
    let node = Node::new();
    node.run("prolog.sh", &[("WEIGHTVANE_LISTEN", "nowhere")]);
    until("its end", || (!is_alive(node.pid())).then_some(()));
    let log = fs::read_to_string(node.of_job("log")).unwrap();
    assert!(log.contains("nowhere"), "{log}");
    node.run("epilog.sh", &[]);
    assert!(node.place.root.join("run").join(MARK).exists());
    assert!(!node.jobs.join(JOB).exists());
}

#[test]
fn a_process_that_has_the_number_by_chance_is_left_alone() {
    let node = Node::new();
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    fs::create_dir_all(node.jobs.join(JOB)).unwrap();
    fs::write(node.of_job("pid"), format!("{} 1\n", other.id())).unwrap();
    node.run("epilog.sh", &[]);
    assert_eq!(other.try_wait().unwrap(), None, "it goes on");
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(!node.jobs.join(JOB).exists());
}

#[test]
fn a_batch_script_brings_its_own_daemon_and_ends_as_its_trainer_does() {
    let node = Node::new();
    let dir = node.place.dir.path();
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let saves = shipped("it/golden/series/healthy");
    // A trainer of two saves, which fails when both are measured.
    let srun = format!(
        "#!/bin/bash\necho \"$@\" >asked\nmkdir -p \"$4\"\ncp -r {0}/checkpoint-1900 {0}/checkpoint-2000 \"$4\"\n\
         until grep -q 'analyzed_total{{run=\"run\",job=\"4711\"}} 2' weightvane.prom; do sleep 0.1; done\nexit 3\n",
        saves.display(),
    );
    let weightvane =
        format!("#!/bin/sh\nexec {PROGRAM} \"$@\" --config {}\n", node.place.config.display());
    for (name, text) in [("srun", srun), ("weightvane", weightvane)] {
        fs::write(bin.join(name), text).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let out = Command::new("timeout")
        .args(["60", "bash"])
        .arg(script("train.sbatch"))
        .current_dir(dir)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .envs([("SLURM_JOB_ID", JOB), ("WEIGHTVANE_LISTEN", "127.0.0.1:0")])
        .env("SLURM_SUBMIT_DIR", dir)
        .env("WEIGHTVANE_TEXTFILE", dir.join("weightvane.prom"))
        .output()
        .unwrap();
    let log = fs::read_to_string(dir.join("weightvane-4711.log")).unwrap_or_default();
    assert_eq!(out.status.code(), Some(3), "{out:?}: {log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(dir.join("run").join(MARK).exists());
    assert!(!dir.join("weightvane.prom").exists());
    let asked = fs::read_to_string(dir.join("asked")).unwrap();
    assert_eq!(asked, format!("python train.py --output_dir {}/run\n", dir.display()));
}
