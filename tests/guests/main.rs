//! Machines are given back: real VirtualBox machines, in a root of Debian's sid that `tests/guests/mkroot` makes. The tests run inside of
//! it: this program starts itself again there, in mount and PID namespaces of its own, which take everything with them.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod support;

#[path = "../gitlab/runner.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod runner;

mod later;
mod odd;
mod vagrant;
mod virtualbox;

use libtest_mimic::{Arguments, Failed, Trial};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use support::needs::{Need, met};
use support::programs;

/// Set for the one that runs inside.
const INSIDE: &str = "JOBCAGE_GUESTS_INSIDE";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return outside();
    }
    let tests: [(&str, fn()); 22] = [
        (
            "vagrant::a_job_that_is_cancelled_during_an_import",
            vagrant::beaker,
        ),
        ("virtualbox::a_running_machine_is_given_back", virtualbox::running),
        ("virtualbox::a_neighbours_machine_runs_on", virtualbox::neighbour),
        (
            "virtualbox::without_a_place_a_neighbours_machine_dies",
            virtualbox::shared,
        ),
        ("virtualbox::whoever_gives_back_may_be_killed", virtualbox::killed),
        ("virtualbox::a_tool_may_be_cut_at_any_moment", virtualbox::cut),
        ("virtualbox::half_an_import_leaves_nothing", virtualbox::import),
        (
            "virtualbox::a_dead_runner_leaves_no_machine",
            virtualbox::runner_killed,
        ),
        (
            "later::a_quarantined_jobs_machines_are_given_back_when_it_is_over",
            later::quarantined,
        ),
        (
            "later::a_recorded_after_phase_has_the_machines_and_leaves_none",
            later::recorded_after,
        ),
        (
            "odd::a_daemon_that_died_and_a_machine_that_is_stopped",
            odd::dead_daemon_and_stopped_machine,
        ),
        ("odd::a_linked_clone_goes_before_its_base", odd::linked_clone),
        ("odd::damaged_files_go_with_the_place", odd::damaged_files),
        ("odd::the_project_is_gone_before_the_end", odd::project_gone),
        ("odd::the_disk_is_full", odd::disk_full),
        (
            "odd::a_neighbours_number_proves_nothing",
            odd::a_neighbours_number,
        ),
        (
            "odd::no_tool_is_started_before_the_cage_is_gone",
            odd::no_tool_before_the_end,
        ),
        ("virtualbox::a_hostile_registry_harms_nobody", virtualbox::hostile),
        (
            "virtualbox::a_place_without_a_record_is_freed",
            virtualbox::orphaned,
        ),
        (
            "virtualbox::create_and_run_have_places_too",
            virtualbox::other_verbs,
        ),
        (
            "virtualbox::four_machines_and_their_tools_alone",
            virtualbox::speed,
        ),
        (
            "virtualbox::a_job_without_machines_starts_no_tool",
            virtualbox::unused,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    });
    let mut arguments = Arguments::from_args();
    // They look for what is left in the whole root.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn outside() -> ExitCode {
    let needs = ["mmdebstrap", "dpkg-deb", "unshare", "chroot"].map(Need::Program);
    if !met("guests", &[Need::Root]) || !met("guests", &needs) {
        return ExitCode::SUCCESS;
    }
    let target = programs::jobcage().ancestors().nth(3).unwrap();
    let root = make_root(&target.join("guests"));
    // Both find their programs where cargo has put them. `/tmp` and the user's home have only what the tests themselves make.
    let shared = [target.to_owned(), PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
    let mut script = format!(
        "set -e\nmount -t tmpfs -o mode=1777 tmp '{0}/tmp'\nmount -t tmpfs -o uid=2001,gid=2001 home '{0}/home/ci1'\n",
        root.display()
    );
    for dir in &shared {
        let inside = root.join(dir.strip_prefix("/").unwrap());
        script += &format!(
            "mkdir -p '{0}'\nmount --rbind '{1}' '{0}'\n",
            inside.display(),
            dir.display()
        );
    }
    script += &format!(
        "mount --rbind /dev '{0}/dev'\nmount -t proc proc '{0}/proc'\nmount --rbind /sys '{0}/sys'\n\
         # Not as the first process of the namespace: whose parent is that one counts as forsaken.\n\
         chroot '{0}' \"$@\" || exit $?\n",
        root.display()
    );
    let error = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .env("JOBCAGE_BIN", programs::jobcage())
        .env("JOBCAGE_ZOO", programs::zoo())
        .exec();
    panic!("unshare: {error}");
}

fn make_root(dir: &Path) -> PathBuf {
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/mkroot"))
        .arg(dir)
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(made.status.success(), "tests/guests/mkroot failed");
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}
