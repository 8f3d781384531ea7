//! Names of jobs. An id becomes a directory name below the cgroup mount and below `/run`, so what it may hold
//! is narrow, and a name that a user gave only ever decorates it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The id of a job: `[a-z0-9][a-z0-9._-]{0,62}`, never `.`-only, unique on a host.
///
/// Ids that jobcage makes end in `-` and eight characters of Crockford base 32, which is how a cage is
/// recognised in a cgroup path (see [`JobId::is_generated`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

/// Why a text is no job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no job id: {why} (an id is 1 to {max} of a-z, 0-9, '.', '_', '-', and starts with a letter or digit)", max = JobId::MAX)]
pub struct IdError {
    given: String,
    why: &'static str,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const SUFFIX: usize = 8;

impl JobId {
    /// The longest id, in bytes.
    pub const MAX: usize = 63;

    /// Makes an id of a name, which is reduced to the allowed characters and shortened, and of random bits.
    #[must_use]
    pub fn generate(name: &str, random: u64) -> Self {
        let mut slug: String = name
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| {
                if c.is_ascii_lowercase() || c.is_ascii_digit() {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        slug.truncate(Self::MAX - SUFFIX - 1);
        let slug = slug.trim_matches('-');
        let slug = if slug.is_empty() { "job" } else { slug };
        let suffix: String = (0..SUFFIX)
            .map(|i| char::from(ALPHABET[(random >> (5 * i)) as usize % ALPHABET.len()]))
            .collect();
        Self(format!("{slug}-{suffix}"))
    }

    /// Whether the id has the shape that [`JobId::generate`] gives.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        match self.0.rsplit_once('-') {
            Some((slug, suffix)) => {
                !slug.is_empty() && suffix.len() == SUFFIX && suffix.bytes().all(|b| ALPHABET.contains(&b))
            }
            None => false,
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = IdError;

    fn from_str(given: &str) -> Result<Self, IdError> {
        let err = |why| {
            Err(IdError {
                given: given.chars().take(80).collect(),
                why,
            })
        };
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        match given.as_bytes() {
            [] => err("it is empty"),
            bytes if bytes.len() > Self::MAX => err("it is too long"),
            bytes if !bytes.iter().copied().all(allowed) => err("it has other characters"),
            [first, ..] if !first.is_ascii_alphanumeric() => err("it starts with a mark"),
            _ => Ok(Self(given.to_owned())),
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = IdError;

    fn try_from(given: String) -> Result<Self, IdError> {
        given.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_could_leave_a_directory() {
        for bad in [
            "",
            ".",
            "..",
            "../../x",
            "a/b",
            "-x",
            ".x",
            "A",
            "ä",
            "a\0",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_gives_a_legal_generated_id(name in ".*", random: u64) {
            let id = JobId::generate(&name, random);
            prop_assert_eq!(id.as_str().parse::<JobId>().unwrap(), id.clone());
            prop_assert!(id.is_generated());
        }

        #[test]
        fn what_parses_is_one_harmless_path_component(text in ".{0,80}") {
            if let Ok(id) = text.parse::<JobId>() {
                prop_assert!(!id.as_str().contains('/') && !id.as_str().starts_with('.'));
                prop_assert!(id.as_str().len() <= JobId::MAX);
            }
        }
    }
}
