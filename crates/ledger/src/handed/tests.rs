use super::*;
use crate::Places;
use jobcage_job::handed::WrongText;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

/// A place in memory of this test alone.
struct Bench {
    home: TempDir,
    place: HandedPlace,
    id: JobId,
}

fn ours() -> u32 {
    geteuid().as_raw()
}

fn places(home: &Path) -> Places {
    Places {
        runtime: home.join("run"),
        state: home.join("state"),
    }
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = HandedPlace::choose(&places(home.path()), ours()).unwrap();
        Self {
            home,
            place,
            id: "job-00000001".parse().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.place.of(&self.id)
    }

    fn make(&self) -> HandedDir {
        self.place.make(&self.id, ours()).unwrap()
    }

    fn remove(&self) {
        remove_dir(&self.path()).unwrap();
        let place = self.home.path().join("run.env");
        let left: Vec<_> = fs::read_dir(&place).into_iter().flatten().collect();
        assert!(!place.exists(), "{left:?}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn it_is_private_and_beside_the_records() {
    let bench = Bench::new();
    let base = bench.home.path().join("run.env");
    assert_eq!(bench.path(), base.join("job-00000001"));
    assert!(!bench.path().exists(), "it was made before it was written down");
    let dir = bench.make();
    assert_eq!(mode(&base), if ours() == 0 { 0o711 } else { 0o700 });
    assert_eq!(mode(&bench.path()), 0o700);
    for file in ["env", "path"] {
        assert_eq!(mode(&bench.path().join(file)), 0o600);
    }
    let told: Vec<_> = dir
        .variables()
        .iter()
        .map(|v| v.to_str().unwrap().to_owned())
        .collect();
    let expected = [("JOBCAGE_ENV", "env"), ("JOBCAGE_PATH", "path")]
        .map(|(name, file)| format!("{name}={}", bench.path().join(file).display()));
    assert_eq!(told, expected);
    assert!(
        bench.place.make(&bench.id, ours()).is_err(),
        "an id that is in use"
    );
    bench.remove();
    // Repeated, and where even the place is gone.
    bench.remove();
    assert!(!base.exists());
    assert_eq!(remove_dir(&bench.path()), Ok(()));
}

/// The last one takes the place away, perhaps between the choice of the place by another and its use.
#[test]
fn many_that_come_and_go_each_have_theirs() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let home = bench.home.path();
            scope.spawn(move || {
                for n in 0..200 {
                    let place = HandedPlace::choose(&places(home), ours()).unwrap();
                    assert!(place.path.starts_with(home), "{place:?}");
                    let id: JobId = format!("job-{thread}{n:07}").parse().unwrap();
                    let dir = place.make(&id, ours()).unwrap();
                    assert!(dir.read().notes().is_empty());
                    remove_dir(&place.of(&id)).unwrap();
                }
            });
        }
    });
    assert!(!bench.home.path().join("run.env").exists());
}

#[test]
fn no_disk_and_no_strangers_directory_is_taken() {
    let home = tempfile::tempdir_in("/dev/shm").unwrap();
    let base = home.path().join("run.env");
    let shared = Path::new("/dev/shm").join(format!("jobcage-{}.env", ours()));
    let chosen = || HandedPlace::choose(&places(home.path()), ours()).map(|place| place.path);
    // Of another mode it is made right where that is ours to do, and else left alone.
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(chosen(), Ok(base.clone()));
    assert_ne!(mode(&base), 0o755);
    for wrong in ["written to", "link", "file", "gone", "anybody's parent"] {
        let _ = fs::remove_dir(&base);
        match wrong {
            "written to" => {
                fs::create_dir(&base).unwrap();
                fs::set_permissions(&base, Permissions::from_mode(0o722)).unwrap();
            }
            "link" => symlink(home.path(), &base).unwrap(),
            "file" => fs::write(&base, "").unwrap(),
            "gone" => fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap(),
            _ => fs::set_permissions(home.path(), Permissions::from_mode(0o777)).unwrap(),
        }
        let runtime = places(home.path()).runtime;
        let runtime = if wrong == "gone" {
            home.path().join("no/run")
        } else {
            runtime
        };
        let places = Places {
            runtime,
            ..places(home.path())
        };
        let place = HandedPlace::choose(&places, ours()).unwrap();
        assert_eq!(place.path, shared, "{wrong}");
        let _ = fs::remove_file(&base);
    }
    // A disk: proc is none, but no memory for files either.
    let proc = Places {
        runtime: "/proc/run".into(),
        state: "/proc".into(),
    };
    assert_eq!(HandedPlace::choose(&proc, ours()).unwrap().path, shared);
}

#[test]
fn another_user_must_get_there() {
    if ours() != 0 {
        return;
    }
    let home = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
    let path = |uid| HandedPlace::choose(&places(home.path()), uid).unwrap().path;
    assert_eq!(
        path(61234),
        Path::new("/dev/shm/jobcage-0.env"),
        "the directory above is 0700"
    );
    fs::set_permissions(home.path(), Permissions::from_mode(0o711)).unwrap();
    assert_eq!(path(61234), home.path().join("run.env"));
    let place = HandedPlace::choose(&places(home.path()), 61234).unwrap();
    let id: JobId = "job-00000002".parse().unwrap();
    place.make(&id, 61234).unwrap();
    for path in [
        place.of(&id),
        place.of(&id).join("env"),
        place.of(&id).join("path"),
    ] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), 61234, "{}", path.display());
    }
    remove_dir(&place.of(&id)).unwrap();
    assert!(!place.of(&id).exists());
}

#[test]
fn what_was_written_is_read() {
    let bench = Bench::new();
    let dir = bench.make();
    assert!(dir.read().handed.is_empty() && dir.read().notes().is_empty());
    fs::write(bench.path().join("env"), "A=1\nwrong\n").unwrap();
    fs::write(bench.path().join("path"), "/x\n").unwrap();
    // As a later step opens it.
    let dir = HandedDir::open(&bench.path(), ours()).unwrap();
    let reading = dir.read();
    assert_eq!(reading.handed.variables.len(), 1);
    assert_eq!(reading.handed.path, [b"/x"]);
    assert_eq!(reading.wrong.len(), 1);
    assert_eq!(reading.wrong[0].why, WrongText::Form);
    bench.remove();
}

#[test]
fn a_line_that_was_left_open_is_ended() {
    let bench = Bench::new();
    let dir = bench.make();
    let env = bench.path().join("env");
    for (before, after) in [("", ""), ("A=1", "A=1\n"), ("A=1\n", "A=1\n")] {
        fs::write(&env, before).unwrap();
        dir.end_lines();
        assert_eq!(fs::read_to_string(&env).unwrap(), after);
    }
    let kept = bench.home.path().join("kept");
    fs::write(&kept, "A=1").unwrap();
    fs::remove_file(&env).unwrap();
    symlink(&kept, &env).unwrap();
    dir.end_lines();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "A=1");
    fs::remove_file(&env).unwrap();
    nix::unistd::mkfifo(&env, Mode::S_IRWXU).unwrap();
    dir.end_lines();
    bench.remove();
}

/// Each of these in the place of the file: it is ignored, told, and neither followed nor waited for.
#[test]
fn hostile_files_are_ignored() {
    let bench = Bench::new();
    let secret = bench.home.path().join("secret");
    fs::write(&secret, "SECRET=1\n").unwrap();
    let dir = bench.make();
    let env = bench.path().join("env");
    for (what, why) in [
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("fifo", "no regular file"),
        ("directory", "no regular file"),
        ("socket", "cannot be read"),
        ("large", "larger than 1 MiB"),
        ("sparse", "larger than 1 MiB"),
        ("gone", "is gone"),
    ] {
        let _ = fs::remove_file(&env);
        match what {
            "link" => symlink(&secret, &env).unwrap(),
            "dangling" => symlink("/nowhere", &env).unwrap(),
            "fifo" => nix::unistd::mkfifo(&env, Mode::S_IRWXU).unwrap(),
            "directory" => fs::create_dir(&env).unwrap(),
            "socket" => drop(std::os::unix::net::UnixListener::bind(&env).unwrap()),
            "large" => fs::write(&env, vec![b'\n'; MAX_FILE + 1]).unwrap(),
            "sparse" => fs::File::create(&env).unwrap().set_len(1 << 40).unwrap(),
            _ => {}
        }
        fs::write(bench.path().join("path"), "/still\n").unwrap();
        let reading = dir.read();
        assert_eq!(reading.handed.variables.len(), 0, "{what}");
        assert_eq!(
            reading.handed.path,
            [b"/still"],
            "{what}: one file does not spoil the other"
        );
        let notes = reading.notes();
        assert!(notes.len() == 1 && notes[0].contains(why), "{what}: {notes:?}");
        let _ = fs::remove_dir(&env);
    }
    fs::write(&env, vec![b'\n'; MAX_FILE]).unwrap();
    assert!(dir.read().notes().is_empty(), "the greatest that is read");
    if ours() == 0 {
        // A hard link to a file that the job's user may not read.
        let foreign = HandedDir::open(&bench.path(), 61234).unwrap();
        let notes = foreign.read().notes();
        assert!(
            notes.iter().all(|note| note.contains("belongs to uid 0")),
            "{notes:?}"
        );
    }
    bench.remove();
    assert!(secret.exists());
}

#[test]
fn a_directory_that_was_replaced_is_not_opened() {
    let bench = Bench::new();
    drop(bench.make());
    fs::remove_dir_all(bench.path()).unwrap();
    symlink(bench.home.path(), bench.path()).unwrap();
    assert!(HandedDir::open(&bench.path(), ours()).is_err());
    // Of a link, the link is removed.
    remove_dir(&bench.path()).unwrap();
    assert!(bench.home.path().exists() && bench.path().symlink_metadata().is_err());
    assert!(HandedDir::open(&bench.path(), ours()).is_err());
}

#[test]
fn whatever_was_put_there_is_removed_and_nothing_else() {
    let bench = Bench::new();
    drop(bench.make());
    let outside = bench.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    let top = bench.path();
    symlink(&outside, top.join("link")).unwrap();
    nix::unistd::mkfifo(&top.join("fifo"), Mode::S_IRWXU).unwrap();
    // Names that the sweep itself would use, as a file and as a full directory.
    fs::write(top.join("1"), "").unwrap();
    fs::create_dir_all(top.join("2/full/1")).unwrap();
    fs::create_dir_all(top.join("wide")).unwrap();
    for n in 0..3000 {
        fs::write(top.join(format!("wide/{n}")), "").unwrap();
        fs::create_dir_all(top.join(format!("wide/d{n}/x"))).unwrap();
    }
    // Deeper than a path can name, than there are descriptors and than a stack would hold.
    let mut dir = nix::fcntl::open(&top, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..5000 {
        nix::sys::stat::mkdirat(&dir, "deep", Mode::S_IRWXU).unwrap();
        dir = nix::fcntl::openat(&dir, "deep", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
    fs::create_dir_all(top.join("closed/inner/x")).unwrap();
    fs::write(top.join("closed/inner/file"), "").unwrap();
    symlink(&outside, top.join("closed/inner/link")).unwrap();
    for path in ["closed/inner/x", "closed/inner", "closed", ""] {
        fs::set_permissions(top.join(path), Permissions::from_mode(0o0)).unwrap();
    }
    bench.remove();
    assert!(outside.join("kept").exists());
}

#[test]
fn lines_of_many_writers_are_all_there() {
    let bench = Bench::new();
    let dir = bench.make();
    let env = bench.path().join("env");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let env = &env;
            scope.spawn(move || {
                for n in 0..200 {
                    append(env, format!("W{writer}_{n}<<END\n{n}\n\nEND\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let reading = dir.read();
    assert!(reading.notes().is_empty(), "{:?}", reading.notes());
    assert_eq!(reading.handed.variables.len(), 800);
    bench.remove();
}

#[test]
fn a_line_is_added_whole_or_not_at_all() {
    let bench = Bench::new();
    drop(bench.make());
    let env = bench.path().join("env");
    fs::write(&env, "OPEN=1").unwrap();
    append(&env, b"A=1\n").unwrap();
    append(&env, b"B=1\n").unwrap();
    assert_eq!(read_own(&env).unwrap(), b"OPEN=1\nA=1\nB=1\n");
    fs::write(&env, vec![b'\n'; MAX_FILE - 4]).unwrap();
    let told = append(&env, b"AA=1\n").unwrap_err().to_string();
    assert!(told.contains("at most 1 MiB"), "{told}");
    append(&env, b"A=1\n").unwrap();
    assert_eq!(fs::metadata(&env).unwrap().len(), MAX_FILE as u64);
    fs::remove_file(&env).unwrap();
    assert_eq!(read_own(&env).unwrap(), b"");
    append(&env, b"A=1\n").unwrap();
    assert_eq!(mode(&env), 0o600);
    fs::remove_file(&env).unwrap();
    nix::unistd::mkfifo(&env, Mode::S_IRWXU).unwrap();
    for told in [append(&env, b"A=1\n").unwrap_err(), read_own(&env).unwrap_err()] {
        assert!(told.to_string().contains("no regular file"), "{told}");
    }
    bench.remove();
}
