//! What the host says of one job of GitLab, and what the job says for itself within that.

use super::error::Error;
use super::meaning::{self, Door, GRACE};
use super::pick;
use super::request::{AfterScript, GitlabHost, GitlabJob, GitlabSettings, Leftovers, Quarantine};
use super::values::{parse_bool, parse_clock, parse_count, parse_room};
use super::words::RunWords;
use crate::config::Layers;
use crate::config::file::Whose;
use crate::config::options::{OF_A_JOB, Opt, TABLE};
use jobcage_job::{CpuMax, parse_duration, parse_size};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// What stands before the name of every variable of the job. A job can set each of them, so none is believed.
pub const OF_THE_JOB: &[u8] = b"CUSTOM_ENV_";

/// What stands before the name of an option in a variable of the job.
const ASKED: &[u8] = b"CUSTOM_ENV_JOBCAGE_";

/// What a job asks for.
type Asked = Vec<(Opt, String)>;

/// Why there are no settings.
#[derive(Debug)]
pub enum Refused {
    /// The host's variables or files are wrong.
    Host(Error),
    /// The job's variables are, or ask for too much.
    Job(Error),
}

impl GitlabHost {
    /// The settings of a job.
    ///
    /// # Errors
    /// If the host's are wrong, or the job's are wrong or go beyond what the host allows.
    pub fn settings(&self, job: &GitlabJob) -> Result<GitlabSettings, Refused> {
        let host = self.layers.of_some(|whose| job.is(whose));
        let most = self.layers.most();
        let (asked, notes) = self.asked().map_err(Refused::Job)?;
        for (opt, text) in &asked {
            within(&host, &most, *opt, text)?;
        }
        let asked = asked.into_iter().map(|(opt, text)| (opt, text.into()));
        let layers = host.with_variables(asked.collect());
        self.read(&layers, notes).map_err(Refused::Host)
    }

    fn read(&self, layers: &Layers, notes: Vec<String>) -> Result<GitlabSettings, Error> {
        let door = Door {
            layers,
            environ: &self.environ,
            euid: self.euid,
        };
        let mut run = door.run(RunWords::default())?;
        // What the job has set for itself comes to it by its script.
        meaning::inherit(&mut run, self.environ.without(OF_THE_JOB));
        let switch = |opt| pick::value(layers, opt, None, parse_bool);
        Ok(GitlabSettings {
            run,
            after_script: pick::value(layers, Opt::AfterScript, None, parse_after_script)?
                .unwrap_or_default(),
            after_timeout: door.after_budget()?,
            after_failed_sources: switch(Opt::AfterFailedSources)?.unwrap_or(false),
            leftovers: pick::value(layers, Opt::Leftovers, None, parse_leftovers)?.unwrap_or_default(),
            quarantine: pick::value(layers, Opt::Quarantine, None, parse_quarantine)?.unwrap_or_default(),
            quarantine_max: pick::value(layers, Opt::QuarantineMax, None, parse_number)?.unwrap_or(0),
            notes,
        })
    }

    /// What the job asks for by its variables, and notes for those that are not a job's to set.
    fn asked(&self) -> Result<(Asked, Vec<String>), Error> {
        let (mut asked, mut notes) = (Asked::new(), Vec::new());
        for (name, value) in self.environ.all() {
            let Some(name) = name.as_bytes().strip_prefix(ASKED) else {
                continue;
            };
            let name = format!("JOBCAGE_{}", OsStr::from_bytes(name).to_string_lossy());
            let known = TABLE.iter().find(|info| info.variable == Some(&name));
            match known.filter(|info| OF_A_JOB.contains(&info.opt)) {
                None => notes.push(format!(
                    "{} is nothing that a job may set; it is ignored",
                    shown(&name)
                )),
                // As everywhere, an empty variable is none.
                Some(_) if value.is_empty() => {}
                Some(info) => match value.to_str() {
                    Some(text) => asked.push((info.opt, text.to_owned())),
                    None => return Err(Error::value(name, "it is no text")),
                },
            }
        }
        Ok((asked, notes))
    }
}

impl GitlabJob {
    /// Whether what is said of these is said of it.
    fn is(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Most => false,
            Whose::Project(name) => self.projects.contains(name),
            Whose::Tag(name) => self.tags.contains(name),
        }
    }
}

/// Whether a job may ask for this: no more than `[gitlab.max]` says, and where that says nothing, than the host gives by itself.
fn within(host: &Layers, most: &Layers, opt: Opt, text: &str) -> Result<(), Refused> {
    let name = opt.info().variable.unwrap_or_default();
    let refused = |why: String| Refused::Job(Error::value(name, why));
    let asked = measure(opt, text).map_err(refused)?;
    let strongest = |layers: &Layers| -> Result<Option<(String, Option<u128>)>, Refused> {
        let Some(layer) = layers.values(opt).next() else {
            return Ok(None);
        };
        let Some((origin, text)) = layer.first() else {
            return Ok(None);
        };
        let wrong = |why: String| Refused::Host(Error::value(origin.to_string(), why));
        let text = text.to_str().ok_or_else(|| wrong("it is no text".into()))?;
        Ok(Some((shown(text), measure(opt, text).map_err(wrong)?)))
    };
    let bound = match strongest(most)? {
        // Without a word about it, a job may have an agent of its own: it costs nobody else anything.
        None if opt == Opt::SshAgent => None,
        None => strongest(host)?.or_else(|| usual(opt)),
        bound => bound,
    };
    match (asked, bound) {
        (Some(asked), Some((_, Some(bound)))) if asked <= bound => Ok(()),
        (_, None | Some((_, None))) => Ok(()),
        (_, Some((bound, _))) => Err(refused(format!(
            "{} goes beyond what this host allows the job ({bound})",
            shown(text)
        ))),
    }
}

/// What holds where nobody has said anything; `None`: no bound.
fn usual(opt: Opt) -> Option<(String, Option<u128>)> {
    match opt {
        Opt::Grace => Some((format!("{} s", GRACE.as_secs()), Some(GRACE.as_nanos()))),
        _ => None,
    }
}

/// A value as a number that is the greater the more it asks for; `None`: without a bound.
fn measure(opt: Opt, text: &str) -> Result<Option<u128>, String> {
    let number = |n: u64| Some(u128::from(n));
    let limit = text == "none";
    Ok(match opt {
        Opt::Cpu
        | Opt::Memory
        | Opt::MemoryHigh
        | Opt::Swap
        | Opt::Pids
        | Opt::Timeout
        | Opt::IdleTimeout
            if limit =>
        {
            None
        }
        Opt::Cpu => {
            let cpu: CpuMax = said(text.parse())?;
            Some(u128::from(cpu.quota) * 1_000_000 / u128::from(cpu.period.max(1)))
        }
        Opt::Memory | Opt::MemoryHigh => number(said(parse_room(text))?),
        Opt::Swap => number(said(parse_size(text))?),
        Opt::Pids => number(said(parse_count(text))?),
        Opt::Timeout | Opt::IdleTimeout => Some(said(parse_clock(text))?.as_nanos()),
        Opt::Grace => Some(said(parse_duration(text))?.as_nanos()),
        Opt::SshAgent => number(said(parse_bool(text))?.into()),
        Opt::AfterScript => number(parse_after_script(text)? as u64),
        Opt::Leftovers => number(parse_leftovers(text)? as u64),
        _ => return Err("it is nothing that a job may set".into()),
    })
}

fn said<T, E: std::fmt::Display>(value: Result<T, E>) -> Result<T, String> {
    value.map_err(|error| error.to_string())
}

/// Somebody else's text, for a person.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

fn parse_after_script(text: &str) -> Result<AfterScript, String> {
    match text {
        "never" => Ok(AfterScript::Never),
        "runner" => Ok(AfterScript::Runner),
        "always" => Ok(AfterScript::Always),
        _ => Err(format!("{} is none of never, runner and always", shown(text))),
    }
}

fn parse_leftovers(text: &str) -> Result<Leftovers, String> {
    match text {
        "stage" => Ok(Leftovers::Stage),
        "job" => Ok(Leftovers::Job),
        _ => Err(format!("{} is neither stage nor job", shown(text))),
    }
}

fn parse_quarantine(text: &str) -> Result<Quarantine, String> {
    match text {
        "warn" => Ok(Quarantine::Warn),
        "refuse" => Ok(Quarantine::Refuse),
        _ => Err(format!("{} is neither warn nor refuse", shown(text))),
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    let wrong = |_| format!("{} is no whole number from 0 on", shown(text));
    text.trim().parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsString;

    const HOST: &str = "
[run]
memory = '4G'
[gitlab]
leftovers = 'job'
[gitlab.max]
memory = '8G'
timeout = '2h'
[gitlab.tag.big]
memory = '16G'
[gitlab.project.'group/name']
memory = '2G'
cpu = 2
";

    fn settings(file: &str, job: &GitlabJob, asked: &[(&str, &str)]) -> Result<GitlabSettings, String> {
        let named: Vec<(OsString, OsString)> = asked
            .iter()
            .map(|(name, value)| (format!("CUSTOM_ENV_{name}").into(), (*value).into()))
            .collect();
        let host = GitlabHost {
            layers: Layers::for_test(&[], &[file]).map_err(|e| e.to_string())?,
            environ: named.into_iter().collect(),
            euid: 0,
        };
        host.settings(job).map_err(|refused| match refused {
            Refused::Host(error) => format!("host: {error}"),
            Refused::Job(error) => format!("job: {error}"),
        })
    }

    fn memory(settings: &GitlabSettings) -> Option<u64> {
        match &settings.run.cage {
            super::super::request::CageChoice::New { cage, .. } => cage.limits.memory,
            super::super::request::CageChoice::Existing(_) => unreachable!(),
        }
    }

    fn job(projects: &[&str], tags: &[&str]) -> GitlabJob {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        GitlabJob {
            projects: list(projects),
            tags: list(tags),
        }
    }

    #[test]
    fn a_project_is_stronger_than_a_tag_and_a_tag_than_the_host() {
        for (projects, tags, gib) in [
            (&[][..], &[][..], 4),
            (&["other"], &["small"], 4),
            (&[], &["big"], 16),
            (&["group/name"], &["big"], 2),
        ] {
            let settings = settings(HOST, &job(projects, tags), &[]).unwrap();
            assert_eq!(memory(&settings), Some(gib << 30), "{projects:?} {tags:?}");
        }
    }

    #[test]
    fn a_job_has_what_it_asks_for_up_to_the_most() {
        let here = job(&[], &[]);
        for (asked, gib) in [("1G", 1), ("8G", 8)] {
            let settings = settings(HOST, &here, &[("JOBCAGE_MEMORY", asked)]).unwrap();
            assert_eq!(memory(&settings), Some(gib << 30));
        }
        for asked in ["9G", "none", "8193M"] {
            let told = settings(HOST, &here, &[("JOBCAGE_MEMORY", asked)]).unwrap_err();
            let expected =
                format!("job: JOBCAGE_MEMORY: {asked:?} goes beyond what this host allows the job (\"8G\")");
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn without_a_most_the_hosts_own_value_is_the_bound() {
        let here = job(&["group/name"], &[]);
        assert!(settings(HOST, &here, &[("JOBCAGE_CPU", "1.5")]).is_ok());
        let told = settings(HOST, &here, &[("JOBCAGE_CPU", "2.5")]).unwrap_err();
        assert!(
            told.contains("beyond what this host allows the job (\"2\")"),
            "{told}"
        );
        // Where the host says nothing there is none.
        assert!(settings(HOST, &here, &[("JOBCAGE_PIDS", "100")]).is_ok());
        assert!(settings("", &here, &[("JOBCAGE_GRACE", "5s")]).is_ok());
        assert!(settings("", &here, &[("JOBCAGE_GRACE", "11s")]).is_err());
    }

    #[test]
    fn switches_go_the_narrow_way_only() {
        let here = job(&[], &[]);
        let host = "[gitlab]\nafter_script = 'runner'\nleftovers = 'stage'\n";
        for (name, value, ok) in [
            ("JOBCAGE_AFTER_SCRIPT", "never", true),
            ("JOBCAGE_AFTER_SCRIPT", "runner", true),
            ("JOBCAGE_AFTER_SCRIPT", "always", false),
            ("JOBCAGE_LEFTOVERS", "stage", true),
            ("JOBCAGE_LEFTOVERS", "job", false),
            ("JOBCAGE_SSH_AGENT", "true", true),
        ] {
            assert_eq!(
                settings(host, &here, &[(name, value)]).is_ok(),
                ok,
                "{name}={value}"
            );
        }
        let no_agents = "[gitlab.max]\nssh_agent = false\n";
        assert!(settings(no_agents, &here, &[("JOBCAGE_SSH_AGENT", "true")]).is_err());
        assert!(settings(no_agents, &here, &[("JOBCAGE_SSH_AGENT", "false")]).is_ok());
    }

    #[test]
    fn what_is_not_a_jobs_to_set_is_ignored_and_told() {
        let asked = [
            ("JOBCAGE_USER", "root"),
            ("JOBCAGE_CGROUP_ROOT", "/x"),
            ("JOBCAGE_GUEST_HOOK", "/bin/sh"),
            ("JOBCAGE_\u{1b}[2J", "x"),
        ];
        let settings = settings("", &job(&[], &[]), &asked).unwrap();
        assert_eq!(settings.run.step.identity.user, None);
        assert_eq!(settings.notes.len(), 4, "{:?}", settings.notes);
        let crate::cli::request::CageChoice::New { cage, .. } = settings.run.cage else {
            panic!("it has a cage of its own")
        };
        assert_eq!(cage.guest_hook, [""; 0]);
        assert!(
            settings.notes.iter().all(|note| !note.contains('\u{1b}')),
            "{:?}",
            settings.notes
        );
    }

    #[test]
    fn a_wrong_word_of_the_host_is_the_hosts_fault() {
        let told = settings(
            "[gitlab.max]\nmemory = 'much'\n",
            &job(&[], &[]),
            &[("JOBCAGE_MEMORY", "1G")],
        );
        let told = told.unwrap_err();
        assert!(told.starts_with("host: file0.toml, line 2: memory: "), "{told}");
        let told = settings("[gitlab]\nleftovers = 'x'\n", &job(&[], &[]), &[]).unwrap_err();
        assert!(
            told.starts_with("host: file0.toml, line 2: leftovers: "),
            "{told}"
        );
    }

    proptest! {
        #[test]
        fn hostile_values_are_one_harmless_line(value in "\\PC{0,200}|[\u{0}-\u{1f}]{1,20}", which in 0..OF_A_JOB.len()) {
            let name = OF_A_JOB[which].info().variable.unwrap();
            if let Err(told) = settings("", &job(&[], &[]), &[(name, &value)]) {
                prop_assert!(told.starts_with("job: "), "{}", told);
                prop_assert!(!told.chars().any(char::is_control), "{:?}", told);
                prop_assert!(told.chars().count() < 1000, "{}", told);
            }
        }

        #[test]
        fn no_job_gets_more_than_the_bound(asked in 1_u64..1 << 40, most in 1_u64..1 << 40) {
            let file = format!("[gitlab.max]\nmemory = {most}\n");
            let settings = settings(&file, &job(&[], &[]), &[("JOBCAGE_MEMORY", &asked.to_string())]);
            prop_assert_eq!(settings.is_ok(), asked <= most);
            if let Ok(settings) = settings {
                prop_assert_eq!(memory(&settings), Some(asked));
            }
        }
    }
}
