//! Machines and containers are given back: real ones, in roots that `tests/guests/mkroot` makes. VirtualBox is in one of Debian's sid, podman,
//! docker, libvirt and LXC in one of bookworm. The tests of a root run inside of it: this program starts itself again there, in namespaces
//! of its own, which take everything with them.

#[path = "../support/mod.rs"]
mod support;

#[path = "../gitlab/runner.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod runner;

mod docker;
mod halfway;
mod hostile;
mod later;
mod libvirt;
mod libvirt_system;
mod lxc;
mod lxc_odd;
mod lxc_user;
mod odd;
#[allow(dead_code, reason = "what the tests of each kind of guest take from it")]
mod peers;
mod podman;
mod points;
mod untouched;
mod unused;
mod vagrant;
mod vagrant_destroy;
mod virtualbox;
mod virtualbox_shared;

use crate::points::scenes;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use support::needs::{Need, met};
use support::{cgroup, commit, programs};

/// Set for the one that runs inside: the root that it is in.
const INSIDE: &str = "JOBCAGE_GUESTS_INSIDE";

type Test = (&'static str, fn());

/// Tests in the root of Debian's sid.
const SID: &[Test] = &[
    (
        "vagrant::a_job_that_is_cancelled_during_an_import",
        vagrant::beaker,
    ),
    ("vagrant::up_may_be_cut_at_any_moment", vagrant::cut),
    (
        "vagrant_destroy::the_jobs_code_runs_as_the_jobs_user",
        vagrant_destroy::wanted,
    ),
    (
        "vagrant_destroy::code_that_fails_or_hangs_harms_nobody",
        vagrant_destroy::hostile,
    ),
    (
        "vagrant_destroy::nothing_of_it_runs_unasked",
        vagrant_destroy::unasked,
    ),
    ("virtualbox::a_running_machine_is_given_back", virtualbox::running),
    ("virtualbox::a_neighbours_machine_runs_on", virtualbox::neighbour),
    (
        "virtualbox::without_a_place_a_neighbours_machine_dies",
        virtualbox::shared,
    ),
    ("virtualbox::whoever_gives_back_may_be_killed", virtualbox::killed),
    ("virtualbox::a_tool_may_be_cut_at_any_moment", virtualbox::cut),
    (
        "halfway::a_disk_that_virtualbox_has_forgotten_goes",
        halfway::forgotten,
    ),
    ("halfway::a_list_that_fails_is_asked_again", halfway::failed_once),
    (
        "halfway::what_tools_have_said_outlives_whoever_was_told",
        halfway::half_a_place,
    ),
    ("halfway::a_mount_in_a_place_is_named", halfway::mounted),
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
    ("odd::a_damaged_disk_elsewhere_is_named", odd::damaged_disk),
    ("odd::the_project_is_gone_before_the_end", odd::project_gone),
    ("odd::the_disk_is_full", odd::disk_full),
    (
        "odd::a_neighbours_number_proves_nothing",
        odd::a_neighbours_number,
    ),
    (
        "odd::a_job_that_drops_its_environment_is_told_of",
        odd::dropped_environment,
    ),
    (
        "odd::no_tool_is_started_before_the_cage_is_gone",
        odd::no_tool_before_the_end,
    ),
    (
        "hostile::a_registry_that_is_none_and_links_harm_nobody",
        hostile::registries,
    ),
    ("hostile::tools_that_do_not_end_have_their_time", hostile::tools),
    ("hostile::names_are_only_names", hostile::names),
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
        "virtualbox_shared::what_runs_outside_of_the_cage_is_given_back",
        virtualbox_shared::outside,
    ),
    (
        "virtualbox_shared::a_neighbours_machine_in_the_cage_stays_registered",
        virtualbox_shared::within,
    ),
    (
        "virtualbox_shared::a_machine_that_is_just_being_ended_is_the_jobs",
        virtualbox_shared::ending,
    ),
    (
        "virtualbox_shared::vagrants_machines_need_two_witnesses",
        virtualbox_shared::vagrant,
    ),
    (
        "virtualbox::a_job_without_machines_starts_no_tool",
        virtualbox::unused,
    ),
    // Last: what one that has failed leaves would disturb others.
    ("points::virtualbox", || points::sweep(&scenes::VIRTUALBOX)),
    ("points::virtualbox_shared", || {
        points::sweep(&scenes::VIRTUALBOX_SHARED);
    }),
    ("points::vagrant_destroy", || {
        points::sweep(&scenes::VAGRANT_DESTROY);
    }),
];

/// Tests in the root with podman, docker, libvirt and LXC.
const PEERS: &[Test] = &[
    ("peers::podman_runs_as_a_user", peers::podman),
    ("peers::docker_runs", peers::docker),
    ("peers::libvirt_session_and_system_run", peers::libvirt),
    ("peers::lxc_runs", peers::lxc),
    ("peers::a_job_runs_podman", peers::job),
    ("libvirt::a_jobs_own_machines_are_given_back", libvirt::isolated),
    ("libvirt::a_neighbours_machine_runs_on", libvirt::neighbour),
    (
        "libvirt::without_a_place_a_neighbours_machine_dies",
        libvirt::without,
    ),
    ("libvirt::what_the_user_has_is_there", libvirt::of_user),
    ("libvirt::hostile_files_harm_nobody", libvirt::hostile),
    (
        "libvirt::a_daemon_that_hangs_goes_with_the_place",
        libvirt::hanging,
    ),
    (
        "libvirt::a_machine_of_the_system_needs_two_witnesses",
        libvirt_system::two_witnesses,
    ),
    ("libvirt::whoever_gives_back_may_be_killed", libvirt::killed),
    ("libvirt::a_job_without_machines_starts_no_tool", libvirt::unused),
    ("podman::a_storage_of_its_own_goes_with_the_job", podman::isolated),
    (
        "podman::a_user_who_is_not_root_gets_rid_of_it_too",
        podman::rootless,
    ),
    ("podman::a_link_in_the_home_tells_nothing", podman::outward),
    (
        "podman::layers_and_a_dead_jobcage_leave_nothing",
        podman::overlaid,
    ),
    ("podman::the_next_jobs_podman_works", podman::shared),
    ("podman::unhelped_the_next_jobs_podman_fails", podman::unhelped),
    ("podman::a_neighbours_container_runs_on", podman::neighbour),
    ("podman::a_job_without_podman_starts_no_tool", podman::unused),
    ("docker::what_has_the_jobs_label_goes", docker::given_back),
    ("docker::what_is_a_neighbours_stays", docker::neighbour),
    (
        "docker::gc_comes_again_where_the_daemon_was_silent",
        docker::silent,
    ),
    ("docker::nothing_is_done_unasked", docker::off),
    (
        "docker::vagrants_containers_need_two_witnesses",
        docker::of_vagrant,
    ),
    ("lxc::what_has_the_jobs_name_goes", lxc::given_back),
    ("lxc::what_has_kept_the_jobs_variables_goes", lxc::escaped),
    ("lxc::what_is_nearly_called_so_runs_on", lxc::neighbour),
    ("lxc::what_others_may_write_is_not_touched", lxc_odd::distrusted),
    ("lxc::a_clone_goes_before_its_base", lxc_odd::clones),
    ("lxc::whoever_gives_back_may_be_killed", lxc::killed),
    ("lxc::gc_comes_again_where_a_monitor_was_silent", lxc_odd::silent),
    ("lxc::a_job_without_containers_starts_no_tool", lxc::unused),
    ("lxc::nothing_is_done_unasked", lxc::off),
    (
        "unused::a_job_without_any_of_it_starts_no_tool",
        unused::all_kinds,
    ),
    ("lxc::a_users_own_go_with_the_job", lxc_user::given_back),
    (
        "lxc::a_jobcage_of_the_users_own_tells_of_roots",
        lxc_user::rootless,
    ),
    ("points::libvirt", || points::sweep(&scenes::LIBVIRT)),
    ("points::podman", || points::sweep(&scenes::PODMAN)),
    ("points::podman_shared", || points::sweep(&scenes::PODMAN_SHARED)),
    ("points::podman_broken", || points::sweep(&scenes::PODMAN_BROKEN)),
    ("points::docker", || points::sweep(&scenes::DOCKER)),
    ("points::lxc", || points::sweep(&scenes::LXC)),
    ("points::hook", || points::sweep(&scenes::HOOK)),
];

/// What mkroot calls a root, its tests, and the way into it.
type Root = (&'static str, &'static [Test], fn() -> Command);

const ROOTS: [Root; 2] = [("sid", SID, into_sid), ("peers", PEERS, into_peers)];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They look for what is left in the whole root.
    arguments.test_threads = Some(1);
    let inside = std::env::var(INSIDE).ok();
    if inside.is_none() && !arguments.list {
        return outside(&arguments);
    }
    let here = |name: &str| inside.as_ref().is_none_or(|inside| inside == name);
    let here = ROOTS.iter().filter(|(name, ..)| here(name));
    let trials = here.flat_map(|(_, tests, _)| trials(tests)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(tests: &'static [Test]) -> impl Iterator<Item = Trial> {
    tests.iter().map(|(name, test)| {
        Trial::test(*name, move || {
            test();
            Ok::<(), Failed>(())
        })
    })
}

/// Runs the tests of one root after those of the other. A root of which no test is wanted is not made.
fn outside(arguments: &Arguments) -> ExitCode {
    let needs = ["mmdebstrap", "dpkg-deb", "unshare", "setpriv", "chroot"].map(Need::Program);
    if !met("guests", &[Need::Root]) || !met("guests", &needs) {
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (name, tests, into) in ROOTS {
        if trials(tests).any(|test| !arguments.is_filtered_out(&test)) {
            failed |= !run_inside(name, into());
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Whether the tests of a root have passed.
fn run_inside(name: &str, mut into: Command) -> bool {
    let status = into
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INSIDE, name)
        .env("JOBCAGE_BIN", programs::jobcage())
        .env("JOBCAGE_ZOO", programs::zoo())
        .env(commit::COMMIT, commit::commit())
        .status();
    // What a test of the peers has left in the root of all their cgroups, such as docker's.
    let left = cgroup::remove(&cgroup::base().join(name));
    cgroup::remove_base();
    let status = status.unwrap_or_else(|error| panic!("setpriv: {error}"));
    if let Err(why) = &left {
        support::say(&format!(
            "the cgroups of the root {name} cannot be removed: {why}"
        ));
    }
    status.success() && left.is_ok()
}

/// A command that ends with this process, as its namespaces do with it.
fn unshare(namespaces: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid"])
        .args(["--fork", "--kill-child", "--propagation", "private"])
        .args(namespaces);
    command
}

fn target() -> &'static Path {
    programs::jobcage().ancestors().nth(3).unwrap()
}

/// Where cargo has put the programs, for both of us.
fn shared() -> [PathBuf; 2] {
    [target().to_owned(), PathBuf::from(env!("CARGO_MANIFEST_DIR"))]
}

fn into_sid() -> Command {
    let root = make_root("sid", &target().join("guests"));
    // `/tmp` and the user's home have only what the tests themselves make.
    let mut script = format!(
        "set -e\nmount -t tmpfs -o mode=1777 tmp '{0}/tmp'\nmount -t tmpfs -o uid=2001,gid=2001 home '{0}/home/ci1'\n",
        root.display()
    );
    for dir in shared() {
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
    let mut command = unshare(&[]);
    command.args(["sh", "-c", &script, "sh"]);
    command
}

/// Their daemons make cgroups where they find the root of them: here that is one of ours, in a cgroup namespace.
fn into_peers() -> Command {
    let root = make_root("peers", &target().join("guests/peers"));
    let mut command = unshare(&["--net", "--ipc", "--uts"]);
    command
        .args([
            "sh",
            "-c",
            "echo 0 >\"$0/cgroup.procs\" && exec unshare --cgroup \"$@\"",
        ])
        .arg(cgroup::make("peers"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/enter-peers"))
        .arg(root)
        .args(shared())
        .arg("--")
        .env("JOBCAGE_TEST_CGROUP", peers::CGROUPS);
    command
}

fn make_root(kind: &str, dir: &Path) -> PathBuf {
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/mkroot"))
        .arg(dir)
        .arg(kind)
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(made.status.success(), "tests/guests/mkroot {kind} failed");
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}
