//! A job and the ssh connection that it was started over: it is cut off in the middle, by a SIGKILL of ssh.

use crate::support::captured::wait_written;
use crate::support::job::{Job, read_report};
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs, say};
use jobcage_job::{Cause, Ending, Report};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const SSHD: &str = "/usr/sbin/sshd";

/// An ssh server of the test's own, which talks through a pipe of its client and opens no port, and knows one key.
struct Ssh {
    config: PathBuf,
    key: PathBuf,
    script: PathBuf,
}

impl Ssh {
    /// `None`: this is not the VM. Elsewhere its directory would have to be made in a place that is not ours.
    fn new(world: &World, test: &str) -> Option<Self> {
        if std::env::var_os("JOBCAGE_VM").is_none() {
            say(&format!("not applicable: {test}: it runs in the VM"));
            return None;
        }
        if !met(
            test,
            &[
                Need::Program("ssh"),
                Need::Program("ssh-keygen"),
                Need::Path(SSHD),
            ],
        ) {
            return None;
        }
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let [host, key, config, script] =
            ["host", "key", "sshd", "remote.sh"].map(|name| world.dir.join(name));
        for file in [&host, &key] {
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file);
            assert!(made.status().unwrap().success(), "{made:?}");
        }
        let settings = [
            ("HostKey", host.display().to_string()),
            (
                "AuthorizedKeysFile",
                key.with_extension("pub").display().to_string(),
            ),
            ("PermitRootLogin", "yes".into()),
            ("StrictModes", "no".into()),
            ("UsePAM", "no".into()),
            ("PidFile", "none".into()),
            ("PrintMotd", "no".into()),
            ("LogLevel", "ERROR".into()),
        ];
        let settings = settings.map(|(name, value)| format!("{name} {value}\n"));
        fs::write(&config, settings.concat()).unwrap();
        fs::write(&script, script_of(world)).unwrap();
        Some(Self { config, key, script })
    }

    /// Starts `"$JOBCAGE" …` on the other end, as this shell script says it.
    fn start(&self, world: &World, options: &[&str], script: &str) -> Job {
        let proxy = format!("ProxyCommand={SSHD} -i -f {}", self.config.display());
        let mut ssh = world.command("ssh");
        ssh.args(["-F", "none", "-q", "-o", "BatchMode=yes", "-o", &proxy, "-i"])
            .arg(&self.key)
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(options)
            .arg("localhost")
            // Whoever the script becomes by exec has this pid.
            .arg(format!(". {}; echo $$ > remote; {script}", self.script.display()));
        Job::start(ssh, world.dir.join("report.json"), world.dir.join("stderr-ssh"))
    }
}

/// What a shell on the other end needs to be in this world.
fn script_of(world: &World) -> String {
    let command = world.command("true");
    let mut script = format!("export JOBCAGE='{}'\n", programs::jobcage().display());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            writeln!(script, "export {name}='{value}'").unwrap();
        }
    }
    writeln!(script, "cd '{}'", world.dir.display()).unwrap();
    script
}

/// Cuts the connection: nobody on this end can say goodbye. The process on the other end.
fn cut(world: &World, ssh: &mut Job) -> Process {
    let pid = fs::read_to_string(world.dir.join("remote")).unwrap();
    let remote = Process::open(pid.trim().parse().unwrap());
    ssh.signal(Signal::SIGKILL);
    assert_eq!(ssh.wait(PATIENCE), 128 + 9);
    remote
}

fn report_of(world: &World) -> Report {
    let file = world.dir.join("report.json");
    assert!(wait_written(&world.dir, || file.exists()), "the job does not end");
    read_report(&file)
}

/// It hangs up its terminal, as ever: the job is cancelled, its after phase runs, nothing is left.
#[test]
fn a_foreground_job_ends_with_its_terminal() {
    let mut world = World::new("ssh-terminal");
    let Some(server) = Ssh::new(&world, "ssh-terminal") else {
        return;
    };
    let run = "exec \"$JOBCAGE\" run --report report.json --after 'echo $JOBCAGE_RESULT > after' -- \
               sh -c 'sleep 300 & echo up; sleep 300'";
    let mut ssh = server.start(&world, &["-tt"], run);
    assert!(ssh.wait_line("up"), "{} {}", ssh.stdout(), ssh.stderr());
    let remote = cut(&world, &mut ssh);
    let report = report_of(&world);
    let hung_up = matches!(report.ending, Ending::Cancelled(Cause::Signal { signal: 1, .. }));
    assert!(hung_up && report.clean, "{report:#?}");
    assert_eq!(fs::read_to_string(world.dir.join("after")).unwrap(), "canceled\n");
    assert!(remote.wait_end(PATIENCE));
    world.assert_nothing_left();
}

/// Nobody tells it that the connection is gone: it goes on, as it would without jobcage, and its end is in the report.
#[test]
fn a_foreground_job_without_a_terminal_goes_on() {
    let mut world = World::new("ssh-plain");
    let Some(server) = Ssh::new(&world, "ssh-plain") else {
        return;
    };
    world.fifo("go");
    let run = "exec \"$JOBCAGE\" run --report report.json -- \
               sh -c 'sleep 300 > /dev/null & echo up; read word < go; echo $word > told; exit 7'";
    let mut ssh = server.start(&world, &["-T"], run);
    assert!(ssh.wait_line("up"), "{} {}", ssh.stdout(), ssh.stderr());
    let remote = cut(&world, &mut ssh);
    let _go = world.say_into("go", "on");
    let report = report_of(&world);
    assert_eq!(report.ending, Ending::Exited { code: 7 }, "{report:#?}");
    assert_eq!(fs::read_to_string(world.dir.join("told")).unwrap(), "on\n");
    assert_eq!(report.census.left.len(), 1, "{report:#?}");
    assert!(remote.wait_end(PATIENCE));
    world.assert_nothing_left();
}

/// It is none of the connection's: not its terminal, not its session, not its pipes.
#[test]
fn a_detached_job_does_not_notice() {
    for (test, terminal) in [("ssh-detach-terminal", "-tt"), ("ssh-detach-plain", "-T")] {
        let mut world = World::new(test);
        let Some(server) = Ssh::new(&world, test) else {
            return;
        };
        world.fifo("go");
        let run = "\"$JOBCAGE\" run --detach -- sh -c 'echo up; read word < go; echo $word; exit 7' > id; \
                   exec \"$JOBCAGE\" attach $(cat id)";
        let mut ssh = server.start(&world, &[terminal], run);
        assert!(ssh.wait_line("up"), "{} {}", ssh.stdout(), ssh.stderr());
        let remote = cut(&world, &mut ssh);
        let job = world.captured(&world.told("id"));
        let supervisor = job.supervisor(&world);
        let _go = world.say_into("go", "on");
        // The next connection finds everything from the first byte on, and the status.
        let mut again = server.start(&world, &["-T"], "exec \"$JOBCAGE\" attach --quiet $(cat id)");
        assert_eq!(again.wait(PATIENCE), 7, "{}", again.stderr());
        assert!(again.output_ended(PATIENCE));
        assert_eq!(again.stdout(), "up\non\n");
        let report = job.wait_over();
        assert_eq!(report.ending, Ending::Exited { code: 7 }, "{report:#?}");
        assert!(report.clean && report.notes.is_empty(), "{report:#?}");
        assert!(supervisor.wait_end(PATIENCE));
        // Nor is there anybody left who follows it.
        assert!(remote.wait_end(PATIENCE));
        world.assert_nobody_left();
    }
}

/// The client of `run --log` is what the job lives for, and it ends when nobody reads what it shows.
#[test]
fn a_job_with_log_ends_with_its_connection() {
    let mut world = World::new("ssh-log");
    let Some(server) = Ssh::new(&world, "ssh-log") else {
        return;
    };
    let run = "exec \"$JOBCAGE\" run --log --after 'echo $JOBCAGE_RESULT > after' -- sh -c 'echo up; exec sleep 300'";
    let mut ssh = server.start(&world, &["-T"], run);
    assert!(ssh.wait_line("up"), "{} {}", ssh.stdout(), ssh.stderr());
    let job = world.captured(&world.records()[0].clone());
    let supervisor: Process = job.supervisor(&world);
    let remote = cut(&world, &mut ssh);
    let report = job.wait_over();
    assert!(matches!(report.ending, Ending::Cancelled(_)), "{report:#?}");
    assert_eq!(fs::read_to_string(world.dir.join("after")).unwrap(), "canceled\n");
    assert_eq!(job.text("log-01.stdout"), "up\n");
    assert!(supervisor.wait_end(PATIENCE) && remote.wait_end(PATIENCE));
    world.assert_nobody_left();
}
