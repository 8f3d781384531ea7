//! Requests in a record, and its lists.

use jobcage_job::{CreatedBy, GuestReport, JobSpec, Limits, SPEC_VERSION, STOP_VERSION, StopRequest};
use jobcage_ledger::{LedgerError, Record, State};
use jobcage_sys::Errno;
use jobcage_sys::file::Durability;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

fn make(base: &Path) -> (Record, jobcage_ledger::Lock) {
    let spec = JobSpec {
        version: SPEC_VERSION,
        id: "main-00000000".parse().unwrap(),
        name: None,
        created_by: CreatedBy::Run,
        program: None,
        cage: "/x/main-00000000".into(),
        limited: false,
        boot_id: String::new(),
        owner: 0,
        uid: 0,
        created_ns: 0,
        grace: Duration::ZERO,
        limits: Limits::default(),
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
    };
    Record::create(base, &spec, Durability::Kernel).unwrap()
}

fn request(pid: i32) -> StopRequest {
    StopRequest {
        finished: None,
        version: STOP_VERSION,
        signal: Some(10),
        grace: Some(Duration::from_millis(1500)),
        now: false,
        pid,
        uid: 0,
    }
}

#[test]
fn the_last_request_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path());
    assert_eq!(record.asked().unwrap(), None);
    record.ask_stop(&request(1)).unwrap();
    record.ask_stop(&request(2)).unwrap();
    assert_eq!(record.asked().unwrap(), Some(request(2)));
    // A clean end takes it along.
    assert!(record.remove_plain().unwrap().is_none());
    assert!(!record.path().exists());
    assert_eq!(
        record.ask_stop(&request(3)).unwrap_err().errno(),
        Some(Errno::ENOENT)
    );
    assert_eq!(record.want().unwrap_err().errno(), Some(Errno::ENOENT));
}

#[test]
fn a_wanted_report_keeps_the_record_locked_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path());
    record.want().unwrap();
    let again = record.remove_plain().unwrap();
    assert!(again.is_some() && record.path().exists());
    assert_eq!(record.state_under(&again.unwrap()).unwrap(), State::NeverBegun);
    record.remove().unwrap();
    assert!(!record.path().exists());
}

/// What root writes into a user's record is that user's to read.
#[test]
fn a_request_belongs_to_the_owner_of_the_record() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path());
    std::os::unix::fs::chown(record.path(), Some(61234), Some(61235)).unwrap();
    record.ask_stop(&request(1)).unwrap();
    let file = std::fs::metadata(record.path().join("stop.json")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o777),
        (61234, 61235, 0o600)
    );
}

#[test]
fn a_list_is_read_again_though_it_has_no_version() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path());
    assert_eq!(record.given_back().unwrap(), None);
    let report: GuestReport = serde_json::from_str(
        r#"{"kind": "virtualbox", "what": "vm", "name": "web", "outcome": "deleted", "bytes": 1}"#,
    )
    .unwrap();
    record.write_given_back(std::slice::from_ref(&report)).unwrap();
    assert_eq!(record.given_back().unwrap(), Some(vec![report]));
    record.write_given_back(&[]).unwrap();
    assert_eq!(record.given_back().unwrap(), Some(Vec::new()));
}

#[test]
fn what_is_newer_is_refused_whatever_its_shape() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path());
    let file = record.path().join("stop.json");
    std::fs::write(&file, r#"{"version": 99, "signal": "by a word"}"#).unwrap();
    assert!(matches!(
        record.asked(),
        Err(LedgerError::Newer { found: 99, .. })
    ));
    std::fs::write(&file, r#"{"version": 1, "signal": "#).unwrap();
    assert!(matches!(record.asked(), Err(LedgerError::Damaged { .. })));
}
