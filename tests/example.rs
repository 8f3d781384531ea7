//! The real job of `examples/real-build` under `jobcage run`: its exit code comes back, its four leftovers are named in
//! the report, and nothing of it is alive.

mod support;

use jobcage_job::{Death, Ending, ExitStatus};
use std::path::{Path, PathBuf};
use support::needs::{self, Need};
use support::world::World;
use support::{process, programs};

const CODE: i32 = 3;

/// What the job leaves behind: the name that it prints, and what its command line holds.
const LEFTOVERS: [(&str, &str); 4] = [
    ("ssh-agent", "ssh-agent -s -a"),
    ("http.server", "-m http.server 0 --bind 127.0.0.1"),
    ("nohup-daemon", "build.log"),
    ("build-server", "real-build/build-server"),
];

/// Where the job keeps what it has built of its dependencies: beside cargo's own results, for the next run.
fn cache() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_jobcage"))
        .ancestors()
        .nth(3)
        .unwrap();
    target.join("real-build")
}

/// `left behind: PID NAME` lines.
fn said(output: &str) -> Vec<(i32, &str)> {
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix("left behind: ")?.split_once(' '));
    lines.map(|(pid, name)| (pid.parse().unwrap(), name)).collect()
}

#[test]
fn the_real_job_leaves_nothing_and_its_report_names_what_it_left() {
    let programs = ["git", "cargo", "python3", "ssh-agent", "setsid", "nohup"].map(Need::Program);
    if !needs::met("the_real_job", &programs) {
        return;
    }
    let mut world = World::new("real-build");
    let report_file = world.dir.join("report.json");
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/real-build/job");
    let output = world
        .command(programs::jobcage())
        .args(["run", "--name", "real-build", "--report"])
        .arg(&report_file)
        .arg("--")
        .arg(&job)
        .arg(CODE.to_string())
        .env("TMPDIR", &world.dir)
        .env("CARGO_TARGET_DIR", cache())
        .env("CARGO_HOME", programs::home_of("CARGO_HOME", ".cargo"))
        .env("RUSTUP_HOME", programs::home_of("RUSTUP_HOME", ".rustup"))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(CODE), "{stdout}\n{stderr}");
    assert!(
        stdout.contains("test result: ok."),
        "the crate's own tests ran: {stdout}"
    );

    let left = said(&stdout);
    assert_eq!(
        left.iter().map(|l| l.1).collect::<Vec<_>>(),
        LEFTOVERS.map(|l| l.0),
        "{stdout}"
    );
    let report = support::job::read_report(&report_file);
    assert_eq!(report.ending, Ending::Exited { code: CODE });
    assert_eq!(report.status, Some(ExitStatus::Code(CODE)));
    assert_eq!((report.exit_code, report.clean), (CODE, true), "{report:#?}");
    assert_eq!(report.census.count, 4, "{:#?}", report.census);
    for ((pid, name), (_, words)) in left.iter().zip(LEFTOVERS) {
        let found = report.census.left.iter().find(|l| l.pid == *pid);
        let found = found.unwrap_or_else(|| panic!("{name}, pid {pid}, is not in {:#?}", report.census));
        assert!(
            found.command.contains(words),
            "{name}: {:?} in {:?}",
            words,
            found.command
        );
        assert_eq!(found.died, Death::Killed);
        assert!(
            stderr.contains(&format!("pid {pid} ")),
            "a person is told of {name}: {stderr}"
        );
        assert!(
            process::stat(*pid).is_none_or(|(_, state, _)| state == 'Z'),
            "{name} is alive"
        );
    }
    let proof = report.proof.expect("there is a proof");
    assert_eq!((proof.populated, proof.removed), (Some(false), true));
    world.assert_nothing_left();
}
