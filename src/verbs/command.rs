//! From what was asked to what exec needs: who, with which environment, from which candidates of `PATH`.

use super::VerbError;
use crate::cli::request::{EnvRequest, ExecRequest, Identity, StepRequest};
use jobcage_job::handed::DEFAULT_PATH;
use jobcage_job::{Account, JobSpec, Login};
use jobcage_supervisor::asking::Surroundings;
use jobcage_supervisor::{Command, candidates};
use jobcage_sys::spawn;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Makes the command ready. Fails before a cage exists if a user or group is unknown or a text holds a NUL byte.
pub fn build(step: &StepRequest) -> Result<Command, VerbError> {
    build_for(step, look_up(&step.identity)?)
}

/// As [`build`], in a session: whoever was looked up when it began is not looked up again.
pub fn build_in(session: &JobSpec, step: &StepRequest) -> Result<Command, VerbError> {
    let known = session
        .login
        .as_ref()
        .filter(|login| is_asked(login, &step.identity));
    match known {
        Some(login) => build_for(step, login.into()),
        None => build(step),
    }
}

/// Whether an account is the one that is asked for.
fn is_asked(login: &Login, asked: &Identity) -> bool {
    asked.user.as_ref() == Some(&login.user) && asked.group == login.group
}

fn build_for(step: &StepRequest, who: Who) -> Result<Command, VerbError> {
    let env = environment(&step.env, &who)?;
    let dir = step.dir.as_deref();
    Ok(Command {
        explicit: step
            .env
            .set
            .iter()
            .map(|(name, _)| text(name))
            .collect::<Result<_, _>>()?,
        rlimits: step
            .rlimits
            .iter()
            .map(|r| spawn::Rlimit {
                resource: r.resource.number,
                soft: r.soft,
                hard: r.hard,
            })
            .collect(),
        nice: step.nice,
        guard: step.guard,
        login: who.login(&step.identity),
        ..assemble(&step.command, &env, dir, who.identity)?
    })
}

/// Names the directory of a command that is started by another process than us: as in the foreground, it is ours.
pub fn settle_dir(command: &mut Command) -> Result<(), VerbError> {
    let failed = |e: std::io::Error| VerbError::Who(format!("the working directory cannot be named: {e}"));
    let own = || std::env::current_dir().map_err(failed);
    let dir = match &command.dir {
        Some(dir) if dir.to_bytes().starts_with(b"/") => return Ok(()),
        Some(dir) => own()?.join(OsStr::from_bytes(dir.to_bytes())),
        // In the foreground a user may stand where it could not go; here it has to go there.
        None => own()
            .ok()
            .filter(|dir| command.identity.as_ref().is_none_or(|who| may_enter(who, dir)))
            .unwrap_or_else(|| "/".into()),
    };
    command.dir = Some(text(dir.as_os_str())?);
    Ok(())
}

/// Has a command start at its `HOME`, or at the root where its user cannot go there.
pub fn settle_at_home(command: &mut Command) -> Result<(), VerbError> {
    let home = command
        .env
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"HOME="));
    let home = home.map(|home| Path::new(OsStr::from_bytes(home)));
    let fits =
        |home: &&Path| home.is_dir() && command.identity.as_ref().is_none_or(|who| may_enter(who, home));
    let dir = text(home.filter(fits).unwrap_or(Path::new("/")).as_os_str())?;
    command.dir = Some(dir);
    Ok(())
}

/// The account of whoever steps of this identity run as.
pub fn account(identity: &Identity) -> Result<Option<User>, VerbError> {
    let who = look_up(identity)?;
    let own = || User::from_uid(nix::unistd::getuid()).ok().flatten();
    Ok(match who.identity {
        Some(_) => who.account,
        None => who.account.or_else(own),
    })
}

/// Whether the permissions let a user go to this directory.
fn may_enter(who: &spawn::Identity, dir: &Path) -> bool {
    dir.ancestors().all(|dir| {
        std::fs::metadata(dir).is_ok_and(|meta| {
            let shift = if meta.uid() == who.uid {
                6
            } else if meta.gid() == who.gid || who.groups.contains(&meta.gid()) {
                3
            } else {
                0
            };
            who.uid == 0 || meta.mode() >> shift & 1 == 1
        })
    })
}

fn assemble(
    words: &[OsString],
    env: &Variables,
    dir: Option<&Path>,
    identity: Option<spawn::Identity>,
) -> Result<Command, VerbError> {
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.clone());
    let program = text(words.first().map(OsString::as_os_str).unwrap_or_default())?;
    Ok(Command {
        programs: candidates(&program, path.as_deref().map(OsStr::as_bytes)),
        args: words.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?,
        env: env
            .iter()
            .map(|(name, value)| pair(name, value))
            .collect::<Result<_, _>>()?,
        identity,
        dir: dir.map(|dir| text(dir.as_os_str())).transpose()?,
        ..Command::default()
    })
}

/// Makes a command of `jobcage exec` ready: what the job does not give is the caller's own.
pub fn beside(request: &ExecRequest, around: &Surroundings) -> Result<Command, VerbError> {
    let mut env: Variables = match &around.env {
        Some(env) => env.clone(),
        None => {
            let own = request.inherited.iter().filter(|(name, _)| name != "JOBCAGE_JOB");
            own.map(|(name, value)| (name.clone(), value.expose().to_owned()))
                .collect()
        }
    };
    for (name, value) in &request.set {
        set(&mut env, name, value.expose().to_owned());
    }
    let dir = request.dir.as_ref().or(around.dir.as_ref());
    assemble(
        &request.command,
        &env,
        dir.map(AsRef::as_ref),
        identity_of(around)?,
    )
}

/// The job's user, with the groups of its main process or of its account. Whoever is not root is that user already.
fn identity_of(around: &Surroundings) -> Result<Option<spawn::Identity>, VerbError> {
    if !nix::unistd::geteuid().is_root() || (around.uid == 0 && around.groups.is_none()) {
        return Ok(None);
    }
    match &around.groups {
        Some((gid, groups)) => Ok(Some(spawn::Identity {
            uid: around.uid,
            gid: *gid,
            groups: groups.clone(),
        })),
        None => {
            let user = Some(around.uid.to_string());
            look_up(&Identity { user, group: None }).map(|who| who.identity)
        }
    }
}

/// Who runs it: what to become, and the account for a login environment.
struct Who {
    identity: Option<spawn::Identity>,
    account: Option<User>,
}

impl Who {
    /// For further steps of the same job; `None`: there is no account, or nothing to become.
    fn login(&self, asked: &Identity) -> Option<Login> {
        let (identity, account) = (self.identity.as_ref()?, self.account.as_ref()?);
        let text = |path: &Path| path.to_str().map(str::to_owned);
        Some(Login {
            user: asked.user.clone()?,
            group: asked.group.clone(),
            account: Account {
                uid: identity.uid,
                gid: identity.gid,
                groups: identity.groups.clone(),
            },
            name: account.name.clone(),
            home: text(&account.dir)?,
            shell: text(&account.shell)?,
        })
    }
}

impl From<&Login> for Who {
    fn from(login: &Login) -> Self {
        let Account { uid, gid, groups } = &login.account;
        Self {
            identity: Some(spawn::Identity {
                uid: *uid,
                gid: *gid,
                groups: groups.clone(),
            }),
            account: Some(User {
                name: login.name.clone(),
                passwd: CString::default(),
                uid: Uid::from_raw(*uid),
                gid: Gid::from_raw(*gid),
                gecos: CString::default(),
                dir: (&login.home).into(),
                shell: (&login.shell).into(),
            }),
        }
    }
}

/// The uid that steps of this identity run as.
pub fn uid(identity: &Identity) -> Result<u32, VerbError> {
    let who = look_up(identity)?;
    Ok(who
        .identity
        .map_or_else(|| nix::unistd::getuid().as_raw(), |identity| identity.uid))
}

/// What steps of this identity have to become; `None`: what we are.
pub fn identity(identity: &Identity) -> Result<Option<spawn::Identity>, VerbError> {
    look_up(identity).map(|who| who.identity)
}

fn look_up(asked: &Identity) -> Result<Who, VerbError> {
    if asked.user.is_none() && asked.group.is_none() {
        return Ok(Who {
            identity: None,
            account: None,
        });
    }
    let account = match &asked.user {
        Some(user) => Some(find_user(user)?),
        None => None,
    };
    let group = asked.group.as_deref().map(find_group).transpose()?;
    let (uid, own_group) = match &account {
        Some((uid, account)) => (
            *uid,
            account.as_ref().map_or(Gid::from_raw(uid.as_raw()), |a| a.gid),
        ),
        None => (nix::unistd::getuid(), nix::unistd::getgid()),
    };
    let gid = group.unwrap_or(own_group);
    let account = account.and_then(|(_, account)| account);
    let groups = match &account {
        Some(account) => getgrouplist(&text(OsStr::new(&account.name))?, gid).map_err(|errno| {
            VerbError::Who(format!(
                "cannot list the groups of {:?}: {}",
                account.name,
                errno.desc()
            ))
        })?,
        None => vec![gid],
    };
    // Who asks for what he is already needs no right to become it, and has none, unless he is root.
    let is_self = uid == nix::unistd::getuid() && gid == nix::unistd::getgid();
    if is_self && !nix::unistd::geteuid().is_root() {
        return Ok(Who {
            identity: None,
            account,
        });
    }
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Who {
        identity: Some(spawn::Identity {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            groups,
        }),
        account,
    })
}

/// A user by name or number. A number needs no account; then it has no groups and no home.
fn find_user(user: &str) -> Result<(Uid, Option<User>), VerbError> {
    let failed =
        |errno: nix::Error| VerbError::Who(format!("cannot look up the user {user:?}: {}", errno.desc()));
    if let Some(account) = User::from_name(user).map_err(failed)? {
        return Ok((account.uid, Some(account)));
    }
    match user.parse() {
        Ok(uid) => Ok((
            Uid::from_raw(uid),
            User::from_uid(Uid::from_raw(uid)).map_err(failed)?,
        )),
        Err(_) => Err(VerbError::Who(format!(
            "there is no user {user:?} (--user); accounts are read from /etc/passwd"
        ))),
    }
}

fn find_group(group: &str) -> Result<Gid, VerbError> {
    let failed =
        |errno: nix::Error| VerbError::Who(format!("cannot look up the group {group:?}: {}", errno.desc()));
    if let Some(found) = Group::from_name(group).map_err(failed)? {
        return Ok(found.gid);
    }
    group.parse().map(Gid::from_raw).map_err(|_| {
        VerbError::Who(format!(
            "there is no group {group:?} (--group); groups are read from /etc/group"
        ))
    })
}

/// What an outer job has, and an inner one must not take over.
const OWN: [&str; 3] = ["JOBCAGE_JOB", "JOBCAGE_ENV", "JOBCAGE_PATH"];

type Variables = Vec<(OsString, OsString)>;

/// In the order of [`EnvRequest`]; a later value replaces an earlier one.
fn environment(asked: &EnvRequest, who: &Who) -> Result<Variables, VerbError> {
    let mut env: Variables = asked
        .inherited
        .iter()
        .map(|(name, value)| (name.clone(), value.expose().to_owned()))
        .collect();
    if asked.login {
        for (name, value) in login(who)? {
            set(&mut env, OsStr::new(name), value);
        }
    }
    for (name, value) in &asked.set {
        set(&mut env, name, value.expose().to_owned());
    }
    // Ours, set for each job: an outer job's name would be a lie in this one, and its files are not this one's to write.
    env.retain(|(name, _)| !OWN.iter().any(|own| name == own));
    Ok(env)
}

fn set(env: &mut Variables, name: &OsStr, value: OsString) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some(known) => known.1 = value,
        None => env.push((name.to_owned(), value)),
    }
}

/// What login(1) sets, without PAM: pam_systemd would move the process out of its cgroup.
fn login(who: &Who) -> Result<Vec<(&'static str, OsString)>, VerbError> {
    let uid = who
        .identity
        .as_ref()
        .map_or_else(nix::unistd::getuid, |i| Uid::from_raw(i.uid));
    let of_uid = || User::from_uid(uid).ok().flatten();
    let Some(account) = who.account.clone().or_else(of_uid) else {
        return Err(VerbError::Who(
            "--login needs an account in /etc/passwd, and this uid has none".into(),
        ));
    };
    let path = if account.uid.is_root() {
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    } else {
        DEFAULT_PATH
    };
    // passwd(5): none means the usual one.
    let shell = Some(account.shell.into_os_string()).filter(|shell| !shell.is_empty());
    Ok(vec![
        ("HOME", account.dir.into_os_string()),
        ("USER", account.name.clone().into()),
        ("LOGNAME", account.name.into()),
        ("SHELL", shell.unwrap_or_else(|| "/bin/sh".into())),
        ("PATH", path.into()),
    ])
}

fn pair(name: &OsStr, value: &OsStr) -> Result<CString, VerbError> {
    // With room for the NUL, so that nothing is copied once more.
    let mut whole = Vec::with_capacity(name.len() + value.len() + 2);
    whole.extend_from_slice(name.as_bytes());
    whole.push(b'=');
    whole.extend_from_slice(value.as_bytes());
    CString::new(whole).map_err(|_| holds_a_nul())
}

/// The text itself is not quoted in the error: it may be a secret.
fn text(text: &OsStr) -> Result<CString, VerbError> {
    CString::new(text.as_bytes()).map_err(|_| holds_a_nul())
}

fn holds_a_nul() -> VerbError {
    VerbError::Who(
        "an argument or an environment value holds a NUL byte, which no program can be given".into(),
    )
}
