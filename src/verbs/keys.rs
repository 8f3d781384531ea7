//! The keys of `--ssh-key`: read here, with the rights of whoever calls jobcage, and kept in memory alone.

use super::VerbError;
use jobcage_supervisor::agent::Key;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// No private key is longer.
const MOST: u64 = 64 * 1024;

/// Reads the keys of an agent; `None`: there is to be none.
///
/// # Errors
/// If one of them cannot be read, or cannot be a key.
pub fn read(files: Option<&[PathBuf]>) -> Result<Option<Vec<Key>>, VerbError> {
    let keys = files.map(|files| files.iter().map(|file| key(file)).collect());
    keys.transpose()
}

fn key(path: &Path) -> Result<Key, VerbError> {
    let (name, content) = if path == Path::new("-") {
        ("on standard input".to_owned(), whole(io::stdin().lock()))
    } else {
        (
            crate::render::harmless(&path.to_string_lossy()),
            File::open(path).and_then(whole),
        )
    };
    let content = content.map_err(|source| VerbError::Key {
        name: name.clone(),
        source,
    })?;
    Ok(Key::new(name, &content)?)
}

fn whole(from: impl Read) -> io::Result<Vec<u8>> {
    // All at once: what a growing buffer leaves behind would be pieces of a key in freed memory.
    let mut content = Vec::with_capacity(MOST as usize + 1);
    from.take(MOST + 1).read_to_end(&mut content)?;
    match content.len() as u64 {
        0 => Err(io::Error::other("there is nothing in it")),
        size if size > MOST => Err(io::Error::other("no private key is that long")),
        _ => Ok(content),
    }
}
