//! The job that writes when it is told to (`benches/helpers/talk.c`), and the paths that its output takes to us: straight,
//! through `tee`, through jobcage's log and a follower. Everybody is there before the first byte counts.

use crate::Result;
use crate::captured::Place;
use crate::ground::Ground;
use crate::procs;
use crate::tools::{Tools, on_path, terminate};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// The two fifos by which we talk with the job. Opened for both directions, so that nobody waits for the other end.
pub struct Wire {
    go: File,
    done: File,
    /// As the job is told.
    pub go_path: String,
    /// As the job is told.
    pub done_path: String,
}

impl Wire {
    /// Makes them in the temporary directory, under a name of one's own.
    pub fn new(ground: &Ground, name: &str) -> Result<Self> {
        let (go, go_path) = fifo(&ground.temp.join(format!("{name}-go")))?;
        let (done, done_path) = fifo(&ground.temp.join(format!("{name}-done")))?;
        Ok(Self {
            go,
            done,
            go_path,
            done_path,
        })
    }

    /// Says go.
    pub fn go(&self) -> Result<()> {
        Ok((&self.go).write_all(b"g")?)
    }

    /// The seconds that the job has written, once it has told so.
    pub fn took(&self) -> Result<f64> {
        let mut told = [0; 8];
        (&self.done).read_exact(&mut told)?;
        Ok(u64::from_le_bytes(told) as f64 / 1e9)
    }

    /// Whether the job has told.
    pub fn is_done(&self) -> Result<bool> {
        is_readable(self.done.as_fd(), PollTimeout::ZERO)
    }

    /// Waits for the one byte of `talk first`.
    pub fn first_byte(&self) -> Result<()> {
        if !is_readable(self.done.as_fd(), PollTimeout::from(60_000_u16))? {
            return Err("the job has written nothing for a minute".into());
        }
        Ok((&self.done).read_exact(&mut [0])?)
    }
}

fn is_readable(fd: std::os::fd::BorrowedFd<'_>, time: PollTimeout) -> Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    Ok(poll(&mut fds, time)? > 0)
}

fn fifo(path: &Path) -> Result<(File, String)> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let flags = OFlag::O_CLOEXEC.bits();
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    Ok((file, path.to_str().ok_or("a strange temporary directory")?.into()))
}

/// The way of the job's output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The job writes into our pipe.
    Direct,
    /// `tee FILE`, the file in memory as jobcage's log is.
    Tee,
    /// `jobcage run --detach`, and `jobcage attach` into our pipe.
    Jobcage,
}

impl Way {
    /// As it stands in the tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tee => "tee",
            Self::Jobcage => "jobcage",
        }
    }
}

/// A talking job and those between it and us.
pub struct Talk<'a> {
    wire: &'a Wire,
    place: Place<'a>,
    children: Vec<Child>,
    between: Vec<i32>,
    id: Option<String>,
    file: Option<PathBuf>,
    output: PipeReader,
}

impl<'a> Talk<'a> {
    /// Starts it; the job is there, and so is everybody between: its first byte has come through.
    pub fn start(
        tools: &'a Tools,
        ground: &'a Ground,
        wire: &'a Wire,
        way: Way,
        job: &[&str],
    ) -> Result<Self> {
        let (output, input) = std::io::pipe()?;
        let mut talk = Self {
            wire,
            place: Place::in_memory(tools, ground),
            children: Vec::new(),
            between: Vec::new(),
            id: None,
            file: None,
            output,
        };
        let mut bare = tools.command(tools.path("talk"))?;
        bare.args(&job[1..]);
        match way {
            Way::Direct => talk.children.push(tools.start(&mut bare, input)?),
            Way::Tee => {
                let (from, to) = std::io::pipe()?;
                let file = ground.runtime.join("tee");
                let mut tee = tools.command(on_path("tee")?)?;
                tee.arg(&file).stdin(from);
                talk.file = Some(file);
                talk.add_between(tools, &mut tee, input)?;
                talk.children.push(tools.start(&mut bare, to)?);
            }
            Way::Jobcage => {
                let id = talk.place.launch(&mut talk.place.detach(job)?)?;
                let mut attach = talk.place.verb("attach", &id)?;
                talk.id = Some(id);
                talk.between = talk.place.attendants()?;
                talk.add_between(tools, &mut attach, input)?;
            }
        }
        if talk.output.read_exact(&mut [0]).is_err() {
            return Err(format!("the job's first byte has not come through{}", tools.last_error()).into());
        }
        Ok(talk)
    }

    fn add_between(
        &mut self,
        tools: &Tools,
        command: &mut Command,
        output: std::io::PipeWriter,
    ) -> Result<()> {
        let child = tools.start(command, output)?;
        // The command holds the read end of its own pipe, which would keep the job from an EPIPE.
        command.stdin(std::process::Stdio::null());
        self.between.push(child.id().cast_signed());
        self.children.push(child);
        Ok(())
    }

    /// Seconds of processor time of everybody between the job and us.
    pub fn processor_time(&self) -> Result<f64> {
        self.between.iter().map(|pid| procs::processor_time(*pid)).sum()
    }

    /// The other end.
    pub fn output(&mut self) -> &mut PipeReader {
        &mut self.output
    }

    /// Reads exactly so many bytes, as fast as they come.
    pub fn drain(&mut self, mut left: u64) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            match self.output.read(&mut buffer)? {
                0 => return Err(format!("the output ended {left} bytes early").into()),
                n => left = left.checked_sub(n as u64).ok_or("more bytes than were written")?,
            }
        }
        Ok(())
    }

    /// Reads at this many bytes a second until the job has written everything; how much that was.
    pub fn sip(&mut self, rate: f64) -> Result<u64> {
        let start = std::time::Instant::now();
        let (mut buffer, mut read) = (vec![0; 16 * 1024], 0);
        while !self.wire.is_done()? {
            // The direct job's last bytes are in the pipe before it can tell.
            if !is_readable(self.output.as_fd(), PollTimeout::from(1_u16))? {
                continue;
            }
            read += self.output.read(&mut buffer)? as u64;
            let due = Duration::from_secs_f64(read as f64 / rate);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        Ok(read)
    }

    /// Lets the job end, which must be a success for everyone, and removes what was kept.
    pub fn end(mut self) -> Result<()> {
        self.wire.go()?;
        std::io::copy(&mut self.output, &mut std::io::sink())?;
        for child in &mut self.children {
            let status = child.wait()?;
            if !status.success() {
                return Err(format!("the talking job or one behind it: {status}").into());
            }
        }
        if let Some(id) = &self.id {
            self.place.wait(id)?;
            self.place.clear()?;
        }
        self.file.take().map_or(Ok(()), fs::remove_file)?;
        Ok(())
    }
}

impl Drop for Talk<'_> {
    /// What a failure has left.
    fn drop(&mut self) {
        for child in &mut self.children {
            if matches!(child.try_wait(), Ok(None)) {
                // It may end by itself meanwhile.
                let _ = terminate(child).and_then(|()| Ok(child.wait()?));
            }
        }
    }
}
