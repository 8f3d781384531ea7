//! The entries, as they come out of a socket in journald's place.

use super::*;
use jobcage_job::{CreatedBy, Ending, SPEC_VERSION};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

fn spec(labels: &[(&str, &str)]) -> JobSpec {
    JobSpec {
        version: SPEC_VERSION,
        id: "gitlab-7-0123abcd".parse().unwrap(),
        name: None,
        created_by: CreatedBy::Create,
        program: None,
        cage: "/cages/gitlab-7-0123abcd".into(),
        limited: false,
        boot_id: String::new(),
        owner: 0,
        uid: 1000,
        created_ns: 0,
        grace: Duration::ZERO,
        limits: jobcage_job::Limits::default(),
        lease: None,
        silence: None,
        after: false,
        after_reboot: None,
        guard: false,
        capture: None,
        ssh_agent: false,
        state_dir: None,
        guests: None,
        login: None,
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

/// What journald would make of a datagram.
fn parse(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|b| *b == b'\n').unwrap();
        let head = std::str::from_utf8(&entry[..end]).unwrap();
        let (name, value) = if let Some((name, value)) = head.split_once('=') {
            entry = &entry[end + 1..];
            (name, value)
        } else {
            let (length, rest) = entry[end + 1..].split_at(8);
            let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
            entry = rest[length..].strip_prefix(b"\n").unwrap();
            (head, std::str::from_utf8(&rest[..length]).unwrap())
        };
        assert!(
            fields.insert(name.to_owned(), value.to_owned()).is_none(),
            "{name} twice"
        );
    }
    fields
}

fn received(socket: &UnixDatagram) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let n = socket.recv(&mut buffer).unwrap();
    buffer.truncate(n);
    buffer
}

#[test]
fn an_entry_has_the_job_its_labels_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journald");
    let journald = UnixDatagram::bind(&path).unwrap();
    let sinks = Sinks {
        journald: &path,
        syslog: Path::new("/nowhere"),
    };
    let spec = spec(&[
        ("GITLAB_JOB_ID", "7"),
        // What would be a field of ours, or of journald's, or none at all.
        ("MESSAGE", "forged"),
        ("_UID", "0"),
        ("A=B\nC", "forged"),
        ("LINES", "one\nPRIORITY=0"),
    ]);
    tell(
        &sinks,
        &spec,
        Priority::Warning,
        "an end\u{1b}[31m\nPRIORITY=0",
        Some("exited"),
    );
    let pid = std::process::id().to_string();
    let expected = [
        ("MESSAGE", "gitlab-7-0123abcd: an end\\u{1b}[31m\\nPRIORITY=0"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "jobcage"),
        ("SYSLOG_PID", &pid),
        ("JOBCAGE_JOB", "gitlab-7-0123abcd"),
        ("JOBCAGE_ENDING", "exited"),
        ("GITLAB_JOB_ID", "7"),
        ("LINES", "one\nPRIORITY=0"),
    ];
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(parse(&received(&journald)), expected);
}

#[test]
fn syslog_gets_one_line_where_there_is_no_journald() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let syslog = UnixDatagram::bind(&path).unwrap();
    let sinks = Sinks {
        journald: &dir.path().join("nobody"),
        syslog: &path,
    };
    let spec = spec(&[("GITLAB_JOB_ID", "7"), ("LINES", "one\ntwo")]);
    tell(&sinks, &spec, Priority::Error, "an end", None);
    let line = String::from_utf8(received(&syslog)).unwrap();
    assert_eq!(
        line,
        format!(
            "<27>jobcage[{}]: gitlab-7-0123abcd: an end GITLAB_JOB_ID=7 LINES=one\\ntwo",
            std::process::id()
        )
    );
}

/// A journald that does not read must not hold up a job: what it has no room for is dropped.
#[test]
fn nobody_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journald");
    let journald = UnixDatagram::bind(&path).unwrap();
    let sinks = Sinks {
        journald: &path,
        syslog: &path,
    };
    let spec = spec(&[("GITLAB_JOB_ID", "7")]);
    const MANY: usize = 2000;
    for _ in 0..MANY {
        tell(&sinks, &spec, Priority::Info, "x", None);
    }
    journald.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let kept = std::iter::from_fn(|| journald.recv(&mut buffer).ok()).count();
    assert!((1..MANY).contains(&kept), "{kept}");
    // With nobody there it is silence, not an error.
    drop(journald);
    tell(&sinks, &spec, Priority::Info, "x", None);
}

#[test]
fn a_job_without_labels_is_not_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journald");
    let journald = UnixDatagram::bind(&path).unwrap();
    let sinks = Sinks {
        journald: &path,
        syslog: &path,
    };
    tell(&sinks, &spec(&[]), Priority::Info, "x", None);
    journald.set_nonblocking(true).unwrap();
    assert!(journald.recv(&mut [0; 16]).is_err());
}

#[test]
fn a_long_text_is_cut() {
    let long = "ä".repeat(100_000);
    assert!(message(&spec(&[]), &long).len() < MOST + 10);
}

#[test]
fn what_survives_is_an_error_and_what_was_killed_a_warning() {
    let story = |count| {
        let spec = spec(&[]);
        let mut closed = crate::closing::Closed::default();
        closed.emptied.census.count = count;
        closed.emptied.proof.populated = Some(false);
        closed.emptied.proof.removed = true;
        crate::closing::report(
            crate::closing::Story {
                spec: &spec,
                ending: Ending::Exited { code: 3 },
                status: None,
                notes: Vec::new(),
                steps: Vec::new(),
                limits: BTreeMap::new(),
                root: None,
                closed_by: "cleanup",
                wall: Duration::ZERO,
            },
            closed,
        )
    };
    let mut report = story(0);
    assert_eq!(end(&report).0, Priority::Info, "{report:#?}");
    report = story(2);
    let (priority, text) = end(&report);
    assert_eq!(priority, Priority::Warning);
    assert_eq!(
        text,
        "over: exited with 3, closed by cleanup; killed 2 that were left"
    );
    report.clean = false;
    let (priority, text) = end(&report);
    assert_eq!(priority, Priority::Error);
    assert!(
        text.ends_with("NOT CLEAN, something that it had made could not be given back"),
        "{text}"
    );
    report.quarantine = Some(jobcage_job::Quarantine {
        cage: String::new(),
        survivors: Vec::new(),
        why: "state D".into(),
    });
    let (priority, text) = end(&report);
    assert_eq!(priority, Priority::Error);
    assert!(
        text.ends_with("QUARANTINED, something survived: state D"),
        "{text}"
    );
}
