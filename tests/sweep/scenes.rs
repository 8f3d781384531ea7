//! The whole jobs that are swept: what jobcage is asked to do, what happens meanwhile, and what is right.

use super::place::{DEADLINE, Place};
use super::run::Start;
use crate::support::process::Process;
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use std::fs;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command};

/// A whole job.
pub struct Scene {
    /// Its word; the tests' names.
    pub name: &'static str,
    /// What is there before, and the words for the jobcage under strace.
    pub prepare: fn(&mut Place) -> Start,
    /// What happens while it runs; it is given the process under strace. `true`: the scene has ended it.
    pub during: fn(&mut Place, &Process) -> bool,
    /// The right exit code.
    pub right: i32,
    /// Whether the watcher alone is to clean up behind it.
    pub watched: bool,
    /// Whether its cage rightly stays until `cleanup`, which the sweep does then.
    pub open: bool,
}

/// Says that it runs, and stays. It forks first: a child that is born while a signal is sent does not get it.
const STAY: &str = "sleep 100 & echo ready > ready; wait";

/// Leaves somebody behind. It says that it ran by a file.
const LEAVE: &str = "touch began; sleep 100 & exit 0";

/// All of them.
pub fn all() -> Vec<Scene> {
    let plain = Scene {
        name: "leftover",
        prepare: |_| run(&[], LEAVE),
        during: |_, _| false,
        right: 0,
        watched: true,
        open: false,
    };
    vec![
        Scene {
            name: "report",
            prepare: |place| {
                // This one finds a watcher; the others start it.
                run_plain(place, &["run", "--", "true"], 0);
                let options = ["--report", "report.json", "--after", "sleep 100 & touch after"];
                run(
                    &[&options[..], &["--best-effort", "--pids", "100"]].concat(),
                    "touch began; sleep 100 & exit 3",
                )
            },
            right: 3,
            ..plain
        },
        Scene {
            name: "timeout",
            // To the end of the grace time, since it ignores the signal.
            prepare: |_| {
                run(
                    &["--timeout", "50ms", "--grace", "20ms"],
                    "trap '' TERM; touch began; sleep 100",
                )
            },
            right: 124,
            ..plain
        },
        Scene {
            name: "cancel",
            // Where a signal cannot be sent, the grace time runs out.
            prepare: |_| run(&["--grace", "500ms"], STAY),
            during: |place, jobcage| {
                if place.wait_ready(jobcage) {
                    jobcage.signal(Signal::SIGTERM);
                }
                false
            },
            right: 143,
            ..plain
        },
        Scene {
            // A step: alone, --idle-timeout makes a captured job, of which tests/faults has more to say.
            name: "idle",
            prepare: |place| {
                let id = create(place);
                let script = "touch began; echo out; echo err >&2; sleep 100";
                run(&["--job", &id, "--idle-timeout", "50ms", "--grace", "1s"], script)
            },
            right: 124,
            open: true,
            watched: false,
            ..plain
        },
        Scene {
            name: "create",
            prepare: |_| Start::words(&["create", "--name", "c"]),
            open: true,
            watched: false,
            ..plain
        },
        lease(),
        Scene {
            name: "step",
            prepare: |place| {
                let id = create(place);
                Start::words(&["run", "--job", &id, "--", "sh", "-c", LEAVE])
            },
            open: true,
            watched: false,
            ..plain
        },
        Scene {
            // Cut off before it has begun, it is for a person to repeat.
            open: true,
            name: "cleanup",
            prepare: |place| {
                let id = create(place);
                run_plain(place, &["run", "--job", &id, "--", "sh", "-c", LEAVE], 0);
                Start::words(&["cleanup", &id])
            },
            watched: false,
            ..plain
        },
        Scene {
            name: "gc",
            prepare: orphan,
            watched: false,
            ..plain
        },
        watcher(),
        plain,
    ]
}

fn lease() -> Scene {
    Scene {
        name: "lease",
        prepare: |place| {
            let holder = Command::new("sleep").arg("100").spawn().unwrap();
            let pid = holder.id().to_string();
            place.helpers.push(holder);
            Start::words(&["create", "--lease-pid", &pid])
        },
        during: |place, jobcage| {
            // The end of the lease is the end of the job.
            jobcage.wait_end(DEADLINE);
            end(&mut place.helpers[0]);
            place.wait_over(|| !place.is_watched());
            false
        },
        right: 0,
        watched: false,
        open: false,
    }
}

/// The watcher itself, from its start to the closing of a job whose supervisor was killed.
fn watcher() -> Scene {
    Scene {
        name: "watcher",
        prepare: |place| {
            let [run, state] = ["run", "state"].map(|d| place.dir.join(d).display().to_string());
            let stdin = socket::socket(
                AddressFamily::Unix,
                SockType::SeqPacket,
                SockFlag::SOCK_CLOEXEC,
                None,
            )
            .unwrap();
            let address = UnixAddr::new(&place.dir.join("run/watch.sock")).unwrap();
            socket::bind(stdin.as_raw_fd(), &address).unwrap();
            socket::listen(&stdin, Backlog::MAXCONN).unwrap();
            fs::create_dir(place.root.join("hold")).unwrap();
            Start {
                words: ["__watch", &run, &state].map(str::to_owned).to_vec(),
                stdin: Some(stdin),
                inside: Some(place.root.join("hold")),
            }
        },
        during: |place, watcher| {
            let mut job = place.start(&run(&[], STAY).words, "job");
            let supervisor = Process::open(i32::try_from(job.id()).unwrap());
            assert!(
                place.wait_ready(&supervisor),
                "a job fails because its watcher does"
            );
            // Where the watcher has turned it away by the fault, the supervisor comes again by itself; killed before, it is gc's.
            place.wait_registered(watcher);
            end(&mut job);
            // Where the watcher is dead as well there is nobody to wait for.
            place.wait_over(|| watcher.has_ended() && !place.is_watched());
            let lives = !watcher.has_ended();
            watcher.signal(Signal::SIGKILL);
            lives
        },
        right: 0,
        watched: false,
        open: false,
    }
}

fn orphan(place: &mut Place) -> Start {
    let mut job = place.start(&run(&[], STAY).words, "job");
    let supervisor = Process::open(i32::try_from(job.id()).unwrap());
    assert!(
        place.wait_ready(&supervisor),
        "the job to be orphaned does not start"
    );
    // Stopped first, or they would close the job before they are killed themselves.
    let watchers: Vec<Process> = place
        .watchers(Some(supervisor.pid))
        .into_iter()
        .map(Process::open)
        .collect();
    for watcher in &watchers {
        watcher.signal(Signal::SIGSTOP);
    }
    end(&mut job);
    place.kill_watchers(None);
    Start::words(&["gc"])
}

fn create(place: &Place) -> String {
    run_plain(place, &["create"], 0).trim().to_owned()
}

fn run_plain(place: &Place, words: &[&str], right: i32) -> String {
    let ended = place.jobcage(words);
    assert_eq!(ended.code, Some(right), "{words:?}: {}", ended.stderr);
    ended.stdout
}

fn run(options: &[&str], script: &str) -> Start {
    Start::words(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
