//! One call of jobcage to its end, with everything that it wrote.

use super::job::read_report;
use super::process::Process;
use super::world::World;
use super::{PATIENCE, cgroup, programs};
use jobcage_job::Report;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What came of a call.
pub struct Done {
    /// The exit code; -1 if a signal ended jobcage.
    pub code: i32,
    /// The signal that ended jobcage itself.
    pub signal: Option<i32>,
    /// What it wrote to stdout.
    pub out: Vec<u8>,
    /// What it wrote to stderr.
    pub err: Vec<u8>,
    report: PathBuf,
}

impl Done {
    /// stdout as text, without its last line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out)
            .trim_end_matches('\n')
            .to_owned()
    }

    /// stderr as text.
    pub fn told(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// The report that `--report` wrote.
    pub fn report(&self) -> Report {
        assert!(self.report.is_file(), "there is no report: {}", self.told());
        read_report(&self.report)
    }

    /// stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {:?} {}", self.text(), self.told()))
    }

    /// The call must have ended with this exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            (self.code, self.signal),
            (code, None),
            "stdout {:?}, stderr {}",
            self.text(),
            self.told()
        );
        self
    }

    /// A refusal: 125, nothing on stdout, one line of jobcage on stderr, which is returned.
    #[track_caller]
    pub fn refused(self) -> String {
        let done = self.expect(125);
        let told = done.told();
        assert!(done.out.is_empty(), "{:?}", done.text());
        let errors: Vec<&str> = told.lines().filter(|l| !l.contains("note: ")).collect();
        assert!(errors.len() == 1 && errors[0].starts_with("jobcage: "), "{told}");
        told
    }
}

impl World {
    /// `jobcage run --report … options… -- argv…`, to its end, with nothing on stdin.
    pub fn finish(&self, options: &[&str], argv: &[&str]) -> Done {
        self.finish_with(options, argv, b"", |_| {})
    }

    /// As [`World::finish`], with this stdin and a command that can be changed before it starts.
    pub fn finish_with(
        &self,
        options: &[&str],
        argv: &[&str],
        stdin: &[u8],
        change: impl FnOnce(&mut Command),
    ) -> Done {
        let report = self.dir.join("report.json");
        let _ = std::fs::remove_file(&report);
        let mut command = self.command(programs::jobcage());
        command.arg("run").arg("--report").arg(&report);
        command.args(options).arg("--").args(argv);
        change(&mut command);
        Done {
            report,
            ..to_end(command, stdin)
        }
    }

    /// `jobcage words…`, to its end.
    pub fn call(&self, words: &[impl AsRef<OsStr>]) -> Done {
        let mut command = self.command(programs::jobcage());
        command.args(words);
        to_end(command, b"")
    }

    /// The names of the records that are there now, in the runtime and the state directory.
    pub fn records(&self) -> Vec<String> {
        let dirs = ["run", "state"].map(|d| self.dir.join(d));
        let entries = dirs
            .iter()
            .flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten());
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        // The socket has its maker's pid in its name until it listens.
        names.filter(|name| !name.starts_with("watch.sock")).collect()
    }

    /// There is no cage and no file of a job.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.cages(), Vec::<PathBuf>::new(), "cages are left");
        assert_eq!(self.records(), Vec::<String>::new(), "records are left");
    }

    /// As [`World::assert_clean`], once `gc` has removed the records of captured jobs.
    #[track_caller]
    pub fn assert_clean_after_gc(&self) {
        // Whoever follows a job sees its report a moment before its supervisor lets go of the record.
        let _ = cgroup::wait_empty(&self.cgroup_root.join("supervisors"), PATIENCE);
        self.call(&["gc", "--keep", "0s"]).expect(0);
        self.assert_clean();
    }

    /// Puts a line into a FIFO of the world, for whoever reads it. The caller holds it until that is done.
    pub fn say_into(&self, fifo: &str, line: &str) -> std::fs::File {
        let path = self.dir.join(fifo);
        // Opened for both, it needs no reader to be there already (fifo(7)).
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        writeln!(file, "{line}").unwrap();
        file
    }

    /// Makes a FIFO in the world.
    pub fn fifo(&self, name: &str) {
        nix::unistd::mkfifo(&self.dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }

    /// `/bin/sh -c script` in this world, with `$JOBCAGE` as the program, to its end.
    pub fn shell(&self, script: &str) -> Done {
        to_end(self.shell_command(script), b"")
    }

    /// The command of [`World::shell`].
    pub fn shell_command(&self, script: &str) -> Command {
        let mut command = self.command("/bin/sh");
        command.arg("-c").arg(script).env("JOBCAGE", programs::jobcage());
        command
    }
}

/// Runs a command to its end, feeding and reading it meanwhile. Whoever does not end in time is killed.
pub fn to_end(mut command: Command, stdin: &[u8]) -> Done {
    let told = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{told}: {e}"));
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // Whether anybody reads it is the job's business.
    std::thread::spawn(move || drop(input.write_all(&stdin)));
    let out = collect(child.stdout.take().unwrap());
    let err = collect(child.stderr.take().unwrap());
    let status = wait(&mut child, PATIENCE);
    let late = Duration::from_secs(5);
    let (out, err) = (out.recv_timeout(late), err.recv_timeout(late));
    let status = status.unwrap_or_else(|| panic!("{told} does not end\n{out:?}\n{err:?}"));
    let (Ok(out), Ok(err)) = (out, err) else {
        panic!("somebody still holds the output of {told}, which ended with {status}");
    };
    Done {
        code: status.code().unwrap_or(-1),
        signal: status.signal(),
        out,
        err,
        report: PathBuf::new(),
    }
}

/// Waits for a child; kills it and returns `None` if it does not end in time.
pub fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let process = Process::open(i32::try_from(child.id()).unwrap());
    if process.wait_end(within) {
        return Some(child.wait().unwrap());
    }
    process.signal(Signal::SIGKILL);
    let _ = child.wait();
    None
}

fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let _ = send.send(all);
    });
    receive
}
