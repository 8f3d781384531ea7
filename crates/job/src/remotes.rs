//! The jobs that a job has on other hosts, as its processes note them: the text of one file, a line for each event.
//!
//! Whoever runs in the job writes it, so any byte may stand there. A wrong line is skipped and counted.

use crate::JobId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// So many of one job are told to end.
pub const MOST_REMOTES: usize = 64;

/// A job on another host, and how it is reached there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteJob {
    /// Its id there.
    pub id: JobId,
    /// The host as it was given, for people.
    pub host: String,
    /// `user@host`, for ssh.
    pub target: String,
    /// Its port, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// ssh and its words (`--ssh`).
    pub ssh: Vec<String>,
    /// Where it was started: those words may name files from there.
    pub dir: String,
    /// The socket of the agent that had the keys; it may end with the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The jobcage that goes to the host if there is none (`--remote-binary`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// How long it lives there unheard of; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Duration>,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteNote {
    /// One is about to be made.
    Opened(RemoteJob),
    /// It is over there.
    Closed(JobId),
}

impl RemoteNote {
    /// As a line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Those that may be there still, in the order in which they were made, and how many lines were skipped.
#[must_use]
pub fn open_remotes(text: &[u8]) -> (Vec<RemoteJob>, usize) {
    let (mut open, mut skipped) = (Vec::<RemoteJob>::new(), 0);
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(RemoteNote::Opened(job)) if open.len() < MOST_REMOTES && is_plain(&job) => {
                open.retain(|known| known.id != job.id);
                open.push(job);
            }
            Ok(RemoteNote::Closed(id)) => open.retain(|known| known.id != id),
            Ok(RemoteNote::Opened(_)) | Err(_) => skipped += 1,
        }
    }
    (open, skipped)
}

/// Whether its words are such as `jobcage run --host` writes: none that ssh would take for an option in the place of a host, or that no process can be
/// given.
fn is_plain(job: &RemoteJob) -> bool {
    let texts = [&job.host, &job.target, &job.dir].into_iter().chain(&job.ssh);
    let options = [&job.agent, &job.binary].into_iter().flatten();
    texts.chain(options).all(|text| !text.contains('\0'))
        && !job.target.starts_with('-')
        && !job.ssh.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(number: u64) -> RemoteJob {
        RemoteJob {
            id: JobId::generate("there", number),
            host: "h".into(),
            target: "me@h".into(),
            port: (number % 2 == 1).then_some(22),
            ssh: vec!["ssh".into(), "-F".into(), "x".into()],
            dir: "/".into(),
            agent: None,
            binary: None,
            lease: Some(Duration::from_secs(number)),
        }
    }

    #[test]
    fn what_was_closed_is_not_open() {
        let notes = [
            RemoteNote::Opened(job(1)),
            RemoteNote::Opened(job(2)),
            RemoteNote::Closed(job(1).id),
            RemoteNote::Opened(job(2)),
            RemoteNote::Closed(job(3).id),
        ];
        let text: Vec<u8> = notes.iter().flat_map(RemoteNote::line).collect();
        assert_eq!(open_remotes(&text), (vec![job(2)], 0));
        let odd = RemoteJob {
            target: "-oProxyCommand=x".into(),
            ..job(4)
        };
        assert_eq!(open_remotes(&RemoteNote::Opened(odd).line()), (vec![], 1));
    }

    proptest! {
        /// A step that was killed leaves half a line; the rest counts.
        #[test]
        fn a_torn_line_takes_no_other_with_it(cut in 0..200_usize, before in 0..4_u64) {
            let mut text: Vec<u8> = (0..before).flat_map(|at| RemoteNote::Opened(job(at)).line()).collect();
            let last = RemoteNote::Opened(job(9)).line();
            text.extend(&last[..cut.min(last.len() - 2)]);
            text.push(b'\n');
            text.extend(RemoteNote::Opened(job(8)).line());
            let (open, _) = open_remotes(&text);
            prop_assert_eq!(open, (0..before).chain([8]).map(job).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_is_too_odd(text: Vec<u8>) {
            let _ = open_remotes(&text);
        }

        #[test]
        fn there_is_an_end_to_them(count in 0..200_u64) {
            let text: Vec<u8> = (0..count).flat_map(|at| RemoteNote::Opened(job(at)).line()).collect();
            let (open, skipped) = open_remotes(&text);
            prop_assert_eq!(open.len() + skipped, usize::try_from(count).unwrap());
            prop_assert!(open.len() <= MOST_REMOTES);
        }
    }
}
