//! `jobcage logs` and `attach`, on records that the test itself writes as a keeper and a supervisor would.

use crate::support::call::{Done, to_end, wait};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use crate::words;
use jobcage_job::{
    CaptureSpec, CreatedBy, JobId, JobSpec, LogFull, LogGap, LogReport, Report, SPEC_VERSION, StepReport,
    Stream, Streams,
};
use jobcage_ledger::{Lock, Record, boot_id};
use jobcage_sys::file::Durability;
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

const MERGED: CaptureSpec = CaptureSpec {
    streams: Streams::Merged,
    log_max: None,
    log_full: LogFull::Stop,
    sync: false,
};

const SPLIT: CaptureSpec = CaptureSpec {
    streams: Streams::Split,
    ..MERGED
};

const MIDDLE: CaptureSpec = CaptureSpec {
    log_max: Some(65536),
    log_full: LogFull::Middle,
    sync: false,
    ..MERGED
};

/// A job that is captured, looked after by this test.
struct Captured {
    record: Record,
    lock: Option<Lock>,
    id: String,
}

impl Captured {
    fn new(world: &World, capture: CaptureSpec) -> Self {
        let id = JobId::generate("captured", u64::from(std::process::id()));
        let spec = JobSpec {
            version: SPEC_VERSION,
            cage: world.cgroup_root.join(id.as_str()).display().to_string(),
            id: id.clone(),
            name: None,
            created_by: CreatedBy::Run,
            program: Some("sh".into()),
            limited: false,
            boot_id: boot_id().unwrap(),
            owner: nix::unistd::getuid().as_raw(),
            uid: nix::unistd::getuid().as_raw(),
            created_ns: 0,
            grace: Duration::ZERO,
            limits: jobcage_job::Limits::default(),
            lease: None,
            silence: None,
            after: false,
            ssh_agent: false,
            after_reboot: None,
            state_dir: None,
            labels: std::collections::BTreeMap::new(),
            guests: None,
            login: None,
            guard: false,
            capture: Some(capture),
        };
        let (record, lock) = Record::create(&world.dir.join("state"), &spec, Durability::Kernel).unwrap();
        Self {
            record,
            lock: Some(lock),
            id: id.to_string(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.record.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(self.path(name))
            .unwrap();
        log.write_all(bytes).unwrap();
    }

    fn step(&self, number: u32, ended: bool, logs: &[LogReport]) {
        let json = json!({
            "number": number, "name": "main", "kind": "step", "started": "",
            "ending": {"kind": "exited", "code": 0}, "ended": ended.then_some(""), "logs": logs,
        });
        let step: StepReport = serde_json::from_value(json).unwrap();
        self.record.write_step(&step).unwrap();
    }

    fn close(&self, code: i32, ending: &serde_json::Value) {
        let json = json!({
            "version": 1, "jobcage": "", "job": self.id, "ending": ending, "exit_code": code, "clean": true,
            "closed_by": "supervisor", "started": "", "ended": "", "wall_seconds": 1.5, "boot_id": "", "cage": "",
            "steps": [], "census": {"method": "empty", "count": 0}, "usage": {},
        });
        let report: Report = serde_json::from_value(json).unwrap();
        self.record.close(&report).unwrap();
    }

    fn exited(&self, code: i32) {
        self.close(code, &json!({"kind": "exited", "code": code}));
    }

    /// Ends the pretence, so that the world finds nothing left.
    fn end(mut self) {
        drop(self.lock.take());
        self.record.remove().unwrap();
    }
}

fn log(stream: Stream, bytes: u64) -> LogReport {
    LogReport {
        stream,
        bytes,
        at_exit: Some(bytes),
        dropped: None,
        whole: true,
    }
}

/// A `jobcage` that goes on meanwhile.
struct Running {
    child: Child,
    told: String,
}

impl Running {
    fn start(world: &World, words: &[&str]) -> Self {
        let mut command = world.command(programs::jobcage());
        command.args(words).stdin(Stdio::null());
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            told: String::new(),
        }
    }

    fn expect(&mut self, wanted: &str) {
        let mut found = vec![0; wanted.len()];
        self.child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut found)
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found), wanted);
    }

    fn expect_error(&mut self, wanted: &str) {
        let mut found = vec![0; wanted.len()];
        self.child
            .stderr
            .as_mut()
            .unwrap()
            .read_exact(&mut found)
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found), wanted);
    }

    fn signal(&self, signal: Signal) {
        Process::open(i32::try_from(self.child.id()).unwrap()).signal(signal);
    }

    /// Its exit code; the rest of its stderr is in `told`.
    fn end(&mut self) -> i32 {
        let status = wait(&mut self.child, PATIENCE).expect("it does not end");
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut self.told);
        status.code().unwrap_or(-1)
    }
}

fn printed(world: &World, words: &[&str]) -> (String, String) {
    let done = world.call(words).expect(0);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&done.out), text(&done.err))
}

#[test]
fn logs_prints_what_is_there_of_all_steps_or_of_what_is_asked_for() {
    let world = World::new("logs-merged");
    let job = Captured::new(&world, MERGED);
    let id = job.id.as_str();
    let print = |options: &[&str]| {
        let mut words = vec!["logs", id];
        words.extend(options);
        let (out, err) = printed(&world, &words);
        assert_eq!(err, "");
        out
    };
    assert_eq!(print(&[]), "", "nothing was written yet");
    job.write("log-01", b"one\ntwo\nno end");
    job.write("log-02", b"after\n");
    assert_eq!(print(&[]), "one\ntwo\nno endafter\n");
    assert_eq!(print(&["--step", "2"]), "after\n");
    assert_eq!(print(&["--step", "1", "--offset", "4"]), "two\nno end");
    assert_eq!(print(&["--offset", "8"]), "no endafter\n");
    assert_eq!(print(&["--offset", "1G"]), "after\n");
    assert_eq!(print(&["--tail", "2"]), "no endafter\n");
    assert_eq!(print(&["--tail", "3"]), "two\nno endafter\n");
    assert_eq!(print(&["--tail", "0"]), "");
    let refused = |options: &[&str]| world.call(&[&["logs", id], options].concat()).refused();
    let told = refused(&["--stream", "stderr"]);
    assert!(
        told.contains("are merged into one log: leave --stream out"),
        "{told}"
    );
    let told = refused(&["--step", "7"]);
    assert!(
        told.contains(&format!("the job {id} has no log of a step 7")),
        "{told}"
    );
    let told = world.call(&["logs", "captured-ffffffff"]).refused();
    assert!(told.contains("there is no job captured-ffffffff"), "{told}");
    job.end();
}

#[test]
fn split_streams_come_where_they_belong_and_one_that_is_asked_for_to_stdout() {
    let world = World::new("logs-split");
    let job = Captured::new(&world, SPLIT);
    let id = job.id.as_str();
    job.write("log-01.stdout", b"out\xff\0\n");
    job.write("log-01.stderr", b"err\n");
    let done = world.call(&["logs", id]).expect(0);
    assert_eq!(
        (done.out.as_slice(), done.err.as_slice()),
        (&b"out\xff\0\n"[..], &b"err\n"[..])
    );
    let stderr = printed(&world, &["logs", id, "--stream", "stderr", "--offset", "1"]);
    assert_eq!(stderr, ("rr\n".into(), String::new()));
    for verb in ["logs", "attach"] {
        let told = world.call(&[verb, id, "--offset", "1"]).refused();
        assert!(told.contains("an offset is one of either"), "{told}");
    }
    job.exited(3);
    let done = world.call(&["attach", id]).expect(3);
    assert_eq!(
        (done.out.as_slice(), done.err.as_slice()),
        (&b"out\xff\0\n"[..], &b"err\n"[..])
    );
    job.end();
}

#[test]
fn logs_follows_to_the_end_of_the_job_or_of_the_step() {
    let world = World::new("logs-follow");
    let job = Captured::new(&world, MERGED);
    let mut all = Running::start(&world, &["logs", "-f", &job.id]);
    let mut step = Running::start(
        &world,
        &["logs", &job.id, "--follow", "--step", "1", "--offset", "1"],
    );
    job.write("log-01", b"a");
    all.expect("a");
    for dot in ["b", "c", "."] {
        job.write("log-01", dot.as_bytes());
        all.expect(dot);
        step.expect(dot);
    }
    job.step(1, true, &[log(Stream::Merged, 4)]);
    assert_eq!(step.end(), 0);
    job.write("log-02", b"after");
    all.expect("after");
    job.exited(1);
    assert_eq!(all.end(), 0, "that of the job is for attach: {}", all.told);
    job.end();
}

#[test]
fn a_follower_ends_with_its_reader_and_without_a_word() {
    let world = World::new("logs-gone");
    let job = Captured::new(&world, MERGED);
    for words in [["logs", "-f", &job.id].as_slice(), &["attach", &job.id]] {
        let mut follower = Running::start(&world, words);
        job.write("log-01", b"x");
        follower.expect("x");
        drop(follower.child.stdout.take());
        assert_eq!((follower.end(), follower.told.as_str()), (141, ""));
    }
    job.end();
}

#[test]
fn a_dropped_middle_is_told_once_on_stderr() {
    let world = World::new("logs-middle");
    let job = Captured::new(&world, MIDDLE);
    job.write(
        "log-01",
        &[vec![b'h'; 16384], vec![0; 8192], vec![b't'; 100]].concat(),
    );
    std::fs::write(
        job.path("log-01.gap"),
        [16384_u64, 24576].map(u64::to_le_bytes).concat(),
    )
    .unwrap();
    let (out, err) = printed(&world, &["logs", &job.id]);
    assert_eq!(out, "h".repeat(16384) + &"t".repeat(100));
    assert_eq!(
        err,
        "jobcage: 8192 bytes of log-01 are left out here: they were dropped at the limit of the log\n"
    );
    let (out, err) = printed(&world, &["logs", &job.id, "--offset", "24000"]);
    assert_eq!(out, "t".repeat(100));
    assert!(err.contains(" 576 bytes of log-01 "), "{err}");
    job.end();
}

#[test]
fn verify_believes_the_step_and_the_length_and_nothing_else() {
    let world = World::new("logs-verify");
    let job = Captured::new(&world, MIDDLE);
    let verify = || world.call(&["logs", "--verify", &job.id]);
    let fails = |why: &str| {
        let done = verify().expect(1);
        let told = done.told();
        assert!(
            done.out.is_empty() && told.contains(&format!("{} {why}", job.id)),
            "{told}"
        );
    };
    let told = verify().refused();
    assert!(told.contains("has no such log"), "{told}");
    job.write("log-01", b"12345");
    fails("is not whole yet: 5 bytes are there, and its step has not ended");
    job.step(
        1,
        true,
        &[LogReport {
            whole: false,
            ..log(Stream::Merged, 5)
        }],
    );
    fails("is not whole yet");
    job.step(1, true, &[log(Stream::Merged, 5)]);
    assert_eq!(verify().expect(0).text(), "log-01: whole, 5 bytes");
    // Cut off, and longer.
    File::options()
        .write(true)
        .open(job.path("log-01"))
        .unwrap()
        .set_len(4)
        .unwrap();
    fails("is not whole: it has 4 bytes, and 5 were written");
    job.write("log-01", b"567");
    fails("is not whole: it has 7 bytes, and 5 were written");
    let gap = LogGap { from: 2, to: 4 };
    job.step(
        1,
        true,
        &[LogReport {
            dropped: Some(gap),
            ..log(Stream::Merged, 7)
        }],
    );
    fails("is not whole: what is dropped of it is not what was said to be");
    std::fs::write(job.path("log-01.gap"), [2_u64, 4].map(u64::to_le_bytes).concat()).unwrap();
    assert_eq!(
        verify().expect(0).text(),
        "log-01: whole, 7 bytes, of which 2 from byte 2 on were dropped at its limit"
    );
    job.step(2, true, &[log(Stream::Merged, 9)]);
    let done = verify().expect(1);
    assert_eq!(done.text().lines().count(), 1);
    assert!(
        done.told()
            .contains(&format!("log-02 of the job {} is not there", job.id)),
        "{}",
        done.told()
    );
    job.step(1, true, &[]);
    job.exited(0);
    fails("is not whole: 7 bytes are there, and nobody saw that nothing is missing");
    job.end();
}

#[test]
fn a_checksum_is_that_of_sha256sum_without_the_middle() {
    let world = World::new("logs-checksum");
    let job = Captured::new(&world, MIDDLE);
    let sha256sum = |bytes: &[u8]| {
        let mut command = world.command("sha256sum");
        command.arg("-");
        to_end(command, bytes).expect(0).text().replace('-', "")
    };
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    job.write("log-01", &content);
    let line = |done: Done| done.expect(0).text();
    let path = job.path("log-01").display().to_string();
    let call = || world.call(&["logs", &job.id, "--checksum"]);
    assert_eq!(line(call()), sha256sum(&content) + &path);
    // The bytes of a hole are not the job's.
    std::fs::write(
        job.path("log-01.gap"),
        [16384_u64, 20480].map(u64::to_le_bytes).concat(),
    )
    .unwrap();
    let left = [&content[..16384], &content[20480..]].concat();
    let done = call();
    assert!(
        done.told().contains("4096 bytes of log-01 are left out here"),
        "{}",
        done.told()
    );
    assert_eq!(line(done), sha256sum(&left) + &path);
    job.end();
}

#[test]
fn attach_ends_as_its_job_ends_and_tells_what_run_would_have_told() {
    let world = World::new("attach-end");
    let job = Captured::new(&world, MERGED);
    let mut attached = Running::start(&world, &["attach", &job.id]);
    let mut late = Running::start(&world, &["attach", "--tail", "0", &job.id]);
    job.write("log-01", b"main ");
    attached.expect("main ");
    job.step(1, true, &[log(Stream::Merged, 5)]);
    job.write("log-02", b"after");
    attached.expect("after");
    job.close(124, &json!({"kind": "timed_out", "clock": "wall"}));
    assert_eq!(attached.end(), 124);
    assert!(
        attached
            .told
            .starts_with(&format!("jobcage: {}: the job ran out of time", job.id)),
        "{}",
        attached.told
    );
    assert_eq!(late.end(), 124);
    let quiet = world.call(&["attach", "-q", &job.id]).expect(124);
    assert_eq!((quiet.text().as_str(), quiet.told().as_str()), ("main after", ""));
    job.end();
}

#[test]
fn ctrl_c_and_term_leave_the_job_alone_and_say_how_to_come_back() {
    let world = World::new("attach-interrupt");
    let job = Captured::new(&world, MERGED);
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        job.write("log-01", b"12345");
        let length = std::fs::metadata(job.path("log-01")).unwrap().len();
        let mut attached = Running::start(&world, &["attach", &job.id]);
        attached.expect(&"12345".repeat(usize::try_from(length / 5).unwrap()));
        attached.signal(signal);
        assert_eq!(attached.end(), code);
        let told = format!(
            "jobcage: the job {id} goes on; \"jobcage attach {id} --offset {length}\" comes back to it, \"jobcage stop \
             {id}\" stops it\n",
            id = job.id
        );
        assert_eq!(attached.told, told);
        assert!(job.record.report().unwrap().is_none());
    }
    job.end();
}

/// The job is an orphan, which a stop closes: so it is over without a supervisor.
#[test]
fn with_stop_on_interrupt_the_job_is_stopped_and_attach_stays_to_its_end() {
    let world = World::new("attach-stop");
    let mut job = Captured::new(&world, MERGED);
    drop(job.lock.take());
    let mut attached = Running::start(&world, &["attach", "--stop-on-interrupt", &job.id]);
    let orphan = format!(
        "jobcage: nobody looks after the job {}; \"jobcage gc\" closes it\n",
        job.id
    );
    attached.expect_error(&orphan);
    job.write("log-01", b"abc");
    attached.expect("abc");
    attached.signal(Signal::SIGINT);
    assert_eq!(attached.end(), 143, "{}", attached.told);
    let report = job.record.report().unwrap().unwrap();
    assert_eq!(report.exit_code, 143);
    assert!(
        attached.told.contains("the job was stopped by"),
        "{}",
        attached.told
    );
    job.end();
}

#[test]
fn a_record_that_goes_meanwhile_is_an_error_and_not_an_end() {
    let world = World::new("attach-removed");
    let job = Captured::new(&world, MERGED);
    let mut attached = Running::start(&world, &["attach", &job.id]);
    let mut logs = Running::start(&world, &["logs", "-f", &job.id]);
    job.write("log-01", b"abc");
    attached.expect("abc");
    logs.expect("abc");
    let id = job.id.clone();
    job.end();
    for one in [&mut attached, &mut logs] {
        assert_eq!(one.end(), 125);
        assert!(
            one.told
                .contains(&format!("the record of the job {id} was removed meanwhile")),
            "{}",
            one.told
        );
    }
}

#[test]
fn a_job_that_is_not_captured_says_where_its_output_is() {
    let mut world = World::new("attach-uncaptured");
    let mut job = world.run(&[], &[], &words(&["sh", "-c", "echo up; sleep 300"]));
    assert!(job.wait_line("up"));
    let id = world.records().remove(0);
    let pid = job.jobcage.pid;
    let file = |fd: u8| {
        std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
            .unwrap()
            .display()
            .to_string()
    };
    let told = format!(
        "jobcage: the job {id} is not captured: its output goes to {} and {} of pid {pid}\n",
        file(1),
        file(2)
    );
    for verb in ["attach", "logs"] {
        assert_eq!(world.call(&[verb, &id]).refused(), told);
    }
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
    let open = crate::create(&world, &[]);
    let told = world.call(&["attach", &open]).refused();
    assert!(
        told.contains("the output of each step goes where that step was started"),
        "{told}"
    );
    world.call(&["cleanup", &open]).expect(0);
    let told = world.call(&["logs", &open]).refused();
    assert!(told.contains("was not captured: its output went"), "{told}");
}

/// A crowd of followers uses up the 128 inotify instances of a user, which must not keep the next one from following.
#[test]
fn a_follower_without_inotify_follows_as_well() {
    let world = World::new("logs-dnotify");
    let job = Captured::new(&world, MERGED);
    let mut command = world.command("unshare");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" logs -f \"$1\"";
    command
        .args(["-Ur", "sh", "-c", script])
        .arg(programs::jobcage())
        .arg(&job.id)
        .stdin(Stdio::null());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut follower = Running {
        child,
        told: String::new(),
    };
    job.write("log-01", b"a");
    follower.expect("a");
    for dot in ["b", "c"] {
        job.write("log-01", dot.as_bytes());
        follower.expect(dot);
    }
    let links = std::fs::read_dir(format!("/proc/{}/fd", follower.child.id())).unwrap();
    let links: Vec<String> = links
        .map(|fd| {
            std::fs::read_link(fd.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert!(links.iter().any(|link| link.contains("signalfd")), "{links:?}");
    assert!(!links.iter().any(|link| link.contains("inotify")), "{links:?}");
    job.exited(0);
    assert_eq!(follower.end(), 0, "{}", follower.told);
    job.end();
}
