//! Docker: its daemon is root's, and a container is in no cgroup of the job's. What is the job's is told by labels alone, which were given when it
//! was made; no name, no time and no file that a job can write proves anything.

use crate::tools::{LISTING, Pass, REMOVING};
use crate::{Fate, Found, Kind, Result, Work, fate, listed};
use jobcage_job::{GuestMode, GuestPlace};
use std::os::unix::fs::FileTypeExt;

pub struct Docker;

const DOCKER: &str = "/usr/bin/docker";

/// The one of this host: the job's user may have chosen another one in his home.
const SOCKET: &str = "/var/run/docker.sock";
const HOST: &str = "--host=unix:///var/run/docker.sock";

impl Kind for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Shared]
    }

    fn tools(&self) -> &'static [&'static str] {
        &[DOCKER]
    }

    /// What `docker compose` starts has this label by itself then.
    fn variables(&self, place: &GuestPlace, _: GuestMode) -> Vec<(&'static str, String)> {
        let project = Some(place.job()).filter(|id| is_project(id));
        project
            .map(|id| ("COMPOSE_PROJECT_NAME", id.to_owned()))
            .into_iter()
            .collect()
    }

    /// The client is all that runs there.
    fn leaf(&self, _: GuestMode) -> GuestMode {
        GuestMode::Isolate
    }

    /// What a container uses can only go after it.
    fn lists(&self) -> &'static [&'static str] {
        &["container", "network", "volume"]
    }

    fn is_used(&self, _: &Work<'_>) -> bool {
        std::fs::metadata(SOCKET).is_ok_and(|meta| meta.file_type().is_socket())
    }

    fn registry(&self, _: &Work<'_>) -> String {
        SOCKET.into()
    }

    fn inventory(&self, what: &str, work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
        let ask: (&[&str], fn(&str) -> bool) = match what {
            "container" => (
                &[
                    "ps",
                    "--all",
                    "--no-trunc",
                    "--format",
                    "{{.ID}} {{.Names}} {{.Status}}",
                ],
                listed::is_id,
            ),
            "network" => (
                &["network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}"],
                listed::is_id,
            ),
            _ => (&["volume", "ls", "--format", "{{.Name}}"], listed::is_volume),
        };
        let mut text = String::new();
        for label in labels(work.spec.id.as_str()) {
            let filter = format!("label={label}");
            let words = [&[DOCKER, HOST], ask.0, &["--filter", &filter]].concat();
            text += &pass.call(&words, LISTING)?;
            text.push('\n');
        }
        Ok(listed::found(&text, ask.1))
    }

    fn destroy(&self, what: &str, found: &Found, _: &Work<'_>, pass: &Pass<'_>) -> Fate {
        let words: &[&str] = match what {
            "container" => &["rm", "--force", "--volumes", "--"],
            "network" => &["network", "rm", "--"],
            _ => &["volume", "rm", "--force", "--"],
        };
        let words = [&[DOCKER, HOST], words, &[&found.id]].concat();
        fate(pass.call(&words, REMOVING), &["No such ", "not found"])
    }
}

/// What compose takes for the name of a project. Ids that jobcage makes are all like that.
fn is_project(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && id
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// A label's value is compared as a whole.
fn labels(id: &str) -> Vec<String> {
    let project = is_project(id).then(|| format!("com.docker.compose.project={id}"));
    [format!("jobcage.job={id}")].into_iter().chain(project).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobcage_job::JobId;
    use proptest::prelude::*;

    #[test]
    fn a_project_is_what_compose_takes_for_one() {
        assert!(is_project("build-1234-abcdefgh") && is_project("0_x"));
        for id in ["", "a.b", "-a", "_a", "A", "a b"] {
            assert!(!is_project(id), "{id:?}");
        }
        assert_eq!(labels("a.b"), ["jobcage.job=a.b"]);
        assert_eq!(labels("ab"), ["jobcage.job=ab", "com.docker.compose.project=ab"]);
    }

    proptest! {
        #[test]
        fn every_id_that_is_made_is_a_project(name in ".{0,100}", random: u64) {
            let id = JobId::generate(&name, random);
            prop_assert!(is_project(id.as_str()), "{}", id);
        }
    }
}
