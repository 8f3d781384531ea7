//! How far a sweep is: a full one notes each kill in a file, and goes on there if it is started again with the same seed.

use crate::support::commit::commit;
use crate::support::seed::{full_sweep, seed};
use crate::support::{programs, say};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;

/// What one scene has done.
pub struct Progress {
    name: &'static str,
    done: u64,
    killed: u64,
    most: u64,
    file: Option<File>,
}

impl Progress {
    /// With what an earlier part of the same sweep has done, for this commit and this seed.
    pub fn open(name: &'static str) -> Self {
        let mut progress = Self {
            name,
            done: 0,
            killed: 0,
            most: 0,
            file: None,
        };
        if full_sweep() {
            let dir = programs::jobcage()
                .ancestors()
                .nth(3)
                .unwrap()
                .join("guest-points");
            fs::create_dir_all(&dir).unwrap();
            let path = dir.join(format!("{}-{}.txt", commit(), seed()));
            let text = fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines() {
                progress.read(line);
            }
            progress.file = Some(OpenOptions::new().append(true).create(true).open(path).unwrap());
        }
        progress
    }

    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.rsplitn(3, ' ').collect();
        if let [killed, calls, name] = words[..]
            && name == self.name
        {
            self.count(calls.parse().unwrap(), killed == "killed");
        }
    }

    fn count(&mut self, calls: u64, was_killed: bool) {
        self.done += 1;
        self.killed += u64::from(was_killed);
        self.most = self.most.max(calls);
    }

    /// So many rounds need not be done again.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Notes a round in which nothing was left.
    pub fn note(&mut self, calls: u64, was_killed: bool) {
        self.count(calls, was_killed);
        if let Some(file) = &mut self.file {
            let how = if was_killed { "killed" } else { "over" };
            writeln!(file, "{} {calls} {how}", self.name).unwrap();
        }
    }

    /// Says what it came to.
    pub fn tell(&self, most: u64) {
        let Self {
            name, killed, done, ..
        } = self;
        assert!(*killed > 0, "nobody was killed");
        say(&format!(
            "{name}: {killed} kills in {done} rounds among {} system calls, nothing left",
            most.max(self.most)
        ));
    }
}
