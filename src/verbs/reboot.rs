//! `--after-reboot`: what of an after phase is written down.

use super::VerbError;
use crate::cli::request::{AfterRebootRequest, AfterRequest, Places};
use jobcage_job::{Account, AfterReboot};
use jobcage_supervisor::{After, Command, Failure, kept};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The after phase of a request.
///
/// # Errors
/// If it is to outlive a reboot and cannot.
pub fn after(asked: AfterRequest, command: &Command, places: &Places) -> Result<After, VerbError> {
    let timeout = asked.timeout;
    let reboot = asked
        .reboot
        .map(|reboot| recorded(*reboot, command, places, timeout).map(Box::new))
        .transpose()?;
    Ok(After {
        script: asked.script.expose().to_owned(),
        timeout,
        reboot,
    })
}

fn recorded(
    asked: AfterRebootRequest,
    command: &Command,
    places: &Places,
    timeout: std::time::Duration,
) -> Result<AfterReboot, VerbError> {
    let program = Path::new(asked.argv.first().map(String::as_str).unwrap_or_default());
    let is_program =
        std::fs::metadata(program).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if !is_program {
        return Err(refused(format!(
            "--after-reboot: {} is no executable file: --after has to begin with the absolute path of one",
            program.display()
        )));
    }
    Ok(AfterReboot {
        dir: text("--dir", command.dir.clone().unwrap_or_default().into_bytes())?,
        user: command.identity.as_ref().map(|who| Account {
            uid: who.uid,
            gid: who.gid,
            groups: who.groups.clone(),
        }),
        env_file: asked.env_file.map(env_file).transpose()?,
        timeout,
        cgroup_root: places
            .cgroup_root
            .clone()
            .map(|root| text("--cgroup-root", root.into_os_string().into_encoded_bytes()))
            .transpose()?,
        argv: asked.argv,
    })
}

/// The path of the file, once it is seen to be one that can be read.
fn env_file(given: PathBuf) -> Result<String, VerbError> {
    let failed = |why: String| refused(format!("--after-env-file: {}: {why}", given.display()));
    let path = std::fs::canonicalize(&given).map_err(|e| failed(e.to_string()))?;
    let (_, wrong) = kept::read_env_file(&path).map_err(failed)?;
    if let Some(wrong) = wrong.first() {
        return Err(failed(wrong.clone()));
    }
    text("--after-env-file", path.into_os_string().into_encoded_bytes())
}

fn text(option: &str, bytes: Vec<u8>) -> Result<String, VerbError> {
    String::from_utf8(bytes).map_err(|_| {
        refused(format!(
            "--after-reboot: the path of {option} is no UTF-8, so it cannot be written down"
        ))
    })
}

fn refused(why: String) -> VerbError {
    VerbError::Failure(Failure::Refused(why))
}
