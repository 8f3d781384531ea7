//! Files without a name: what is on its way between the two sides, and gone with whoever has it.

use jobcage_sys::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};

/// An empty one, in the directory for temporary files.
///
/// # Errors
/// As open(2), for a person.
pub fn spool() -> std::result::Result<File, String> {
    let dir = std::env::temp_dir();
    let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
    let file = open(&dir, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    file.map(File::from).map_err(|errno| {
        format!(
            "cannot make a file in {} (TMPDIR): {}",
            dir.display(),
            errno.desc()
        )
    })
}

/// Adds to one.
pub(crate) fn add(file: &mut File, bytes: &[u8]) -> std::result::Result<(), String> {
    file.write_all(bytes).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        format!(
            "cannot write into {} (TMPDIR): {}",
            std::env::temp_dir().display(),
            errno.desc()
        )
    })
}

/// To be read from its beginning.
pub(crate) fn rewound(mut file: File) -> std::result::Result<File, String> {
    let rewound = file.rewind().map_err(|error| error.to_string());
    rewound.map(|()| file)
}

/// Each with the directory that it is for.
pub(crate) type Archives = Vec<(OsString, File)>;

/// What a client sends before its job is started. What cannot be kept is told when it is wanted: until then its client goes on sending.
#[derive(Default)]
pub(crate) struct Arrived {
    input: Option<File>,
    files: Archives,
    failed: Option<String>,
}

impl Arrived {
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        self.attempt(|arrived| {
            if arrived.input.is_none() {
                arrived.input = Some(spool()?);
            }
            arrived.input.as_mut().map_or(Ok(()), |file| add(file, bytes))
        });
    }

    pub(crate) fn put(&mut self, dir: OsString) {
        self.attempt(|arrived| {
            arrived.files.push((dir, spool()?));
            Ok(())
        });
    }

    pub(crate) fn piece(&mut self, bytes: &[u8]) {
        self.attempt(|arrived| match arrived.files.last_mut() {
            Some((_, file)) => add(file, bytes),
            None => Err("files have come without a directory".into()),
        });
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> std::result::Result<(), String>) {
        if self.failed.is_none() {
            self.failed = work(self).err();
        }
    }

    /// The job's standard input, if it has one, and its files.
    pub(crate) fn ready(self) -> std::result::Result<(Option<File>, Archives), String> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        let files = self
            .files
            .into_iter()
            .map(|(dir, file)| Ok((dir, rewound(file)?)));
        Ok((
            self.input.map(rewound).transpose()?,
            files.collect::<std::result::Result<_, String>>()?,
        ))
    }
}
