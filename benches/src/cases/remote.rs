//! R1, R2, R3: a job on another host, beside plain ssh. The host is this machine: an sshd of our own on loopback, for whoever runs this.

use super::Context;
use crate::Result;
use crate::contest::Contestant;
use crate::ground::loudly;
use crate::table::{Table, Target};
use crate::tools::{Tools, milliseconds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const SSHD: &str = "/usr/sbin/sshd";

/// All three.
pub fn remote(context: &Context<'_>) -> Result<Vec<Table>> {
    if !Path::new(SSHD).exists() {
        loudly(&format!(
            "SKIPPED R1, R2, R3: there is no {SSHD}; install openssh-server"
        ));
        return Ok(Vec::new());
    }
    if !context.tools.has_jobcage() {
        return Ok(Vec::new());
    }
    let host = Host::start(context)?;
    let mut tables = vec![warm(context, &host)?, bulk(context, &host)?];
    tables.push(recovery(context, &host)?);
    Ok(tables)
}

/// A server, and a connection to it that others share.
struct Host<'a> {
    tools: &'a Tools,
    dir: PathBuf,
    cgroup: PathBuf,
    server: Child,
    master: Option<Child>,
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        for child in self.master.iter_mut().chain([&mut self.server]) {
            for session in children(child.id()) {
                let _ = kill(Pid::from_raw(session), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl<'a> Host<'a> {
    fn start(context: &Context<'a>) -> Result<Self> {
        let tools = context.tools;
        let dir = context.ground.temp.join("host");
        fs::create_dir(&dir)?;
        for key in ["hostkey", "userkey"] {
            let mut keygen = tools.command("ssh-keygen")?;
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(key));
            tools.time(&mut keygen)?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        fs::write(dir.join("sshd.conf"), server_config(tools, &dir, port)?)?;
        fs::write(dir.join("ssh.conf"), client_config(&dir, port)?)?;
        if nix::unistd::geteuid().is_root() {
            // Where the package's service does not run, nobody has made it (sshd(8)).
            fs::create_dir_all("/run/sshd")?;
        }
        let mut command = tools.command(SSHD)?;
        command.args(["-D", "-e", "-f"]).arg(dir.join("sshd.conf"));
        let mut server = command.stderr(Stdio::piped()).spawn()?;
        // With all of its sessions it goes with the ground, should this program be killed.
        let cgroup = context.ground.cgroup.join("host");
        fs::create_dir(&cgroup)?;
        fs::write(cgroup.join("cgroup.procs"), server.id().to_string())?;
        let told = server.stderr.take().ok_or("sshd has no standard error")?;
        let mut lines = BufReader::new(told).lines();
        if !lines.any(|line| line.is_ok_and(|line| line.contains("Server listening"))) {
            return Err("sshd does not listen".into());
        }
        std::thread::spawn(move || lines.for_each(drop));
        let mut host = Self {
            tools,
            dir,
            cgroup,
            server,
            master: None,
        };
        host.share()?;
        Ok(host)
    }

    /// Opens the connection that `shared` is.
    fn share(&mut self) -> Result<()> {
        let mut master = self.ssh("shared")?;
        master.args([
            "-o",
            "ControlMaster=yes",
            "-o",
            "PermitLocalCommand=yes",
            "-o",
            "LocalCommand=echo there",
            "-N",
        ]);
        let mut child = master.stdout(Stdio::piped()).spawn()?;
        fs::write(self.cgroup.join("cgroup.procs"), child.id().to_string())?;
        let mut line = String::new();
        let told = child.stdout.take().ok_or("ssh has no standard output")?;
        BufReader::new(told).read_line(&mut line)?;
        self.master = Some(child);
        // Also brings our program there, where it is not yet.
        let mut first = self.jobcage("shared", &["true"])?;
        self.tools.time(&mut first).map(drop)
    }

    fn config(&self) -> String {
        self.dir.join("ssh.conf").display().to_string()
    }

    /// `ssh HOST …`
    fn ssh(&self, host: &str) -> Result<Command> {
        let mut command = self.tools.command("ssh")?;
        command.args(["-F", &self.config(), host]);
        Ok(command)
    }

    /// `jobcage run --host HOST -- …`
    fn jobcage(&self, host: &str, job: &[&str]) -> Result<Command> {
        let mut command = self.tools.command(self.tools.path("jobcage"))?;
        let ssh = format!("ssh -F {}", self.config());
        command
            .args(["run", "--quiet", "--host", host, "--ssh", &ssh, "--"])
            .args(job);
        Ok(command)
    }
}

fn server_config(tools: &Tools, dir: &Path, port: u16) -> Result<String> {
    // Its sessions have what every contestant has; a bash that is not the first one reads no .bashrc of this machine's.
    let mut set = "SHLVL=1".to_owned();
    for (name, value) in tools.command("true")?.get_envs() {
        let (name, value) = (
            name.display().to_string(),
            value.map(|value| value.display().to_string()),
        );
        if let Some(value) = value.filter(|_| name.starts_with("JOBCAGE_") || name == "PATH") {
            let _ = write!(set, " {name}={value}");
        }
    }
    let dir = dir.display();
    Ok(format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/hostkey\nAuthorizedKeysFile {dir}/userkey.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
         MaxStartups 100\nMaxSessions 100\nSetEnv {set} XDG_CACHE_HOME={dir}/cache\n"
    ))
}

/// `shared` is one connection for many; `own` makes one each time.
fn client_config(dir: &Path, port: u16) -> Result<String> {
    let key = fs::read_to_string(dir.join("hostkey.pub"))?;
    fs::write(dir.join("known"), format!("bench {key}"))?;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.ok_or("this user has no name")?;
    let dir = dir.display();
    Ok(format!(
        "Host shared\n ControlPath {dir}/control\nHost *\n HostName 127.0.0.1\n HostKeyAlias bench\n Port {port}\n User {}\n IdentityFile {dir}/userkey\n IdentitiesOnly yes\n \
         UserKnownHostsFile {dir}/known\n GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n BatchMode yes\n",
        user.name
    ))
}

fn children(pid: u32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn warm(context: &Context<'_>, host: &Host<'_>) -> Result<Table> {
    let mut ssh = host.ssh("shared")?;
    ssh.arg("true");
    let mut jobcage = host.jobcage("shared", &["true"])?;
    let mut detach = host.ssh("shared")?;
    detach.arg(format!(
        "exec sh -c 'exec {} run --quiet --detach -- true' >/dev/null",
        context.tools.path("jobcage").display()
    ));
    let contestants = vec![
        Contestant::needed("ssh", move || Ok(vec![context.tools.time(&mut ssh)?])),
        Contestant::needed("ssh run --detach", move || {
            Ok(vec![context.tools.time(&mut detach)?])
        }),
        Contestant::needed("jobcage", move || Ok(vec![context.tools.time(&mut jobcage)?])),
    ];
    let (measures, notes) = context.hold(&context.rules(60, 1), contestants)?;
    let samples = measures.into_iter().next().unwrap_or_default();
    let title = "`true` on another host, over a connection that is there";
    Ok(Table::new("R1", title, "ms", "ssh", samples)
        .note(&notes)
        .note(&["ssh run --detach: `ssh HOST \"exec sh -c 'exec jobcage run --detach -- true'\"`, which does not wait for the job".into()])
        .aim(vec![Target::ratio("R1", "jobcage", "ssh", 1.5)]))
}

fn bulk(context: &Context<'_>, host: &Host<'_>) -> Result<Table> {
    let size = context.options.size(512 << 20, 4 << 20);
    let file = host.dir.join("bulk");
    fs::write(&file, vec![b'x'; size])?;
    let path = file.display().to_string();
    let mut ssh = host.ssh("shared")?;
    ssh.args(["cat", &path]);
    let mut jobcage = host.jobcage("shared", &["cat", &path])?;
    let contestants = vec![
        Contestant::needed("ssh", move || {
            warm_memory(size);
            speed(context.tools, &mut ssh, size)
        }),
        Contestant::needed("jobcage", move || {
            warm_memory(size);
            speed(context.tools, &mut jobcage, size)
        }),
    ];
    let (measures, notes) = context.hold(&context.rules(9, 1), contestants)?;
    fs::remove_file(&file)?;
    let samples = measures.into_iter().next().unwrap_or_default();
    let title = format!("`cat` of {} MB on another host", size / 1_000_000);
    Ok(Table::new("R2", &title, "MB/s", "ssh", samples)
        .note(&notes)
        .aim(vec![Target::ratio("R2", "jobcage", "ssh", 0.8).at_least()]))
}

/// Has the kernel have free memory that it need not fetch from a hypervisor: some take back within seconds what a guest does not use, and then a log's
/// new pages cost ten times what is written into them. A multiple, since nobody says which of the free pages are used next.
fn warm_memory(size: usize) {
    drop(std::hint::black_box(vec![1_u8; 6 * size]));
}

/// From the start of a command to the end of its output.
fn speed(tools: &Tools, command: &mut Command, size: usize) -> Result<Vec<f64>> {
    let (mut reader, writer) = std::io::pipe()?;
    let start = Instant::now();
    let mut child = tools.start(command, writer)?;
    let mut buffer = vec![0; 1 << 17];
    let mut all = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            n => all += n,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let status = child.wait()?;
    if all != size || !status.success() {
        return Err(format!("{all} bytes of {size}, {status}{}", tools.last_error()).into());
    }
    Ok(vec![size as f64 / 1e6 / seconds])
}

/// A line that has ended, over a network that is there: until the next byte of the job's output comes.
fn recovery(context: &Context<'_>, host: &Host<'_>) -> Result<Table> {
    let one = || -> Result<Vec<f64>> {
        let mut command = host.jobcage("own", &["sh", "-c", "while echo x; do sleep 0.01; done"])?;
        let (mut reader, writer) = std::io::pipe()?;
        let mut child = context.tools.start(&mut command, writer)?;
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        let start = Instant::now();
        for ssh in children(child.id()) {
            kill(Pid::from_raw(ssh), Signal::SIGKILL)?;
        }
        // What had come before it was killed comes at once; the pause is the break.
        let (mut last, mut longest) = (start, 0.0_f64);
        while longest < 100.0 {
            reader.read_exact(&mut byte)?;
            longest = longest.max(milliseconds(last));
            last = Instant::now();
        }
        let passed = milliseconds(start);
        crate::tools::terminate(&child)?;
        std::io::copy(&mut reader, &mut std::io::sink())?;
        child.wait()?;
        Ok(vec![passed])
    };
    let contestants = vec![Contestant::needed("jobcage", one)];
    let (measures, notes) = context.hold(&context.rules(15, 1), contestants)?;
    let samples = measures.into_iter().next().unwrap_or_default();
    let title = "from the end of a line to the job's next byte, with a new connection and 0.5 s before it";
    Ok(Table::new("R3", title, "ms", "jobcage", samples)
        .note(&notes)
        .aim(vec![Target::value("R3", "jobcage", 2000.0)]))
}
