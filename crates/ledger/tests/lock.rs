//! The lock of a record, as the kernel lists it.

use jobcage_job::{CreatedBy, JobId, JobSpec, SPEC_VERSION};
use jobcage_ledger::{Record, State, boot_id};
use jobcage_sys::file::Durability;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

fn spec() -> JobSpec {
    let id = JobId::generate("lock", 1);
    JobSpec {
        version: SPEC_VERSION,
        cage: format!("/nowhere/{id}"),
        id,
        name: None,
        created_by: CreatedBy::Create,
        program: None,
        limited: false,
        boot_id: boot_id().unwrap(),
        owner: 0,
        uid: 0,
        created_ns: 0,
        grace: Duration::ZERO,
        limits: jobcage_job::Limits::default(),
        lease: None,
        silence: None,
        after: false,
        after_reboot: None,
        capture: None,
        ssh_agent: false,
        state_dir: None,
        labels: std::collections::BTreeMap::new(),
        guests: None,
        login: None,
        guard: false,
    }
}

/// Whether this process holds a record lock on the file.
fn is_held(file: &Path) -> bool {
    let inode = std::fs::metadata(file).unwrap().ino();
    let me = std::process::id();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks
        .lines()
        .any(|line| line.contains(&format!(" {me} ")) && line.contains(&format!(":{inode} ")))
}

#[test]
fn a_look_at_the_state_under_the_lock_does_not_drop_it() {
    let dir = tempfile::tempdir().unwrap();
    let (record, lock) = Record::create(dir.path(), &spec(), Durability::Kernel).unwrap();
    let file = record.path().join("lock");
    assert!(is_held(&file));
    assert_eq!(
        record.state_under(&lock).unwrap(),
        State::Unattended(spec().into())
    );
    assert!(is_held(&file));
    // Why there are two of them: closing any descriptor of the file drops the lock.
    assert_eq!(record.state().unwrap(), State::Unattended(spec().into()));
    assert!(!is_held(&file));
}
