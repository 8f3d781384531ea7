//! What nobody may change but its owner: files of a neighbour and of root, told apart by their content and by times that cannot be set.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What there is, and how it is.
#[derive(PartialEq, Eq)]
pub struct Seen(BTreeMap<PathBuf, u64>);

/// Of root's and the neighbour's, and of these.
pub fn look(more: &[&Path]) -> Seen {
    let mut seen = BTreeMap::new();
    let usual = [
        "/etc",
        "/root",
        "/home/ci2",
        "/usr/local",
        "/var/lib",
        "/var/spool",
    ]
    .map(Path::new);
    for dir in usual.iter().chain(more) {
        walk(dir, &mut seen);
    }
    assert!(seen.len() > 200, "there is more than that: {}", seen.len());
    Seen(seen)
}

fn walk(path: &Path, seen: &mut BTreeMap<PathBuf, u64>) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    let mut hash = DefaultHasher::new();
    // ctime is the kernel's own: it is set by whatever is done to the file but reading it.
    (meta.ino(), meta.mode(), meta.uid(), meta.gid(), meta.size()).hash(&mut hash);
    (meta.ctime(), meta.ctime_nsec()).hash(&mut hash);
    if meta.is_file() && meta.size() < 1 << 20 {
        fs::read(path).unwrap_or_default().hash(&mut hash);
    }
    if meta.is_symlink() {
        fs::read_link(path).unwrap_or_default().hash(&mut hash);
    }
    seen.insert(path.to_owned(), hash.finish());
    if meta.is_dir() {
        let listed = fs::read_dir(path).unwrap();
        for entry in listed {
            walk(&entry.unwrap().path(), seen);
        }
    }
}

impl Seen {
    /// Everything is as it was.
    pub fn assert_untouched(&self, more: &[&Path], after: &str) {
        let now = look(more);
        let names = self.0.keys().chain(now.0.keys());
        let changed: Vec<&PathBuf> = names
            .filter(|name| self.0.get(*name) != now.0.get(*name))
            .collect();
        assert!(changed.is_empty(), "{after}: {changed:?}");
    }
}
