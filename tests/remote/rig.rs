//! A host to log in to: an sshd of the test's own, with keys of its own, whose sessions live in the test's world; and before it a door.

use crate::door::Door;
use crate::support::call::{Done, to_end};
use crate::support::needs::{Need, met};
use crate::support::process::{Process, connected_to};
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("ssh"),
    Need::Program("ssh-keygen"),
    Need::Path("/usr/sbin/sshd"),
];

/// What the test of this name needs is there.
pub fn can(test: &str) -> bool {
    met(test, NEEDS)
}

/// The host.
pub struct Rig {
    pub world: World,
    pub door: Door,
    sshd: Sshd,
    calls: u32,
}

/// A server that ends with its sessions.
pub struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        for pid in children(self.pid()) {
            Process::open(pid).signal(Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sshd {
    /// Starts one with a config; returns when it listens.
    pub fn start(mut command: Command, config: &Path) -> Self {
        command.args(["-D", "-e", "-f"]).arg(config);
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Server listening") {
            line.clear();
            assert!(told.read_line(&mut line).unwrap() > 0, "sshd does not listen");
        }
        // Read to its end: a full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        Self(child)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Rig {
    pub fn new(test: &str) -> Self {
        Self::with(test, &[], "")
    }

    /// `env`: more variables of its sessions; `config`: more of sshd's configuration.
    pub fn with(test: &str, env: &[(&str, &str)], config: &str) -> Self {
        let world = World::new(test);
        let port = free_port();
        let file = configure(&world, &format!("ListenAddress 127.0.0.1:{port}\n{config}"), env);
        let sshd = Sshd::start(world.command("/usr/sbin/sshd"), &file);
        Self::before(world, sshd, port)
    }

    /// A door before a server, and a client's configuration for it.
    fn before(world: World, sshd: Sshd, port: u16) -> Self {
        let door = Door::open(port);
        write_client_config(&world, "127.0.0.1", door.port());
        Self {
            world,
            door,
            sshd,
            calls: 0,
        }
    }

    /// The host of a plain user: `make` makes him, and tells his name, his home, and his cgroup, in whose `sshd` the server stands.
    pub fn of_user(test: &str, make: impl FnOnce(&World) -> (String, PathBuf, PathBuf)) -> Self {
        let world = World::new(test);
        let (name, home, cgroup) = make(&world);
        let (port, home) = (free_port(), home.display().to_string());
        let cages = cgroup.display().to_string();
        let [run, state, cache] = ["run", "state", "cache"].map(|part| format!("{home}/{part}"));
        let env = [
            ("JOBCAGE_CGROUP_ROOT", cages.as_str()),
            ("JOBCAGE_RUNTIME_DIR", &run),
            ("JOBCAGE_STATE_DIR", &state),
            ("XDG_CACHE_HOME", &cache),
        ];
        let file = configure(
            &world,
            &format!("ListenAddress 127.0.0.1:{port}\nAllowUsers {name}"),
            &env,
        );
        let mut server = world.command(&world.zoo);
        server
            .arg("in-cgroup")
            .arg(cgroup.join("sshd"))
            .arg("/usr/sbin/sshd");
        let rig = Self::before(world, Sshd::start(server, &file), port);
        let config = rig.world.dir.join("ssh.conf");
        let text = fs::read_to_string(&config)
            .unwrap()
            .replace("User root", &format!("User {name}"));
        fs::write(config, text).unwrap();
        rig
    }

    /// Ends the server and its sessions before the rig's own end.
    pub fn end_server(&mut self) {
        for pid in self.sessions().into_iter().chain([self.sshd.pid()]) {
            Process::open(pid).signal(Signal::SIGKILL);
        }
    }

    /// `jobcage VERB --host there …`.
    pub fn command(&self, verb: &str, words: &[&str]) -> Command {
        command(&self.world, verb, words)
    }

    /// `jobcage VERB --host there …`, to its end.
    pub fn call(&self, verb: &str, words: &[&str]) -> Done {
        to_end(self.command(verb, words), b"")
    }

    /// `jobcage run --host there options… -- argv…`, to its end.
    pub fn run(&self, options: &[&str], argv: &[&str]) -> Done {
        self.call("run", &[options, &["--"], argv].concat())
    }

    /// Starts a call that the test goes on beside.
    pub fn start(&mut self, verb: &str, words: &[&str]) -> Running {
        self.start_with(verb, words, |command| command)
    }

    /// The same with another environment.
    pub fn start_with(
        &mut self,
        verb: &str,
        words: &[&str],
        change: impl FnOnce(Command) -> Command,
    ) -> Running {
        self.calls += 1;
        let command = change(self.command(verb, words));
        Running::start(&self.world, command, &self.calls.to_string())
    }

    /// The processes of sshd that have a session now.
    pub fn sessions(&self) -> Vec<i32> {
        children(self.sshd.pid())
    }

    /// Nothing of any job is left on the host, and no session.
    pub fn assert_nothing_left(self) {
        let Self {
            mut world,
            door,
            sshd,
            ..
        } = self;
        drop((door, sshd));
        wait_servers(&world);
        world.assert_clean_after_gc();
        world.assert_nothing_left();
    }
}

/// The other side of a line ends when it hears of the line's end.
pub fn wait_servers(world: &World) {
    for pid in connected_to(&world.dir) {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_server = words.split(|byte| *byte == 0).nth(1) == Some(b"__remote");
        assert!(
            !is_server || Process::open(pid).wait_end(PATIENCE),
            "{pid} does not end"
        );
    }
}

/// `jobcage VERB --host there …` in a world that has a client's configuration.
pub fn command(world: &World, verb: &str, words: &[&str]) -> Command {
    let mut command = world.command(programs::jobcage());
    let ssh = format!("ssh -F {}", world.dir.join("ssh.conf").display());
    command.args([verb, "--host", "there", "--ssh", &ssh]).args(words);
    // Here is not there: what this side keeps of jobs would be another host's.
    for name in ["JOBCAGE_CGROUP_ROOT", "JOBCAGE_RUNTIME_DIR", "JOBCAGE_STATE_DIR"] {
        command.env_remove(name);
    }
    command
}

/// The server's configuration, whose sessions live in this world.
pub fn configure(world: &World, more: &str, env: &[(&str, &str)]) -> PathBuf {
    let dir = world.dir.display();
    for key in ["hostkey", "userkey"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(world.dir.join(key))
            .status();
        assert!(made.unwrap().success());
    }
    // Where the package's service does not run, nobody has made it (sshd(8)).
    fs::create_dir_all("/run/sshd").unwrap();
    let own = [
        ("JOBCAGE_CGROUP_ROOT", world.cgroup_root.display().to_string()),
        ("JOBCAGE_RUNTIME_DIR", format!("{dir}/run")),
        ("JOBCAGE_STATE_DIR", format!("{dir}/state")),
        ("JOBCAGE_CONFIG", format!("{dir}/config.toml")),
        ("XDG_CACHE_HOME", format!("{dir}/cache")),
        // A bash that finds itself started by sshd reads its user's .bashrc, unless it is not the first shell. What stands there is this machine's,
        // and may leave locks behind where its session is killed.
        ("SHLVL", "1".into()),
    ];
    let own = own
        .iter()
        .filter(|(name, _)| env.iter().all(|(other, _)| name != other));
    let mut set = String::new();
    for (name, value) in own
        .map(|(name, value)| (*name, value.as_str()))
        .chain(env.iter().copied())
    {
        let _ = write!(set, " {name}={value}");
    }
    let text = format!(
        "HostKey {dir}/hostkey\nAuthorizedKeysFile {dir}/userkey.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
         PermitRootLogin prohibit-password\nMaxStartups 100\nAcceptEnv WHO\nSetEnv{set}\n{more}\n"
    );
    let file = world.dir.join("sshd.conf");
    fs::write(&file, text).unwrap();
    file
}

/// The client's configuration: the host `there`.
pub fn write_client_config(world: &World, address: &str, port: u16) {
    let dir = world.dir.display();
    let key = fs::read_to_string(world.dir.join("hostkey.pub")).unwrap();
    fs::write(world.dir.join("known"), format!("there {key}")).unwrap();
    let text = format!(
        "Host there\n SetEnv WHO=a\nHost there2\n SetEnv WHO=b\nHost there there2\n HostName {address}\n HostKeyAlias there\n Port {port}\n User root\n IdentityFile {dir}/userkey\n IdentitiesOnly yes\n \
         UserKnownHostsFile {dir}/known\n GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n BatchMode yes\n"
    );
    fs::write(world.dir.join("ssh.conf"), text).unwrap();
}

/// A call beside the test.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// `name`: of the files with its output.
    pub fn start(world: &World, mut command: Command, name: &str) -> Self {
        let [out, err] = ["out", "err"].map(|what| world.dir.join(format!("{what}-{name}")));
        let child = command
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Self { child, out, err }
    }

    pub fn process(&self) -> Process {
        Process::open(i32::try_from(self.child.id()).unwrap())
    }

    /// The ssh that it has started, if it has one now.
    pub fn ssh(&self) -> Option<Process> {
        let pid = i32::try_from(self.child.id()).unwrap();
        children(pid).first().map(|pid| Process::open(*pid))
    }

    /// The ssh that it has, or that it tries next.
    #[track_caller]
    pub fn wait_ssh(&self) -> Process {
        let since = std::time::Instant::now();
        loop {
            if let Some(ssh) = self.ssh() {
                return ssh;
            }
            assert!(since.elapsed() < PATIENCE, "it has no line");
            // Nobody tells of a child but to its parent.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits until its output has this text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait(|out, _| out.contains(text), text);
    }

    /// Waits until it has told this.
    #[track_caller]
    pub fn wait_told(&self, text: &str) {
        self.wait(|_, err| err.contains(text), text);
    }

    /// Waits until it has told this so often.
    #[track_caller]
    pub fn wait_told_times(&self, text: &str, times: usize) {
        self.wait(|_, err| err.matches(text).count() >= times, text);
    }

    #[track_caller]
    fn wait(&self, is_there: impl Fn(&str, &str) -> bool, what: &str) {
        let since = std::time::Instant::now();
        loop {
            let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            let (out, err) = (text(&self.out), text(&self.err));
            if is_there(&out, &err) {
                return;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{what:?} does not come; out {out:?}, err {err:?}"
            );
            // A plain file: nobody tells of what is written to it but inotify, which costs more than this.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let status = crate::support::call::wait(&mut self.child, PATIENCE * 2);
        let out = fs::read(&self.out).unwrap();
        let err = String::from_utf8_lossy(&fs::read(&self.err).unwrap()).into_owned();
        let status = status.unwrap_or_else(|| panic!("it does not end; err {err:?}"));
        Ended {
            code: status.code().unwrap_or(-1),
            out,
            err,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ended {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out {:?}, err {}", self.text(), self.err);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}
