//! From what was typed to what is meant.

use jobcage_job::{
    CaptureSpec, CpuMax, IoLimit, JobId, Limits, LogFull, Streams, parse_duration, parse_size,
};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;
use super::pick;
use super::request::{
    AfterRebootRequest, AfterRequest, CageChoice, CageRequest, CaptureRequest, CleanupRequest, Common,
    CreateRequest, DoctorRequest, EnvRequest, GuestsRequest, Identity, ListRequest, Places, Request,
    RunRequest, Secret, ShowRequest, Stdin, StepRequest, Voice,
};
use super::values::{
    Rlimit, Signal, parse_account, parse_bool, parse_clock, parse_count, parse_cpus, parse_guests,
    parse_hook_word, parse_log_full, parse_log_max, parse_name, parse_nice, parse_pid, parse_room,
    parse_spare, parse_streams,
};
use super::words::{
    CageWords, CaptureWords, CleanupWords, CommonWords, CreateWords, GuestsWords, IdentityWords, PlainWords,
    RunWords, ShowWords, StepWords, VerbWords,
};
use crate::config::environ::Environ;
use crate::config::options::{Opt, SET_BY_JOBCAGE};
use crate::config::{Layers, Origin};

/// `--grace`, unless it is given.
pub const GRACE: Duration = Duration::from_secs(10);
/// `--spare`, unless it is given.
pub const SPARE: &str = "ssh-agent,gpg-agent";
/// The most keys of one agent: each is a descriptor on its way.
const MOST_KEYS: usize = 32;
/// `--log-max`, unless it is given.
pub const LOG_MAX: u64 = 1 << 30;
/// `--after-timeout`, unless it is given.
pub const AFTER_TIMEOUT: Duration = Duration::from_secs(300);
/// `gc --keep`, unless it is given.
pub const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// `gc --keep-size`, unless it is given.
pub const KEEP_SIZE: u64 = 5 << 30;

/// The door that words go through. It looks up nothing: no user, no directory, no cgroup.
pub struct Door<'a> {
    /// Below the command line.
    pub layers: &'a Layers,
    /// The variables, for `--env NAME` and the usual directories.
    pub environ: &'a Environ,
    /// The caller's effective uid: root's records are the host's.
    pub euid: u32,
}

impl Door<'_> {
    /// The request of a verb's words, and how loud it is.
    ///
    /// # Errors
    /// If a value of any layer is wrong.
    pub fn request(&self, words: VerbWords) -> Result<(Request, Voice), Error> {
        let plain = |w: PlainWords| Ok::<_, Error>((self.common(w.common)?, w.json));
        let (request, voice) = match words {
            VerbWords::Run(w) => {
                let run = self.run(*w)?;
                let voice = run.common.voice;
                (Request::Run(Box::new(run)), voice)
            }
            VerbWords::Create(w) => {
                let create = self.create(*w)?;
                let voice = create.common.voice;
                (Request::Create(Box::new(create)), voice)
            }
            VerbWords::Cleanup(w) => self.cleanup(w)?,
            VerbWords::Gitlab(w) => {
                let gitlab = self.gitlab(w)?;
                let voice = gitlab.common.voice;
                (Request::Gitlab(Box::new(gitlab)), voice)
            }
            VerbWords::List(w) => {
                let (common, json) = plain(w.plain)?;
                let voice = common.voice;
                (Request::List(ListRequest { common, json }), voice)
            }
            VerbWords::Show(w) => self.show(w)?,
            VerbWords::Guests(w) => self.guests(w)?,
            VerbWords::Stop(w) => self.stop(w)?,
            VerbWords::Wait(w) => self.wait(w)?,
            VerbWords::Exec(w) => self.exec(w)?,
            VerbWords::Logs(w) => self.logs(w)?,
            VerbWords::Attach(w) => self.attach(w)?,
            VerbWords::Gc(w) => {
                let gc = self.gc(w)?;
                let voice = gc.common.voice;
                (Request::Gc(gc), voice)
            }
            VerbWords::Doctor(w) => {
                // A wrong value that would stop every job is a doctor's business.
                self.run(RunWords::default())?;
                self.keep(None, None)?;
                self.runners()?;
                let (common, json) = plain(w)?;
                let voice = common.voice;
                (Request::Doctor(DoctorRequest { common, json }), voice)
            }
            VerbWords::Env(_) | VerbWords::Man(_) | VerbWords::Completions(_) => {
                unreachable!("answered before the layers are read")
            }
        };
        Ok((request, voice))
    }

    pub(super) fn run(&self, w: RunWords) -> Result<RunRequest, Error> {
        let layers = self.layers;
        let idle_timeout = pick::limit(layers, Opt::IdleTimeout, w.idle_timeout, parse_clock)?;
        // A step in a cage of `jobcage create` has no log of its own.
        let shown = idle_timeout.is_some() && w.job.is_none();
        let capture = self.capture(w.capture, shown)?;
        let reboot = after_reboot(w.after_reboot, w.after_env_file, capture.is_some())?;
        let cage = match w.job {
            Some(id) => CageChoice::Existing(job_id("--job", &id)?),
            None => CageChoice::New {
                cage: self.cage(w.cage)?.into(),
                after: self.after(w.after, w.after_timeout, reboot)?,
            },
        };
        Ok(RunRequest {
            common: self.common(w.common)?,
            cage,
            step: self.step(w.command, w.identity, w.step)?,
            timeout: pick::limit(layers, Opt::Timeout, w.timeout, parse_clock)?,
            idle_timeout,
            signal: pick::value(layers, Opt::Signal, w.signal, str::parse)?.unwrap_or(Signal::TERM),
            grace: self.grace(w.grace)?,
            spare: self.spare(w.spare)?,
            report: pick::path(layers, Opt::Report, w.report)?,
            capture,
        })
    }

    /// `shown`: its output has to be captured, whatever the words say.
    fn capture(&self, w: CaptureWords, shown: bool) -> Result<Option<CaptureRequest>, Error> {
        let (detach, log) = (flag("--detach", w.detach)?, flag("--log", w.log)?);
        let streams = pick::value(self.layers, Opt::Streams, w.streams, parse_streams)?;
        let spec = CaptureSpec {
            streams: streams.unwrap_or(if detach { Streams::Merged } else { Streams::Split }),
            log_max: pick::value(self.layers, Opt::LogMax, w.log_max, parse_log_max)?
                .unwrap_or(Some(LOG_MAX)),
            log_full: pick::value(self.layers, Opt::LogFull, w.log_full, parse_log_full)?
                .unwrap_or(LogFull::Middle),
            sync: self.switch(Opt::LogSync, w.log_sync)?,
        };
        if w.stdin.is_some() && !(detach || log) {
            return Err(Error::value(
                "--stdin",
                "a command in the foreground has the standard input of jobcage itself; write < FILE, or give --detach or \
                 --log",
            ));
        }
        let stdin = match w.stdin {
            Some(file) => Stdin::File(file.into()),
            None if detach || log => Stdin::Empty,
            None => Stdin::Own,
        };
        Ok((detach || log || shown).then_some(CaptureRequest {
            attached: !detach,
            spec,
            stdin,
        }))
    }

    fn create(&self, w: CreateWords) -> Result<CreateRequest, Error> {
        Ok(CreateRequest {
            common: self.common(w.common)?,
            cage: self.cage(w.cage)?,
            identity: self.identity(w.identity)?,
            grace: self.grace(w.grace)?,
            lease_pid: pick::value(self.layers, Opt::LeasePid, w.lease_pid, parse_pid)?,
            lease: pick::only("--lease", w.lease, pick::text(super::remote::parse_time))?
                .filter(|lease| !lease.is_zero()),
            id: w.id.map(|id| job_id("--id", &id)).transpose()?,
        })
    }

    fn cleanup(&self, w: CleanupWords) -> Result<(Request, Voice), Error> {
        let cleanup = CleanupRequest {
            common: self.common(w.common)?,
            id: job_id("ID", &w.id)?,
            report: pick::path(self.layers, Opt::Report, w.report)?,
        };
        let voice = cleanup.common.voice;
        Ok((Request::Cleanup(cleanup), voice))
    }

    fn guests(&self, w: GuestsWords) -> Result<(Request, Voice), Error> {
        let common = self.common(w.plain.common)?;
        let id = w.id.map(|id| job_id("ID", &id)).transpose()?;
        let (json, voice) = (w.plain.json, common.voice);
        Ok((Request::Guests(GuestsRequest { common, id, json }), voice))
    }

    fn show(&self, w: ShowWords) -> Result<(Request, Voice), Error> {
        let common = self.common(w.plain.common)?;
        let (id, json, voice) = (job_id("ID", &w.id)?, w.plain.json, common.voice);
        Ok((Request::Show(ShowRequest { common, id, json }), voice))
    }

    pub(super) fn common(&self, w: CommonWords) -> Result<Common, Error> {
        let layers = self.layers;
        let runtime = pick::directory(layers, Opt::RuntimeDir, None)?;
        let state = pick::directory(layers, Opt::StateDir, None)?;
        Ok(Common {
            voice: self.voice(w.quiet, w.verbose)?,
            places: Places {
                cgroup_root: pick::directory(layers, Opt::CgroupRoot, w.cgroup_root)?,
                runtime_dir: runtime.unwrap_or_else(|| self.default_runtime_dir()),
                state_dir: state.unwrap_or_else(|| self.default_state_dir()),
            },
        })
    }

    /// Of quiet and verbose the one in the stronger layer holds; both in one layer cannot be meant.
    fn voice(&self, quiet: Option<OsString>, verbose: Option<OsString>) -> Result<Voice, Error> {
        let on = |opt, word| {
            let ranked = pick::ranked(self.layers, opt, word, pick::text(parse_bool))?;
            Ok::<_, Error>(ranked.filter(|r| r.value).map(|r| r.rank))
        };
        match (on(Opt::Quiet, quiet)?, on(Opt::Verbose, verbose)?) {
            (None, None) => Ok(Voice::Normal),
            (Some(q), Some(v)) if q == v => Err(Error::value(
                "quiet and verbose",
                "both are set in the same place; take one of them away",
            )),
            (Some(_), None) => Ok(Voice::Quiet),
            (None, Some(_)) => Ok(Voice::Verbose),
            (Some(q), Some(v)) => Ok(if q < v { Voice::Quiet } else { Voice::Verbose }),
        }
    }

    fn default_runtime_dir(&self) -> PathBuf {
        if self.euid == 0 {
            return PathBuf::from("/run/jobcage");
        }
        let base = self.environ.directory("XDG_RUNTIME_DIR");
        base.unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", self.euid)))
            .join("jobcage")
    }

    fn default_state_dir(&self) -> PathBuf {
        if self.euid == 0 {
            return PathBuf::from("/var/lib/jobcage");
        }
        let home = || {
            self.environ
                .directory("HOME")
                .map(|home| home.join(".local/state"))
        };
        let base = self.environ.directory("XDG_STATE_HOME").or_else(home);
        // Without a home nothing of a user survives a reboot.
        base.map_or_else(
            || self.default_runtime_dir().join("state"),
            |base| base.join("jobcage"),
        )
    }

    fn cage(&self, w: CageWords) -> Result<CageRequest, Error> {
        let layers = self.layers;
        Ok(CageRequest {
            name: pick::value(layers, Opt::Name, w.name, parse_name)?,
            limits: Limits {
                cpu: pick::limit(layers, Opt::Cpu, w.cpu, str::parse::<CpuMax>)?,
                memory: pick::limit(layers, Opt::Memory, w.memory, parse_room)?,
                memory_high: pick::limit(layers, Opt::MemoryHigh, w.memory_high, parse_room)?,
                swap: pick::limit(layers, Opt::Swap, w.swap, parse_size)?,
                pids: pick::limit(layers, Opt::Pids, w.pids, parse_count)?,
                io: self.io(&w.io)?,
                cpus: pick::limit(layers, Opt::Cpus, w.cpus, parse_cpus)?,
            },
            best_effort: self.switch(Opt::BestEffort, w.best_effort)?,
            ssh_agent: self.ssh_agent(w.ssh_agent, &w.ssh_key)?,
            guests: pick::value(layers, Opt::Guests, w.guests, parse_guests)?,
            guests_dir: pick::directory(layers, Opt::GuestsDir, w.guests_dir)?,
            project: pick::directory(layers, Opt::Project, w.project)?,
            guest_timeout: pick::value(layers, Opt::GuestTimeout, w.guest_timeout, parse_clock)?,
            guest_hook: self.guest_hook(&w.guest_hook)?,
        })
    }

    /// A key asks for an agent, unless somebody says that there is to be none.
    fn ssh_agent(&self, on: Option<OsString>, keys: &[OsString]) -> Result<Option<Vec<PathBuf>>, Error> {
        let on = pick::value(self.layers, Opt::SshAgent, on, parse_bool)?;
        let parse = |given: &OsStr, _: Origin<'_>| {
            if given.is_empty() || given.as_bytes().contains(&0) {
                return Err("the path is empty or holds a NUL");
            }
            Ok(PathBuf::from(given))
        };
        let mut keys = pick::list(self.layers, Opt::SshKey, keys, parse)?;
        // The same file in two layers.
        let mut known = std::collections::HashSet::new();
        keys.retain(|key| known.insert(key.clone()));
        if keys.len() > MOST_KEYS {
            let why = format!(
                "an agent gets at most {MOST_KEYS} keys, and these are {}",
                keys.len()
            );
            return Err(Error::value("--ssh-key", why));
        }
        Ok(on.unwrap_or(!keys.is_empty()).then_some(keys))
    }

    /// A command of one place: words of two would be no command.
    fn guest_hook(&self, words: &[OsString]) -> Result<Vec<String>, Error> {
        let hook = pick::strongest_list(self.layers, Opt::GuestHook, words, pick::text(parse_hook_word))?;
        match hook.first().map(String::as_str) {
            Some("none") if hook.len() == 1 => Ok(Vec::new()),
            Some(program) if !program.starts_with('/') => {
                let why = format!(
                    "{program:?} is no absolute path: the first word is the program, so begin it with /"
                );
                Err(Error::value("--guest-hook", why))
            }
            _ => Ok(hook),
        }
    }

    fn spare(&self, word: Option<OsString>) -> Result<Vec<String>, Error> {
        let names = pick::value(self.layers, Opt::Spare, word, parse_spare)?;
        Ok(names.unwrap_or_else(|| SPARE.split(',').map(str::to_owned).collect()))
    }

    /// One limit for each device: rates of the same device come together, and a stronger rate replaces a weaker.
    fn io(&self, words: &[OsString]) -> Result<Vec<IoLimit>, Error> {
        let parse = pick::text(str::parse::<IoLimit>);
        let mut devices: Vec<IoLimit> = Vec::new();
        for given in pick::list(self.layers, Opt::Io, words, |text, _| parse(text))? {
            let Some(device) = devices.iter_mut().find(|d| d.device == given.device) else {
                devices.push(given);
                continue;
            };
            for (rate, value) in given.rates {
                device.rates.retain(|(known, _)| *known != rate);
                device.rates.push((rate, value));
            }
        }
        Ok(devices)
    }

    fn after(
        &self,
        script: Option<OsString>,
        timeout: Option<OsString>,
        reboot: Option<Reboot>,
    ) -> Result<Option<AfterRequest>, Error> {
        let given = |text: &OsStr| {
            if text.as_bytes().contains(&0) {
                Err("the script holds a NUL")
            } else {
                Ok(text.to_owned())
            }
        };
        let script = pick::ranked(self.layers, Opt::After, script, given)?.map(|ranked| ranked.value);
        let timeout = pick::value(self.layers, Opt::AfterTimeout, timeout, parse_clock)?;
        // An empty script takes back the one of a config file.
        let script = script.filter(|script| !script.is_empty());
        let reboot = match (reboot, &script) {
            (None, _) => None,
            (Some(reboot), Some(script)) => Some(Box::new(reboot.of(script)?)),
            (Some(_), None) => return Err(Error::value("--after-reboot", "there is no --after to run then")),
        };
        Ok(script.map(|script| AfterRequest {
            script: Secret::from(script),
            timeout: timeout.unwrap_or(AFTER_TIMEOUT),
            reboot,
        }))
    }

    fn grace(&self, word: Option<OsString>) -> Result<Duration, Error> {
        Ok(pick::value(self.layers, Opt::Grace, word, parse_duration)?.unwrap_or(GRACE))
    }

    fn switch(&self, opt: Opt, word: Option<OsString>) -> Result<bool, Error> {
        Ok(pick::value(self.layers, opt, word, parse_bool)?.unwrap_or(false))
    }

    fn identity(&self, w: IdentityWords) -> Result<Identity, Error> {
        Ok(Identity {
            user: pick::value(self.layers, Opt::User, w.user, parse_account)?,
            group: pick::value(self.layers, Opt::Group, w.group, parse_account)?,
        })
    }

    fn step(&self, command: Vec<OsString>, who: IdentityWords, w: StepWords) -> Result<StepRequest, Error> {
        let layers = self.layers;
        Ok(StepRequest {
            command,
            identity: self.identity(who)?,
            dir: pick::path(layers, Opt::Dir, w.dir)?,
            env: self.env(w.clear_env, w.login, &w.env)?,
            guard: self.switch(Opt::Guard, w.guard)?,
            nice: pick::limit(layers, Opt::Nice, w.nice, parse_nice)?,
            rlimits: self.rlimits(&w.rlimit)?,
        })
    }

    fn rlimits(&self, words: &[OsString]) -> Result<Vec<Rlimit>, Error> {
        let parse = pick::text(str::parse::<Rlimit>);
        let mut rlimits: Vec<Rlimit> = Vec::new();
        for given in pick::list(self.layers, Opt::Rlimit, words, |text, _| parse(text))? {
            rlimits.retain(|known| known.resource != given.resource);
            rlimits.push(given);
        }
        Ok(rlimits)
    }

    /// Without `inherited`, which [`inherit`] adds when nothing else needs the variables any more.
    fn env(
        &self,
        clear: Option<OsString>,
        login: Option<OsString>,
        words: &[OsString],
    ) -> Result<EnvRequest, Error> {
        let mut set: Vec<(OsString, Secret)> = Vec::new();
        let parse = |text: &OsStr, origin: Origin<'_>| self.variable(text, origin);
        for (name, value) in pick::list(self.layers, Opt::Env, words, parse)?
            .into_iter()
            .flatten()
        {
            set.retain(|(known, _)| *known != name);
            set.push((name, value));
        }
        Ok(EnvRequest {
            inherit: !self.switch(Opt::ClearEnv, clear)?,
            inherited: Vec::new(),
            login: self.switch(Opt::Login, login)?,
            set,
        })
    }

    /// `NAME=VALUE`, or `NAME`, whose value is then jobcage's own. A value is never shown, and a name only when
    /// it is one.
    pub(super) fn variable(
        &self,
        given: &OsStr,
        origin: Origin<'_>,
    ) -> Result<Option<(OsString, Secret)>, String> {
        let bytes = given.as_bytes();
        let (name, value) = match bytes.iter().position(|b| *b == b'=') {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        let odd = |b: &u8| b.is_ascii_control() || b.is_ascii_whitespace();
        if name.is_empty() || name.iter().any(odd) {
            return Err("this is no variable: write NAME=VALUE or NAME, the name without blanks".into());
        }
        let name = OsStr::from_bytes(name);
        if SET_BY_JOBCAGE.iter().any(|own| name == *own) {
            return Err(format!(
                "{} is set by jobcage itself; choose another name",
                name.display()
            ));
        }
        let value = match value {
            Some(value) if value.contains(&0) => {
                return Err(format!("{}: the value holds a NUL", name.display()));
            }
            Some(value) => Some(OsStr::from_bytes(value)),
            None => self.environ.get(name),
        };
        match value {
            Some(value) => Ok(Some((name.to_owned(), Secret::from(value.to_owned())))),
            // A file is for all jobs: it says what to pass on where it is there. A flag is about this very job.
            None if matches!(origin, Origin::File { .. }) => Ok(None),
            None => Err(format!(
                "{name} is not set in jobcage's own environment; write {name}=VALUE, or leave it out",
                name = name.display()
            )),
        }
    }
}

/// A switch that stands on the command line alone.
fn flag(name: &'static str, word: Option<OsString>) -> Result<bool, Error> {
    Ok(pick::only(name, word, pick::text(parse_bool))?.unwrap_or(false))
}

/// `--after-reboot`, before the script is known.
struct Reboot {
    env_file: Option<PathBuf>,
}

fn after_reboot(
    word: Option<OsString>,
    env_file: Option<OsString>,
    is_captured: bool,
) -> Result<Option<Reboot>, Error> {
    let env_file = env_file.map(PathBuf::from);
    match (flag("--after-reboot", word)?, env_file) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Error::value(
            "--after-env-file",
            "it is for after a reboot: give --after-reboot as well, or use --env",
        )),
        (true, _) if !is_captured => Err(Error::value(
            "--after-reboot",
            "nothing of a command in the foreground survives a reboot; give --detach or --log as well",
        )),
        (true, env_file) => Ok(Some(Reboot { env_file })),
    }
}

impl Reboot {
    /// The script as a command without a shell.
    fn of(self, script: &OsStr) -> Result<AfterRebootRequest, Error> {
        // What has no meaning of its own in a shell: both ways of running it are the same.
        let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,- ".contains(c);
        let text = script.to_str().filter(|text| text.chars().all(plain));
        let argv: Vec<String> = text
            .unwrap_or_default()
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        if !argv.first().is_some_and(|program| program.starts_with('/')) {
            return Err(Error::value(
                "--after-reboot",
                "no script is kept on a disk, so --after has to be a plain command: the absolute path of a program and its \
                 arguments, of letters, digits and _./:=@%+,- with blanks between them; put a script into a file of yours",
            ));
        }
        Ok(AfterRebootRequest {
            argv,
            env_file: self.env_file,
        })
    }
}

/// Gives a run the variables that it inherits.
pub fn inherit(run: &mut RunRequest, environ: Environ) {
    if run.step.env.inherit {
        run.step.env.inherited = inherited(environ);
    }
}

/// The variables that a command inherits.
pub fn inherited(environ: Environ) -> Vec<(OsString, Secret)> {
    let vars = environ.into_inherited().into_iter();
    vars.map(|(name, value)| (name, Secret::from(value))).collect()
}

pub(super) fn job_id(origin: &str, given: &OsStr) -> Result<JobId, Error> {
    pick::text(str::parse)(given).map_err(|why| Error::value(origin, why))
}

#[cfg(test)]
#[path = "meaning_test.rs"]
pub(super) mod tests;
