//! Docker: its daemon is root's, and a container is in no cgroup of the job's. What is the job's is told by labels, which were given when it
//! was made. Of Vagrant's, which have none, two witnesses have to agree: the id that Vagrant has noted for the job, and the name that the
//! container was given. No name alone and no file that a job can write proves anything.

use crate::tools::{LISTING, Pass, REMOVING};
use crate::vagrant_index::{self, DOCKER as PROVIDER};
use crate::{Fate, Found, GuestError, Kind, Result, Work, fate, listed};
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
        let mut found = labelled(what, work, pass)?;
        if what == "container" {
            for one in of_vagrant(work, pass)? {
                if !found.iter().any(|known| known.id == one.id) {
                    found.push(one);
                }
            }
        }
        Ok(found)
    }

    fn destroy(&self, what: &str, found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
        if what == "container" && only_noted(found, work) {
            match labelled(what, work, pass) {
                Ok(known) if known.iter().any(|known| known.id == found.id) => {}
                Ok(_) => return Fate::Spared(vagrant_index::ONLY_NOTED.into()),
                Err(why) => return fate(Err(why), GONE),
            }
        }
        let words: &[&str] = match what {
            "container" => &["rm", "--force", "--volumes", "--"],
            "network" => &["network", "rm", "--"],
            _ => &["volume", "rm", "--force", "--"],
        };
        let words = [&[DOCKER, HOST], words, &[&found.id]].concat();
        fate(pass.call(&words, REMOVING), GONE)
    }
}

/// What docker says of what is not there.
const GONE: &[&str] = &["No such ", "not found"];

/// What has one of the job's labels.
fn labelled(what: &str, work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
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

/// The containers whose ids Vagrant has noted for the job, as far as there are any.
fn of_vagrant(work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
    let mut text = String::new();
    for machine in vagrant_index::machines(work.place, PROVIDER) {
        let Some(id) = machine.id(PROVIDER, work.spec.uid, work.spec.created_ns) else {
            continue;
        };
        // "running" stands where a list says "Up".
        let format = "{{.Id}} {{.Name}} {{if .State.Running}}Up {{end}}{{.State.Status}}";
        match pass.call(
            &[
                DOCKER,
                HOST,
                "inspect",
                "--type",
                "container",
                "--format",
                format,
                "--",
                &id,
            ],
            LISTING,
        ) {
            Ok(told) => text += &told,
            Err(GuestError::Tool { said, .. }) if GONE.iter().any(|gone| said.contains(gone)) => {}
            Err(why) => return Err(why),
        }
    }
    let mut found = listed::found(&text, listed::is_id);
    for one in &mut found {
        one.name = one.name.trim_start_matches('/').to_owned();
    }
    Ok(found)
}

/// Whether Vagrant has noted it, and it has not the name that Vagrant gives to such a machine, with a time in it that is the job's.
fn only_noted(found: &Found, work: &Work<'_>) -> bool {
    let since = work.spec.created_ns;
    let noted = vagrant_index::machines(work.place, PROVIDER).into_iter();
    let noted = noted.filter(|machine| {
        let id = machine.id(PROVIDER, work.spec.uid, since);
        id.is_some_and(|id| id == found.id)
    });
    // In seconds.
    let is_named = |machine: vagrant_index::Machine| {
        let made = machine.made(&found.name);
        made.is_some_and(|made| made.saturating_add(1) >= since / 1_000_000_000)
    };
    let named: Vec<bool> = noted.map(is_named).collect();
    !named.is_empty() && !named.contains(&true)
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
