//! Disks and machines that VirtualBox has forgotten before it has removed them. It takes what goes out of its registry first, and removes the files
//! after that. If it is killed between the two, with whoever closes the job, or fails there, nobody knows of the files any more. So those that do
//! not go with the place are noted in it before the first one goes.

use crate::virtualbox::{Disk, Entry, KIND, read_registry};
use crate::{Found, left};
use jobcage_job::{GuestPlace, GuestReport};
use jobcage_sys::file::{birth_ns, open_dir, open_distrusted, write_all};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, geteuid, unlinkat};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const NOTE: &str = "disks.json";
const UNFINISHED: &str = "disks.json.new";

/// The file of a disk that is about to go: as its path may be another's by the time that somebody looks again, with what tells two files apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    id: String,
    path: String,
    dev: u64,
    ino: u64,
    born_ns: i64,
    /// It is a machine's settings. VirtualBox writes those anew at each change, so they are known by the number of the machine in them.
    #[serde(default)]
    settings: bool,
}

impl Noted {
    /// As it is now. A disk that is no file, such as a partition, has nothing to be removed.
    fn of(id: &str, path: &str) -> Option<Self> {
        let of = Path::new(path).symlink_metadata().ok()?;
        let is_plain = Path::new(path).is_absolute() && of.is_file();
        is_plain.then(|| Self {
            id: id.to_owned(),
            path: path.to_owned(),
            dev: of.dev(),
            ino: of.ino(),
            // Not every file system keeps it.
            born_ns: birth_ns(Path::new(path)).unwrap_or(0),
            settings: false,
        })
    }

    fn settings(entry: &Entry) -> Option<Self> {
        let found = Self::of(&entry.id, &entry.src)?;
        Some(Self {
            settings: true,
            dev: 0,
            ino: 0,
            born_ns: 0,
            ..found
        })
    }

    fn is_there(&self) -> bool {
        if self.settings {
            return is_settings_of(Path::new(&self.path), &self.id);
        }
        Self::of(&self.id, &self.path).as_ref() == Some(self)
    }
}

/// Whether a file is the settings of this machine. Another one's may lie there by now.
fn is_settings_of(path: &Path, id: &str) -> bool {
    let split = path.parent().zip(path.file_name().and_then(|name| name.to_str()));
    let text = split.and_then(|(dir, name)| read_registry(dir, name, None));
    text.is_some_and(|text| text.contains(&format!("<Machine uuid=\"{{{id}}}\"")))
}

/// Notes the disks and the settings of machines that lie elsewhere than in the job's place, beside those that were noted before.
///
/// # Errors
/// If it cannot be written: they are given back all the same, and found by nobody should that be cut off.
pub(crate) fn note(place: &GuestPlace, disks: &[Disk], machines: &[Entry]) -> jobcage_sys::Result<()> {
    let known = noted(place);
    let disks = disks
        .iter()
        .filter_map(|disk| Noted::of(&disk.id, &disk.location));
    let settings = machines.iter().filter_map(Noted::settings);
    let mut all = known.clone();
    for found in disks.chain(settings) {
        if !Path::new(&found.path).starts_with(&place.dir) && !all.contains(&found) {
            all.push(found);
        }
    }
    if all == known && has_note(place) {
        return Ok(());
    }
    let text = serde_json::to_vec(&all).unwrap_or_default();
    let dir = open_dir(Path::new(&place.dir))?;
    // Whatever has that name: in the job's directory it may be a FIFO, which would hold us, and only a new file is ours.
    let _ = unlinkat(&dir, UNFINISHED, UnlinkatFlags::NoRemoveDir);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = openat(&dir, UNFINISHED, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    write_all(file.as_fd(), &text)?;
    fsync(&file)?;
    renameat(&dir, UNFINISHED, &dir, NOTE)?;
    fsync(&dir)
}

/// The note of an earlier closer or pass. A file of the job's own is none: it belongs to somebody else, unless jobcage is the user's.
fn open(place: &GuestPlace) -> Option<File> {
    let dir = open_dir(Path::new(&place.dir)).ok()?;
    let file = File::from(open_distrusted(dir.as_fd(), NOTE, OFlag::O_RDONLY).ok()?);
    let of = file.metadata().ok()?;
    (of.is_file() && of.uid() == geteuid().as_raw()).then_some(file)
}

/// Whether there is one, though nothing may stand in it.
pub(crate) fn has_note(place: &GuestPlace) -> bool {
    open(place).is_some()
}

fn noted(place: &GuestPlace) -> Vec<Noted> {
    const MOST: u64 = 16 << 20;
    let mut text = Vec::new();
    let read = open(place).and_then(|file| file.take(MOST).read_to_end(&mut text).ok());
    read.and_then(|_| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn there(place: &GuestPlace) -> impl Iterator<Item = Noted> {
    noted(place).into_iter().filter(Noted::is_there)
}

/// Whether an earlier closer has noted some that are still there.
pub(crate) fn is_noted(place: &GuestPlace) -> bool {
    there(place).next().is_some()
}

/// The disks that were noted, are still there, and are in no registry any more: a tool finds them by their paths alone.
pub(crate) fn forgotten(place: &GuestPlace, listed: &[Disk]) -> Vec<Found> {
    let is_listed = |disk: &Noted| listed.iter().any(|known| known.id == disk.id);
    let lost = there(place).filter(|noted| !noted.settings && !is_listed(noted));
    lost.map(|disk| Found {
        id: disk.path.clone(),
        name: disk.path,
        ran: None,
    })
    .collect()
}

/// The settings of machines, by their paths, that were noted, are still there, and are in no registry any more.
pub(crate) fn forgotten_machines(place: &GuestPlace, known: &[Entry]) -> Vec<String> {
    let is_known = |noted: &Noted| known.iter().any(|entry| entry.id == noted.id);
    let lost = there(place).filter(|noted| noted.settings && !is_known(noted));
    lost.map(|settings| settings.path).collect()
}

/// All that were noted and are still there, in a registry or in none.
pub(crate) fn unremoved(place: &GuestPlace) -> Vec<GuestReport> {
    let told = there(place).map(|noted| {
        let what = if noted.settings { SETTINGS } else { "disk" };
        left(KIND, what, &noted.path, &UNREMOVED, taken(&noted.path))
    });
    told.collect()
}

/// What the settings of a machine are in a report.
pub(crate) const SETTINGS: &str = "settings";

const UNREMOVED: &str = "it was to go with the job's machines, and VirtualBox did not come to it";

/// What a file takes on the disk.
fn taken(path: &str) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn place(dir: &Path) -> GuestPlace {
        GuestPlace {
            dir: dir.join("place").display().to_string(),
            socket: String::new(),
            gid: 0,
            groups: Vec::new(),
            home: String::new(),
            project: None,
            kinds: BTreeMap::new(),
            timeout: Duration::from_secs(1),
            hook: Vec::new(),
        }
    }

    fn disk(id: &str, path: &Path) -> Disk {
        Disk {
            id: id.into(),
            location: path.display().to_string(),
            ..Disk::default()
        }
    }

    /// A place, with a disk in it and two elsewhere, which are noted.
    fn with_disks() -> (tempfile::TempDir, GuestPlace, [Disk; 3]) {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        std::fs::create_dir(&place.dir).unwrap();
        let paths = ["place/in.vdi", "a.vdi", "b.vdi"].map(|name| dir.path().join(name));
        let listed = ["1", "2", "3"].map(|id| disk(id, &paths[id.parse::<usize>().unwrap() - 1]));
        paths
            .iter()
            .for_each(|path| std::fs::write(path, "disk").unwrap());
        (dir, place, listed)
    }

    fn names(found: &[Found]) -> Vec<&str> {
        let names = found.iter().map(|found| found.name.rsplit('/').next().unwrap());
        names.collect()
    }

    #[test]
    fn what_is_noted_and_not_listed_any_more_is_forgotten_until_it_is_gone() {
        let (dir, place, listed) = with_disks();
        assert!(!has_note(&place));
        note(&place, &[], &[]).unwrap();
        assert!(has_note(&place) && !is_noted(&place));
        note(&place, &listed, &[]).unwrap();
        assert!(is_noted(&place));
        assert_eq!(names(&forgotten(&place, &listed)), Vec::<&str>::new());
        assert_eq!(names(&forgotten(&place, &listed[..2])), ["b.vdi"]);
        // Whoever comes next sees less, and what was noted before counts.
        note(&place, &listed[..2], &[]).unwrap();
        assert_eq!(names(&forgotten(&place, &[])), ["a.vdi", "b.vdi"]);
        std::fs::remove_file(dir.path().join("a.vdi")).unwrap();
        assert_eq!(names(&forgotten(&place, &[])), ["b.vdi"]);
    }

    #[test]
    fn another_file_of_that_name_is_nobodys() {
        let (dir, place, listed) = with_disks();
        note(&place, &listed, &[]).unwrap();
        // The old ones live on, so that no new one can have their numbers.
        for name in ["a.vdi", "b.vdi"] {
            std::fs::rename(dir.path().join(name), dir.path().join(format!("{name}.old"))).unwrap();
        }
        std::fs::write(dir.path().join("a.vdi"), "disk").unwrap();
        std::os::unix::fs::symlink(dir.path().join("b.vdi.old"), dir.path().join("b.vdi")).unwrap();
        assert!(forgotten(&place, &[]).is_empty() && !is_noted(&place));
    }

    #[test]
    fn settings_are_known_by_the_machine_in_them() {
        let (dir, place, _) = with_disks();
        let src = dir.path().join("web/web.vbox");
        std::fs::create_dir(dir.path().join("web")).unwrap();
        let write =
            |id: &str| std::fs::write(&src, format!("<Machine uuid=\"{{{id}}}\" name=\"web\">")).unwrap();
        write("1");
        let entry = Entry {
            name: "web".into(),
            id: "1".into(),
            src: src.display().to_string(),
        };
        note(&place, &[], std::slice::from_ref(&entry)).unwrap();
        assert_eq!(forgotten_machines(&place, &[]), [entry.src.as_str()]);
        assert!(forgotten_machines(&place, std::slice::from_ref(&entry)).is_empty());
        assert!(forgotten(&place, &[]).is_empty(), "it is no disk");
        // As VirtualBox does at each change.
        std::fs::remove_file(&src).unwrap();
        write("1");
        note(&place, &[], &[entry]).unwrap();
        let told: Vec<_> = unremoved(&place).into_iter().map(|report| report.what).collect();
        assert_eq!(told, [SETTINGS]);
        write("2");
        assert!(!is_noted(&place), "another machine's");
    }

    #[test]
    fn what_is_no_note_of_ours_says_nothing_and_holds_nobody() {
        let (dir, place, listed) = with_disks();
        let at = |name: &str| Path::new(&place.dir).join(name);
        nix::unistd::mkfifo(&at(NOTE), Mode::S_IRWXU).unwrap();
        nix::unistd::mkfifo(&at(UNFINISHED), Mode::S_IRWXU).unwrap();
        assert!(!is_noted(&place));
        note(&place, &listed, &[]).unwrap();
        assert!(is_noted(&place));
        if geteuid().is_root() {
            std::os::unix::fs::chown(at(NOTE), Some(65534), None).unwrap();
            assert!(!is_noted(&place), "the job has written it");
        }
        std::fs::remove_file(at(NOTE)).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a.vdi"), at(NOTE)).unwrap();
        assert!(!is_noted(&place));
    }
}
