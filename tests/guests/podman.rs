//! Rootless podman: what a job has kept for itself goes with it; where all jobs of a user share one storage, the next one's podman works, and only
//! containers with the job's label go.

use crate::peers::{IMAGE, USER};
use crate::runner::Runner;
use crate::support::process::stat;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup};
use crate::virtualbox::{configured, ok, places, world};
use jobcage_job::GuestReport;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

const UID: u32 = 2001;
const HOME: &str = "/home/ci1";

/// A world in which the build user has never used podman.
pub fn fresh(test: &str) -> World {
    for dir in [
        "/home/ci1/.local",
        "/home/ci1/.config",
        "/home/ci1/.cache",
        "/tmp/podman-run-2001",
        "/tmp/containers-user-2001",
        "/tmp/run-2001",
    ] {
        let _ = fs::remove_file(dir);
        let _ = fs::remove_dir_all(dir);
    }
    world(test)
}

/// A prepared job of the build user, for which the site says this.
pub fn job<'w>(world: &'w World, id: u64, guests: &str) -> Runner<'w> {
    job_in(world, id, guests, "")
}

/// With one more line of the configuration.
pub fn job_in<'w>(world: &'w World, id: u64, guests: &str, more: &str) -> Runner<'w> {
    // Debian's clears the console where SHLVL is 1, and each stage fails then: that depends on who has started these tests.
    let _ = fs::remove_file(Path::new(HOME).join(".bash_logout"));
    configured(world, id, &format!("[run]\nguests = '{guests}'\n{more}\n"))
}

/// What a stage says that has to succeed.
pub fn says(job: &Runner<'_>, script: &str) -> String {
    let stage = job.stage("build_script", script);
    ok(&stage);
    stage.log
}

pub fn end(job: &Runner<'_>) -> String {
    let ended = job.call("cleanup", &[]);
    ok(&ended);
    ended.log
}

fn import() -> String {
    format!("podman import -q {IMAGE} busybox >/dev/null; ")
}

/// The jobs' directories of sockets.
fn sockets() -> Vec<PathBuf> {
    let listed = fs::read_dir("/tmp").unwrap().map(|entry| entry.unwrap().path());
    listed
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("jc-"))
        .collect()
}

pub fn guests(world: &World, what: &str) -> Vec<GuestReport> {
    let reports = world.closed_reports();
    assert!(reports.iter().all(|report| report.clean), "{reports:#?}");
    let all = reports.into_iter().flat_map(|report| report.guests);
    all.filter(|guest| guest.what == what).collect()
}

/// No process with this name is anywhere in the root.
fn assert_none_runs(name: &str) {
    let listed = fs::read_dir("/proc").unwrap().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found: Vec<i32> = pids
        .filter(|pid| stat(*pid).is_some_and(|(comm, ..)| comm == name))
        .collect();
    assert_eq!(found, Vec::<i32>::new(), "{name} runs");
}

fn assert_given_back(mut world: World) {
    assert_eq!((places(&world), sockets()), (Vec::new(), Vec::new()));
    assert_none_runs("conmon");
    world.assert_nothing_left();
}

/// Two jobs of one user, each with a storage of its own, in which a container has made files of other users without any rights.
pub fn isolated() {
    let world = fresh("podman-own");
    let own = PathBuf::from(HOME).join(".config");
    fs::create_dir_all(own.join("containers")).unwrap();
    for dir in [&own, &own.join("containers")] {
        chown(dir, Some(UID), Some(UID)).unwrap();
    }
    fs::write(own.join("other"), "found").unwrap();
    fs::write(
        own.join("containers/containers.conf"),
        "[engine]\ncgroup_manager = \"systemd\"\n",
    )
    .unwrap();
    {
        let [a, b] = [600, 601].map(|id| job(&world, id, "podman=isolate"));
        let run = "podman run -d --name web busybox sh -c 'mkdir -p /x/y; chown 7:7 /x/y /x; chmod 0 /x/y /x; sleep 1000' >/dev/null
            podman run -d --user 1000 --name idle busybox sleep 1000 >/dev/null; while [ $(podman exec web stat -c %a /x) != 0 ]; do :; done; ";
        let look = "podman ps --format '{{.Names}}'; podman info -f '{{.Host.CgroupManager}}'; cat $XDG_CONFIG_HOME/other; \
            stat -c %a $XDG_RUNTIME_DIR; echo ${#XDG_RUNTIME_DIR}";
        for job in [&a, &b] {
            let said = says(job, &format!("{}{run}{look}", import()));
            for word in ["web", "idle", "cgroupfs", "found700\n24\n"] {
                assert!(said.contains(word), "{word}: {said}");
            }
        }
        assert_eq!((places(&world).len(), sockets().len()), (2, 2));
        assert!(!Path::new(HOME).join(".local/share/containers").exists());
        // Cancelled, while a container runs in the foreground.
        let mut stage = a.start_stage(
            "step_more",
            "podman run --rm busybox sh -c 'echo it runs; sleep 1000'",
        );
        stage.wait_line("it runs");
        stage.signal(Signal::SIGTERM);
        stage.end();
        let log = end(&a);
        assert!(
            log.contains("machines and files in") && log.contains(" freed"),
            "{log}"
        );
        assert_eq!((places(&world).len(), sockets().len()), (1, 1));
        let said = says(
            &b,
            "podman exec web echo is alive; podman ps --format '{{.Names}}' | wc -l",
        );
        assert_eq!(said.matches("is alive\n2\n").count(), 1, "{said}");
        end(&b);
    }
    assert_given_back(world);
}

/// What only root can read is not told to a job by the names of links.
pub fn outward() {
    let world = fresh("podman-link");
    let secret = Path::new("/root/secret");
    fs::create_dir_all(secret.join("name")).unwrap();
    std::os::unix::fs::symlink(secret, Path::new(HOME).join(".config")).unwrap();
    {
        let job = job(&world, 605, "podman=isolate");
        assert_eq!(
            says(&job, "ls $XDG_CONFIG_HOME $XDG_DATA_HOME | xargs")
                .matches("name")
                .count(),
            0
        );
        end(&job);
    }
    assert!(secret.join("name").exists());
    fs::remove_dir_all(secret).unwrap();
    assert_given_back(world);
}

/// Layers that are mounted upon each other, and a jobcage that is killed: whoever closes the job finds no mount in the way.
pub fn overlaid() {
    let mut world = fresh("podman-over");
    // An overlay of our own is no place for another one.
    let base = PathBuf::from("/dev/shm/jobcage-guests");
    let script = format!(
        "export STORAGE_DRIVER=overlay; {}podman run -d --name web busybox sh -c 'mkdir /x; chown 7:7 /x; chmod 0 /x; sleep 1000' >/dev/null
         podman exec web mount | grep -o '^overlay on / '; while [ $(podman exec web stat -c %a /x) != 0 ]; do :; done; echo ready; sleep 1000",
        import()
    );
    let base_said = base.display().to_string();
    let options = [
        "--user",
        USER,
        "--login",
        "--guests",
        "podman=isolate",
        "--guests-dir",
        &base_said,
    ];
    let mut job = world.run(
        &[],
        &options.map(str::to_owned),
        &["sh", "-ec", &script].map(str::to_owned),
    );
    assert!(job.wait_line("ready"), "{}", job.stderr());
    assert!(job.stdout().contains("overlay on / "), "{}", job.stdout());
    assert_eq!((listed(&base), sockets().len()), (1, 1));
    job.signal(Signal::SIGKILL);
    job.wait(PATIENCE);
    let gone = || listed(&base) == 0 && sockets().is_empty();
    assert!(
        cgroup::wait_change(&base, PATIENCE, gone),
        "{:?}",
        fs::read_dir(&base)
    );
    assert!(cgroup::wait_empty(
        &world.cgroup_root.join("supervisors"),
        PATIENCE
    ));
    fs::remove_dir(&base).unwrap();
    assert_none_runs("conmon");
    world.assert_nothing_left();
}

fn listed(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Gives a world to the build user: with which words he calls jobcage, from a cgroup that is to be removed.
pub fn as_user(world: &World) -> (Vec<String>, PathBuf) {
    let entry = world.cgroup_root.join("entry");
    fs::create_dir(&entry).unwrap();
    for dir in [&world.cgroup_root, &entry] {
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            chown(dir.join(file), Some(UID), Some(UID)).unwrap();
        }
    }
    for dir in ["", "run", "state", "home"] {
        chown(world.dir.join(dir), Some(UID), Some(UID)).unwrap();
    }
    let user = ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"];
    let (zoo, into) = (world.zoo.display().to_string(), entry.display().to_string());
    let wrap = [&[&*zoo, "in-cgroup", &*into], &user[..]].concat();
    (wrap.iter().map(|word| (*word).to_owned()).collect(), entry)
}

/// jobcage is the user's own: what belongs to his further ids goes by podman.
pub fn rootless() {
    let mut world = fresh("podman-user");
    let (wrap, entry) = as_user(&world);
    let script = format!(
        "{}podman run --name web busybox sh -c 'mkdir /x; touch /x/y; chown 7:7 /x/y /x; chmod 0 /x'
         podman run -d --name on busybox sleep 1000 >/dev/null; S=$XDG_DATA_HOME/containers/storage
         find $S -not -user {USER} | wc -l; rm -rf $S/vfs/dir 2>/dev/null || echo refused",
        import()
    );
    let damage = "rm -rf $XDG_RUNTIME_DIR $S/vfs-layers; echo 1 >$S/libpod/bolt_state.db";
    for script in [script.clone(), format!("{script}\n{damage}")] {
        let done = world.jobcage(
            &wrap,
            &["run", "--guests", "podman=isolate", "--", "sh", "-c", &script],
        );
        let [out, told] = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(
            done.status.success() && out.ends_with("1\nrefused\n"),
            "{out}{told}"
        );
        let line = told
            .lines()
            .find(|line| line.contains("the storage of podman in \""));
        assert!(line.is_some_and(|line| line.contains("\": deleted")), "{told}");
        assert_eq!((places(&world), sockets()), (Vec::new(), Vec::new()), "{told}");
    }
    assert_none_runs("conmon");
    fs::remove_dir(&entry).unwrap();
    world.assert_nothing_left();
}

/// What a job does that leaves containers in the storage of all jobs: one with its label, one without.
fn leave() -> String {
    format!(
        "{}podman run -d --name web --label jobcage.job=$JOBCAGE_JOB busybox sleep 1000 >/dev/null
         podman create --name idle --label jobcage.job=$JOBCAGE_JOB busybox true >/dev/null
         podman run -d --name other busybox sleep 1000 >/dev/null",
        import()
    )
}

/// The next job's podman works, and finds what was not the job's.
pub fn shared() {
    let world = fresh("podman-shared");
    {
        let a = job(&world, 610, "podman=shared");
        says(&a, &leave());
        let log = end(&a);
        let told = |name: &str, fate: &str| {
            let line = log
                .lines()
                .find(|line| line.contains(&format!("podman container \"{name}\" {{")));
            assert!(line.is_some_and(|line| line.ends_with(fate)), "{name}: {log}");
        };
        told("web", "}: running → deleted");
        told("idle", "}: deleted");
        let b = job(&world, 611, "podman=shared");
        assert!(says(&b, "podman ps -a --format '<{{.Names}}>'").ends_with("<other>\n"));
        // Both closers find it broken, and one of them makes it work for both.
        let c = job(&world, 612, "podman=shared");
        for job in [&b, &c] {
            says(
                job,
                "podman run -d --label jobcage.job=$JOBCAGE_JOB busybox sleep 1000",
            );
        }
        let first = b.start("cleanup", &[]);
        end(&c);
        ok(&first.end());
        let d = job(&world, 613, "podman=shared");
        let said = says(&d, "podman ps -a --format '<{{.Names}}>'");
        assert!(
            said.ends_with("<other>\n") && said.matches('<').count() == 1,
            "{said}"
        );
        end(&d);
    }
    assert_eq!(guests(&world, "container").len(), 4);
    assert_given_back(world);
}

/// And without jobcage's help it does not: the test before this one can fail.
pub fn unhelped() {
    let world = fresh("podman-broken");
    {
        let a = job(&world, 620, "off");
        says(&a, &leave());
        end(&a);
        let b = job(&world, 621, "off");
        let stage = b.stage("build_script", "podman ps -a");
        assert!(
            stage.code != 0 && stage.log.contains("podman system migrate"),
            "{}",
            stage.log
        );
        end(&b);
    }
    assert_given_back(world);
}

/// A neighbour's container is neither removed nor stopped, whatever a job writes into its own names, labels and arguments.
pub fn neighbour() {
    let world = fresh("podman-next");
    {
        let [a, b] = [630, 631].map(|id| job(&world, id, "podman=shared"));
        // The process that keeps the namespace is the first one's.
        says(&a, &import());
        let said = says(
            &b,
            "echo id=$(podman run -d --name b busybox sleep 1000); podman create --name exited busybox true >/dev/null",
        );
        let id = said.trim().rsplit_once("id=").unwrap().1.to_owned();
        assert_eq!(id.len(), 64, "{said}");
        says(
            &a,
            &format!(
                "podman run -d --name a --label jobcage.job=$JOBCAGE_JOB busybox sleep 1000 >/dev/null
                 podman create --name fake --label \"jobcage.job=${{JOBCAGE_JOB}}x\" busybox true >/dev/null
                 podman create --name lines --label \"jobcage.job=$JOBCAGE_JOB
{id} b\" --label \"x=\"'\"'\"\n{id}\" busybox true >/dev/null
                 cp $(command -v bash) conmon; ./conmon -c 'sleep 1000; :' -c {id} </dev/null >/dev/null 2>&1 & "
            ),
        );
        let log = end(&a);
        assert!(
            log.contains("podman container \"a\" {") && !log.contains(&id),
            "{log}"
        );
        let said = says(
            &b,
            "podman exec b echo is alive; podman ps -a --format '{{.Names}}' | sort | xargs",
        );
        assert!(said.ends_with("is alive\nb exited fake lines\n"), "{said}");
        // Ended by nobody's migrate: it has run all the time.
        assert!(
            says(&b, "podman inspect -f '{{.State.Running}} {{.State.ExitCode}}' b").ends_with("true 0\n")
        );
        // That one has no process in its cage when it ends: the process that keeps the namespace is now b's.
        let c = job(&world, 632, "podman=shared");
        says(
            &c,
            "podman run --name done --label jobcage.job=$JOBCAGE_JOB busybox true",
        );
        let log = end(&c);
        assert!(
            log.contains("podman container \"done\" {") && !log.contains("left and killed"),
            "{log}"
        );
        assert!(says(&b, "podman exec b echo is alive").ends_with("is alive\n"));
        end(&b);
    }
    assert_eq!(guests(&world, "container").len(), 2);
    assert_given_back(world);
}

/// A job that has nothing to do with podman starts no tool, which would have made a storage.
pub fn unused() {
    let world = fresh("podman-unused");
    {
        let a = job(&world, 640, "podman=shared");
        assert!(says(&a, "echo runtime=$XDG_RUNTIME_DIR.").ends_with("runtime=.\n"));
        end(&a);
    }
    assert!(guests(&world, "container").is_empty() && !Path::new(HOME).join(".local").exists());
    assert_given_back(world);
}
