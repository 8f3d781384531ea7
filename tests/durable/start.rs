//! `run --detach`: it returns at once, and what it started has nothing of its client.

use crate::pty::Terminal;
use crate::support::captured::Captured;
use crate::support::needs::{Need, met};
use crate::support::process::{Process, cgroup_of, stat};
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use jobcage_job::Ending;
use nix::sys::signal::Signal;
use std::fs;
use std::process::{Command, Stdio};

/// Waits for its `go`, which a test writes, and ends with 7.
const WAITS: &str = "echo up; read word < go; echo $word; exit 7";

/// Session, process group and terminal, as in proc_pid_stat(5).
fn belongings(pid: i32) -> [i32; 3] {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [3, 2, 4].map(|at| fields[at].parse().unwrap())
}

/// All that there is of a running job: supervisor, keeper, main process.
fn processes(world: &World, job: &Captured) -> Vec<i32> {
    let main = fs::read_to_string(world.dir.join("main")).unwrap();
    vec![
        job.supervisor(world).pid,
        job.keeper().pid,
        main.trim().parse().unwrap(),
    ]
}

#[test]
fn it_returns_while_the_job_runs() {
    let mut world = World::new("detach-returns");
    world.fifo("go");
    let job = world.detach(&["--name", "build"], &["sh", "-c", WAITS]);
    assert!(job.id.starts_with("build-"), "{}", job.id);
    job.wait_log("log-01", "up\n");
    assert!(!job.record.join("report.json").exists());
    let held = world.say_into("go", "on");
    let report = job.wait_over();
    drop(held);
    assert_eq!(
        (report.exit_code, report.ending, report.closed_by.as_str()),
        (7, Ending::Exited { code: 7 }, "supervisor")
    );
    assert!(report.clean && report.notes.is_empty(), "{:#?}", report.notes);
    assert_eq!(job.text("log-01"), "up\non\n");
    world.assert_nobody_left();
}

#[test]
fn the_record_has_the_files_that_are_documented() {
    let mut world = World::new("detach-files");
    world.fifo("go");
    let options = ["--name", "files", "--after", "echo after", "--streams", "split"];
    let job = world.detach(&options, &["sh", "-c", WAITS]);
    job.wait_log("log-01.stdout", "up\n");
    assert_eq!(
        job.files(),
        [
            "keeper.sock",
            "lock",
            "log-01.stderr",
            "log-01.stdout",
            "phase.json",
            "reserve",
            "spec.json",
            "step-01.json"
        ]
    );
    let spec = job.json("spec.json");
    assert_eq!(
        (&spec["created_by"], &spec["capture"]["streams"]),
        (&"run".into(), &"split".into()),
        "{spec:#}"
    );
    assert_eq!(job.json("phase.json")["machine"]["state"], "running");
    let _held = world.say_into("go", "on");
    let report = job.wait_over();
    world.assert_nobody_left();
    let files = [
        "lock",
        "log-01.stderr",
        "log-01.stdout",
        "log-02.stderr",
        "log-02.stdout",
        "report.json",
        "spec.json",
        "status-01.json",
        "status-02.json",
        "step-01.json",
        "step-02.json",
    ];
    assert_eq!(job.files(), files);
    assert_eq!(job.text("log-02.stdout"), "after\n");
    assert_eq!(job.json("status-01.json")["status"]["code"], 7);
    assert_eq!(job.json("status-02.json")["status"]["code"], 0);
    assert_eq!(report.steps, [job.step(1), job.step(2)]);
    let lengths: Vec<(u64, Option<u64>, bool)> = report
        .steps
        .iter()
        .flat_map(|step| &step.logs)
        .map(|log| (log.bytes, log.at_exit, log.whole))
        .collect();
    assert_eq!(
        lengths,
        [
            (6, Some(6), true),
            (0, Some(0), true),
            (6, Some(6), true),
            (0, Some(0), true)
        ]
    );
    // No secret and no script is on the disk.
    for file in job.files() {
        assert!(
            !job.text(&file).contains("echo up"),
            "{file}: {}",
            job.text(&file)
        );
    }
}

#[test]
fn its_processes_have_nothing_of_the_client() {
    let mut world = World::new("detach-belongings");
    world.fifo("go");
    let job = world.detach(&[], &["sh", "-c", "echo $$ > main; read word < go"]);
    assert!(job.wait(|_| world.dir.join("main").exists()));
    let own = i32::try_from(std::process::id()).unwrap();
    let (ours, our_group) = (belongings(own), cgroup_of(own).unwrap());
    let all = processes(&world, &job);
    for (i, &pid) in all.iter().enumerate() {
        let [session, group, terminal] = belongings(pid);
        // Each leads a session of its own.
        assert_eq!((session, group, terminal), (pid, pid, 0), "process {i}");
        assert!(session != ours[0] && group != ours[1]);
        let cgroup = cgroup_of(pid).unwrap();
        let leaf = ["/supervisors", "/keepers", "/01-step"][i];
        assert!(
            cgroup.ends_with(leaf) && cgroup != our_group,
            "process {i}: {cgroup}"
        );
        // Nor its directory or its descriptors.
        if i < 2 {
            assert_eq!(
                fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(),
                Some("/")
            );
        }
    }
    // The keeper is the parent of the main process, and not in the cage, whose kill it has to see.
    assert_eq!(stat(all[2]).unwrap().2, all[1]);
    let _held = world.say_into("go", "on");
    assert_eq!(job.wait_over().exit_code, 0);
    world.assert_nobody_left();
}

/// What the job inherits: no descriptor but its three, no ignored signal, no mask; the directory of its client.
#[test]
fn the_command_starts_with_a_clean_slate() {
    let mut world = World::new("detach-slate");
    let script = "ls /proc/self/fd | wc -l; readlink /proc/$$/fd/0; echo $JOBCAGE_JOB; pwd; \
                  grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let job = world.detach(&[], &["sh", "-c", script]);
    assert_eq!(job.wait_over().exit_code, 0);
    let text = job.text("log-01");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // ls(1) itself holds one more.
    let here = world.dir.display().to_string();
    assert_eq!(lines[..4], ["4", "/dev/null", &job.id, &here], "{text}");
    // The C library of this test has its children ignore its own two signals, 32 and 33.
    let sets: Vec<u64> = lines[4..]
        .iter()
        .map(|set| u64::from_str_radix(set.rsplit_once('\t').unwrap().1, 16).unwrap() & 0x7fff_ffff)
        .collect();
    assert_eq!(sets, [0, 0], "{text}");
    fs::create_dir(world.dir.join("below")).unwrap();
    for dir in ["below", &world.dir.join("below").display().to_string()] {
        let job = world.detach(&["--dir", dir, "--after", "pwd"], &["pwd"]);
        assert_eq!(job.wait_over().exit_code, 0);
        let wanted = format!("{here}/below\n");
        assert_eq!((job.text("log-01"), job.text("log-02")), (wanted.clone(), wanted));
    }
    world.assert_nobody_left();
}

#[test]
fn a_client_that_is_killed_leaves_it_alone() {
    let mut world = World::new("detach-client");
    world.fifo("go");
    // A shell in a session of its own stays as the client's parent; its whole group is killed.
    let mut command = world.command("setsid");
    command
        .args([
            "sh",
            "-c",
            "\"$JOBCAGE\" run --detach -- sh -c \"$SCRIPT\" > id; mv id done; exec sleep 300",
        ])
        .env("SCRIPT", WAITS)
        .env("JOBCAGE", programs::jobcage())
        .stdin(Stdio::null());
    let mut shell = command.spawn().unwrap();
    assert!(crate::support::captured::wait_written(&world.dir, || {
        world.dir.join("done").exists()
    }));
    let id = fs::read_to_string(world.dir.join("done")).unwrap();
    let job = world.captured(id.trim());
    job.wait_log("log-01", "up\n");
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGKILL] {
        let group = nix::unistd::Pid::from_raw(shell.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, signal);
    }
    shell.wait().unwrap();
    assert!(!job.supervisor(&world).has_ended() && !job.keeper().has_ended());
    let _held = world.say_into("go", "on");
    assert_eq!(job.wait_over().exit_code, 7);
    assert_eq!(job.text("log-01"), "up\non\n");
    world.assert_nobody_left();
}

#[test]
fn a_closed_terminal_leaves_it_alone() {
    if !met("detach_terminal", &[Need::Program("setsid")]) {
        return;
    }
    let mut world = World::new("detach-terminal");
    world.fifo("go");
    let script = format!("\"$JOBCAGE\" run --detach -- sh -c '{WAITS}' > id; mv id done; exec sleep 300");
    let mut command: Command = world.command("setsid");
    command
        .args(["--ctty", "sh", "-c", &script])
        .env("JOBCAGE", programs::jobcage());
    let mut terminal = Terminal::start(command);
    assert!(crate::support::captured::wait_written(&world.dir, || {
        world.dir.join("done").exists()
    }));
    let id = fs::read_to_string(world.dir.join("done")).unwrap();
    let job = world.captured(id.trim());
    job.wait_log("log-01", "up\n");
    let shell = Process::open(terminal.child.id().cast_signed());
    terminal.hang_up();
    assert!(
        shell.wait_end(PATIENCE),
        "the shell on the terminal got no SIGHUP"
    );
    let _held = world.say_into("go", "on");
    let report = job.wait_over();
    assert_eq!(
        (report.exit_code, report.notes.len()),
        (7, 0),
        "{:#?}",
        report.notes
    );
    world.assert_nobody_left();
}

#[test]
fn stdin_is_a_file_or_nothing() {
    let mut world = World::new("detach-stdin");
    let job = world.detach(&[], &["sh", "-c", "wc -c; readlink /proc/self/fd/0"]);
    assert_eq!(job.wait_over().exit_code, 0);
    assert_eq!(job.text("log-01"), "0\n/dev/null\n");
    fs::write(world.dir.join("in"), b"one\ntwo\0three").unwrap();
    // The name is the client's, the file is the job's, who can have another directory, and the name may go.
    let job = world.detach(
        &["--stdin", "in", "--dir", "/", "--after", "wc -c"],
        &["sh", "-c", "sleep 0.2; cat; exit 4"],
    );
    fs::remove_file(world.dir.join("in")).unwrap();
    assert_eq!(job.wait_over().exit_code, 4);
    assert_eq!(job.file("log-01"), b"one\ntwo\0three");
    // The after phase has none.
    assert_eq!(job.text("log-02"), "0\n");
    let told = world.try_detach(&["--stdin", "nowhere"], &["cat"]).refused();
    assert!(told.contains("nowhere"), "{told}");
    world.assert_nobody_left();
}

#[test]
fn a_terminal_that_is_stopped_holds_nothing_up() {
    let mut world = World::new("detach-stopped");
    // The client's stdout is a pipe that nobody reads, and full: only the id is late.
    let mut command = world.command(programs::jobcage());
    command.args(["run", "--detach", "--name", "quiet", "--", "sh", "-c", "echo ran"]);
    let (read, write) = nix::unistd::pipe().unwrap();
    let full = vec![b'x'; 65536];
    assert_eq!(nix::unistd::write(&write, &full).unwrap(), full.len());
    let mut client = command.stdin(Stdio::null()).stdout(write).spawn().unwrap();
    drop(command);
    let state = world.dir.join("state");
    assert!(crate::support::captured::wait_written(&state, || !world
        .records()
        .is_empty()));
    let job = world.captured(&world.records()[0]);
    assert_eq!(job.wait_over().exit_code, 0);
    assert!(client.try_wait().unwrap().is_none(), "nobody has read its id");
    let mut seen = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(read), &mut seen).unwrap();
    assert_eq!(&seen[65536..], format!("{}\n", job.id).as_bytes());
    assert!(client.wait().unwrap().success());
    world.assert_nobody_left();
}
