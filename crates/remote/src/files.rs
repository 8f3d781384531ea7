//! Files that go with a job, as a tar archive: directories, files and links, with their modes and times, and with their owners where root takes them.
//! Whoever takes an archive believes nothing of it: no entry leads out of the directory.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// Why files could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One of them.
    #[error("{}: {source}", path.display())]
    Of {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive itself.
    #[error("the archive: {0}")]
    Archive(#[from] io::Error),
    /// An entry leads out of the directory, or is nothing that is taken.
    #[error("{} is refused: {why}", path.display())]
    Refused {
        /// Its path in the archive.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

type Result<T> = std::result::Result<T, FilesError>;

fn of(path: &Path) -> impl FnOnce(io::Error) -> FilesError + '_ {
    move |source| FilesError::Of {
        path: path.into(),
        source,
    }
}

/// Packs a file or a directory under its own name; of a path that ends in `.` the content. No link is followed but in the path itself. What is
/// neither file, directory nor link is left out: the number of those.
///
/// # Errors
/// If something cannot be read.
pub fn pack(path: &Path, into: File) -> Result<u64> {
    let mut archive = Builder::new(io::BufWriter::with_capacity(1 << 17, into));
    let mut skipped = 0;
    let is_content = matches!(path.components().next_back(), Some(Component::CurDir))
        || path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    match path.file_name().filter(|_| !is_content) {
        Some(name) => add(&mut archive, path, Path::new(name), &mut skipped)?,
        None => add_content(&mut archive, path, Path::new(""), &mut skipped)?,
    }
    let buffer = archive.into_inner()?;
    buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(skipped)
}

type Into = Builder<io::BufWriter<File>>;

fn add(archive: &mut Into, path: &Path, name: &Path, skipped: &mut u64) -> Result<()> {
    let meta = fs::symlink_metadata(path).map_err(of(path))?;
    let kind = meta.file_type();
    let mut header = header(&meta);
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        archive
            .append_data(&mut header, name, io::empty())
            .map_err(of(path))?;
        return add_content(archive, path, name, skipped);
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(path).map_err(of(path))?;
        return archive.append_link(&mut header, name, target).map_err(of(path));
    }
    if !kind.is_file() || kind.is_fifo() {
        *skipped += 1;
        return Ok(());
    }
    let file = File::open(path).map_err(of(path))?;
    header.set_size(meta.len());
    let exact = Exact {
        file: file.take(meta.len()),
        left: meta.len(),
    };
    archive.append_data(&mut header, name, exact).map_err(of(path))
}

fn add_content(archive: &mut Into, path: &Path, name: &Path, skipped: &mut u64) -> Result<()> {
    let listed: io::Result<Vec<_>> = fs::read_dir(path).map_err(of(path))?.collect();
    let mut names: Vec<_> = listed
        .map_err(of(path))?
        .iter()
        .map(fs::DirEntry::file_name)
        .collect();
    names.sort();
    for entry in names {
        match add(archive, &path.join(&entry), &name.join(&entry), skipped) {
            // Removed meanwhile.
            Err(FilesError::Of { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn header(meta: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_mode(meta.mode() & 0o7777);
    header.set_size(0);
    header
}

/// A file that others may write to meanwhile: as many bytes as its header says, whatever becomes of it.
struct Exact {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n = self.file.read(buffer)?;
        if n == 0 && self.left > 0 {
            n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
            buffer[..n].fill(0);
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Unpacks into a directory, which is made if it is not there. Set-user-ID bits are dropped.
///
/// # Errors
/// At the first entry that leads out of it, is no file, directory or link, or cannot be written; what came before is there.
pub fn unpack(from: File, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(of(dir))?;
    let mut archive = Archive::new(io::BufReader::with_capacity(1 << 17, from));
    archive.set_preserve_ownerships(nix::unistd::geteuid().is_root());
    let mut dirs = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        check(&path, kind)?;
        if kind.is_dir() {
            dirs.push((path, entry));
        } else {
            put(&mut entry, &path, dir)?;
        }
    }
    // Behind all that is in them: they may be such as nobody may write into. The deepest first.
    dirs.sort_by(|(one, _), (other, _)| other.cmp(one));
    dirs.iter_mut()
        .try_for_each(|(path, entry)| put(entry, path, dir))
}

fn put(entry: &mut tar::Entry<'_, impl Read>, path: &Path, dir: &Path) -> Result<()> {
    match entry.unpack_in(dir).map_err(of(path))? {
        true => Ok(()),
        false => Err(refused(path, "it leads out of the directory")),
    }
}

fn refused(path: &Path, why: &'static str) -> FilesError {
    FilesError::Refused {
        path: path.into(),
        why,
    }
}

fn check(path: &Path, kind: EntryType) -> Result<()> {
    use EntryType::{Directory, Link, Regular, Symlink};
    let is_inner = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !path.components().all(is_inner) {
        return Err(refused(path, "it leads out of the directory"));
    }
    if !matches!(kind, Regular | Directory | Symlink | Link) {
        return Err(refused(path, "it is no file, no directory and no link"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Seek, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn spool() -> File {
        tempfile::tempfile().unwrap()
    }

    fn packed(path: &Path) -> (File, u64) {
        let file = spool();
        let skipped = pack(path, file.try_clone().unwrap()).unwrap();
        (rewound(file), skipped)
    }

    fn rewound(mut file: File) -> File {
        file.rewind().unwrap();
        file
    }

    /// Names, kinds, modes and content of what is below.
    fn tree(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut all = Vec::new();
        let mut dirs = vec![dir.to_owned()];
        while let Some(next) = dirs.pop() {
            for entry in fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let content = match () {
                    () if meta.is_dir() => {
                        dirs.push(path.clone());
                        Vec::new()
                    }
                    () if meta.is_symlink() => fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                    () => fs::read(&path).unwrap(),
                };
                all.push((path.strip_prefix(dir).unwrap().to_owned(), meta.mode(), content));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn what_is_packed_comes_out_the_same() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let top = from.path().join("top");
        let long = "n".repeat(200);
        fs::create_dir_all(top.join("a/b").join(&long)).unwrap();
        fs::write(top.join("a/empty"), "").unwrap();
        fs::write(top.join("a/b").join(&long).join("deep"), vec![7; 100_000]).unwrap();
        for path in ["a/empty", "a"] {
            fs::set_permissions(top.join(path), fs::Permissions::from_mode(0o500)).unwrap();
        }
        symlink("../nowhere", top.join("a/link")).unwrap();
        symlink("/etc/passwd", top.join("out")).unwrap();
        nix::unistd::mkfifo(&top.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (archive, skipped) = packed(&top);
        assert_eq!(skipped, 1);
        unpack(archive, to.path()).unwrap();
        fs::remove_file(top.join("fifo")).unwrap();
        assert_eq!(tree(&to.path().join("top")), tree(&top));
        // Of a path that ends in a dot the content, into a directory that is not there yet.
        let inner = to.path().join("x/y");
        unpack(packed(&top.join(".")).0, &inner).unwrap();
        assert_eq!(tree(&inner), tree(&top));
        let missing = pack(&from.path().join("none"), spool()).unwrap_err();
        assert!(missing.to_string().contains("none: No such file"), "{missing}");
    }

    #[test]
    fn a_file_that_changes_meanwhile_breaks_no_archive() {
        let file = spool();
        (&file).write_all(b"abc").unwrap();
        let read = |len| {
            let mut all = Vec::new();
            let file = rewound(file.try_clone().unwrap());
            Exact {
                file: file.take(len),
                left: len,
            }
            .read_to_end(&mut all)
            .unwrap();
            all
        };
        assert_eq!((read(2), read(5)), (b"ab".to_vec(), b"abc\0\0".to_vec()));
    }

    /// An archive of one entry whose name no builder would write.
    fn hostile(name: &[u8], kind: EntryType, target: &str) -> File {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        if !target.is_empty() {
            header.set_link_name(target).unwrap();
        }
        header.set_size(0);
        header.set_mode(0o4777);
        header.set_mtime(0);
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header.set_cksum();
        let mut file = spool();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(&[0; 1024]).unwrap();
        rewound(file)
    }

    #[test]
    fn nothing_leads_out() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("in");
        for name in [&b"../x"[..], b"/x", b"a/../../x", b"./../x"] {
            let why = unpack(hostile(name, EntryType::Regular, ""), &dir)
                .unwrap_err()
                .to_string();
            assert!(why.contains("it leads out of the directory"), "{why}");
        }
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
            assert!(unpack(hostile(b"x", kind, ""), &dir).is_err());
        }
        // By way of a link that an earlier entry has made.
        let bait = outer.path().join("bait");
        fs::create_dir(&bait).unwrap();
        symlink(&bait, dir.join("way")).unwrap();
        assert!(unpack(hostile(b"way/x", EntryType::Regular, ""), &dir).is_err());
        assert!(unpack(hostile(b"hard", EntryType::Link, "/etc/passwd"), &dir).is_err());
        assert!(unpack(hostile(b"hard", EntryType::Link, "../bait"), &dir).is_err());
        let mode = || fs::metadata(&bait).unwrap().mode();
        let before = mode();
        let _ = unpack(hostile(b"way", EntryType::Directory, ""), &dir);
        assert_eq!((fs::read_dir(&bait).unwrap().count(), mode()), (0, before));
        // What is set-user-ID there is not here.
        unpack(hostile(b"plain", EntryType::Regular, ""), &dir).unwrap();
        let mode = fs::metadata(dir.join("plain")).unwrap().mode();
        assert_eq!(mode & 0o7000, 0, "{mode:o}");
    }

    proptest! {
        #[test]
        fn no_archive_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let outer = tempfile::tempdir().unwrap();
            let mut file = spool();
            file.write_all(&bytes).unwrap();
            let _ = unpack(rewound(file), &outer.path().join("in"));
            let outside = fs::read_dir(outer.path()).unwrap().count();
            prop_assert_eq!(outside, 1);
        }
    }
}
