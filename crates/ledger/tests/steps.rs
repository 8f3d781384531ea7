//! The steps of a job in its record, and its record among others.

use jobcage_job::{CreatedBy, Ending, JobSpec, Limits, SPEC_VERSION, StepKind, StepReport};
use jobcage_ledger::{Lock, Places, Record};
use jobcage_sys::file::Durability;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn make(base: &Path, id: &str, durability: Durability) -> (Record, Lock) {
    let spec = JobSpec {
        version: SPEC_VERSION,
        id: id.parse().unwrap(),
        name: None,
        created_by: CreatedBy::Session,
        program: None,
        cage: format!("/x/{id}"),
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
    Record::create(base, &spec, durability).unwrap()
}

fn step(number: u32, ending: Ending) -> StepReport {
    StepReport {
        number,
        name: "build_script".into(),
        kind: StepKind::Step,
        ending,
        status: None,
        started: "2026-11-23T16:00:00Z".into(),
        ended: None,
        logs: Vec::new(),
    }
}

fn lost() -> Ending {
    Ending::Lost {
        why: "it runs".into(),
    }
}

#[test]
fn a_step_is_known_from_its_beginning_and_its_end_is_the_last_word() {
    for durability in [Durability::Kernel, Durability::Disk] {
        for is_prepared in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (record, _lock) = make(dir.path(), "steps-00000000", durability);
            record.begin_step(&step(7, lost())).unwrap();
            let prepared = is_prepared.then(|| record.prepare_end(7)).flatten();
            assert_eq!(
                prepared.is_some(),
                is_prepared && durability == Durability::Kernel
            );
            // Who is killed here leaves it as it is.
            assert_eq!(record.step(7).unwrap().unwrap().ending, lost());
            assert_eq!(record.steps().unwrap(), [step(7, lost())]);
            let ended = step(7, Ending::Exited { code: 3 });
            record.end_step(&ended, prepared).unwrap();
            assert_eq!(record.step(7).unwrap().unwrap(), ended);
            assert_eq!(record.steps().unwrap(), [ended]);
        }
    }
}

#[test]
fn an_end_that_is_cut_off_leaves_what_was_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path(), "steps-00000000", Durability::Kernel);
    record.begin_step(&step(1, lost())).unwrap();
    let ended = step(1, Ending::Exited { code: 0 });
    let prepared = record.prepare_end(1);
    record.end_step(&ended, prepared).unwrap();
    let file = record.path().join("step-01.json");
    let whole = fs::read(&file).unwrap();
    // Its last byte is the end of the line.
    for length in 0..whole.len() - 2 {
        fs::write(&file, &whole[..length]).unwrap();
        assert_eq!(record.step(1).unwrap().unwrap().ending, lost(), "{length}");
        assert_eq!(record.steps().unwrap(), [step(1, lost())], "{length}");
    }
}

#[test]
fn a_file_that_was_made_for_another_step_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path(), "steps-00000000", Durability::Kernel);
    let other = record.prepare_end(1);
    record.end_step(&step(2, lost()), other).unwrap();
    assert_eq!(fs::read(record.path().join("step-01.json")).unwrap(), b"");
    assert_eq!(record.steps().unwrap(), [step(2, lost())]);
}

#[test]
fn a_file_that_is_there_already_is_not_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let (record, _lock) = make(dir.path(), "steps-00000000", Durability::Kernel);
    record.write_step(&step(1, lost())).unwrap();
    assert!(record.prepare_end(1).is_none());
    assert_eq!(record.steps().unwrap(), [step(1, lost())]);
    // And one that is gone meanwhile is made anew.
    let prepared = record.prepare_end(2);
    fs::remove_file(record.path().join("step-02.json")).unwrap();
    let ended = step(2, Ending::Exited { code: 0 });
    record.end_step(&ended, prepared).unwrap();
    assert_eq!(record.step(2).unwrap().unwrap(), ended);
}

#[test]
fn of_many_records_those_of_one_name_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places {
        runtime: dir.path().join("run"),
        state: dir.path().join("state"),
    };
    assert!(places.lasting("gitlab-1-").unwrap().is_empty());
    for (base, id) in [
        (&places.state, "gitlab-1-aaaaaaaa"),
        (&places.state, "gitlab-1-bbbbbbbb"),
        (&places.state, "gitlab-11-aaaaaaaa"),
        (&places.state, "other-aaaaaaaa"),
        // Ends with the boot.
        (&places.runtime, "gitlab-1-cccccccc"),
    ] {
        drop(make(base, id, Durability::Kernel));
    }
    fs::write(places.state.join("gitlab-1-dddddddd"), "no directory").unwrap();
    fs::create_dir(places.state.join("gitlab-1-no id")).unwrap();
    let mut found: Vec<String> = places
        .lasting("gitlab-1-")
        .unwrap()
        .iter()
        .map(|record| record.spec().unwrap().unwrap().id.to_string())
        .collect();
    found.sort();
    assert_eq!(found, ["gitlab-1-aaaaaaaa", "gitlab-1-bbbbbbbb"]);
    assert_eq!(places.all().unwrap().len(), 5);
}
