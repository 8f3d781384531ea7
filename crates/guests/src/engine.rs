//! The way back, the same for all kinds: ask a tool what there is, give each of it back, end the tool's daemons, and ask again.

use crate::place;
use crate::tools::{Pass, Tools};
use crate::{GuestError, Kind, Result};
use jobcage_job::{Census, GuestMode, GuestPlace, GuestReport, JobSpec, Outcome};

/// What one daemon does not give back, a fresh one may: it believes what it has in its memory.
const PASSES: u32 = 4;

/// What a kind gets to give back what a job has made.
pub(crate) struct Work<'a> {
    pub spec: &'a JobSpec,
    pub place: &'a GuestPlace,
    pub mode: GuestMode,
    /// Who was alive in the cage when it was frozen.
    pub census: &'a Census,
    pub tools: &'a Tools<'a>,
}

/// One thing that a tool has listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its name, or its path: the job's word.
    pub name: String,
    /// What its tool knows it by: this alone is given to a tool.
    pub id: String,
    /// By what it is known to have run when the job ended.
    pub ran: Option<String>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Fate {
    Done,
    /// Somebody was faster, or it went with another one.
    Gone,
    /// Another daemon may do better.
    Retry(GuestError),
    /// Nothing will.
    Failed(GuestError),
    /// It is not to be given back, for this reason.
    Spared(String),
}

/// What a tool's answer means; `gone`: words with which it says that there is no such thing.
pub(crate) fn fate(answer: Result<String>, gone: &[&str]) -> Fate {
    match answer {
        Ok(_) => Fate::Done,
        Err(GuestError::Tool { said, .. }) if gone.iter().any(|word| said.contains(word)) => Fate::Gone,
        Err(why @ GuestError::NoTime) => Fate::Failed(why),
        Err(why) => Fate::Retry(why),
    }
}

/// How a pass went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// Nothing was listed any more.
    Empty,
    /// Something was, and it may be less now.
    Again,
    /// Nothing of what was listed can be given back.
    Stuck,
}

/// Gives back what there is of a kind. What could not be is `Left` in the result.
pub(crate) fn give_back(kind: &dyn Kind, work: &Work<'_>) -> Vec<GuestReport> {
    let mut told = Vec::new();
    if kind.lists().is_empty() || !kind.is_here() || !kind.is_used(work) {
        return told;
    }
    if let Err(why) = empty(kind, work, &mut told) {
        let registry = kind.registry(work);
        told.push(crate::left(kind.name(), "registry", &registry, &why, 0));
    }
    add_noted(&mut told, kind.noted(work));
    told
}

/// Those that no tool was asked for, or that it could not say anything of.
fn add_noted(told: &mut Vec<GuestReport>, noted: Vec<GuestReport>) {
    for report in noted {
        let same = |known: &GuestReport| {
            known.is_left() && (&known.what, &known.name) == (&report.what, &report.name)
        };
        if !told.iter().any(same) {
            told.push(report);
        }
    }
}

/// Asks again and again, until nothing is listed or nothing of what is can be given back.
fn empty(kind: &dyn Kind, work: &Work<'_>, told: &mut Vec<GuestReport>) -> std::result::Result<(), String> {
    for pass in 1..=PASSES {
        match one_pass(kind, work, told) {
            Ok(Passed::Empty | Passed::Stuck) => return Ok(()),
            Ok(Passed::Again) => {}
            // It may do better with another daemon in a fresh cgroup, once: a tool that was cut takes all that is in its cgroup with it, and a daemon does not
            // always come up. What is damaged goes with the place, and disks that lie elsewhere are then known to nobody.
            Err(why) if pass == 1 && !matches!(why, GuestError::NoTime) => {}
            Err(why) => return Err(why.to_string()),
        }
    }
    Err(format!("something is in it after {PASSES} passes"))
}

/// With daemons of its own, where they are isolated.
fn one_pass(kind: &dyn Kind, work: &Work<'_>, told: &mut Vec<GuestReport>) -> Result<Passed> {
    let pass = work.tools.pass(kind.leaf(work.mode))?;
    let done = empty_lists(kind, work, &pass, told);
    pass.end()?;
    done
}

fn empty_lists(
    kind: &dyn Kind,
    work: &Work<'_>,
    pass: &Pass<'_>,
    told: &mut Vec<GuestReport>,
) -> Result<Passed> {
    let mut passed = Passed::Empty;
    for what in kind.lists() {
        let listed = kind.inventory(what, work, pass)?;
        for found in listed {
            let before = place::size(work.place);
            let fate = kind.destroy(what, &found, work, pass);
            let bytes = before.saturating_sub(place::size(work.place));
            passed = match fate {
                Fate::Spared(_) => passed,
                Fate::Failed(_) if passed != Passed::Again => Passed::Stuck,
                _ => Passed::Again,
            };
            note(told, report(kind, what, found, bytes, fate));
        }
    }
    Ok(passed)
}

fn report(kind: &dyn Kind, what: &str, found: Found, bytes: u64, fate: Fate) -> GuestReport {
    let (outcome, why) = match fate {
        Fate::Done | Fate::Gone => (Outcome::Deleted, None),
        Fate::Retry(why) | Fate::Failed(why) => (Outcome::Left, Some(why.to_string())),
        Fate::Spared(why) => (Outcome::Spared, Some(why)),
    };
    GuestReport {
        kind: kind.name().into(),
        what: what.into(),
        name: found.name,
        id: Some(found.id),
        ran: found.ran,
        outcome,
        why,
        bytes,
    }
}

/// One line for each, the last word about it: what failed in an earlier pass may have been done in a later one, or be gone.
fn note(reports: &mut Vec<GuestReport>, mut report: GuestReport) {
    let same = |known: &&mut GuestReport| (&known.what, &known.id) == (&report.what, &report.id);
    if let Some(known) = reports.iter_mut().find(same) {
        report.bytes += known.bytes;
        *known = report;
    } else {
        reports.push(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_about_a_thing_counts_and_its_bytes_add_up() {
        let told = |id: &str, outcome, bytes| GuestReport {
            id: Some(id.into()),
            outcome,
            ..crate::left("kind", "vm", "name", &"why", bytes)
        };
        let mut reports = Vec::new();
        note(&mut reports, told("a", Outcome::Left, 3));
        note(&mut reports, told("b", Outcome::Left, 1));
        note(&mut reports, told("a", Outcome::Deleted, 4));
        let seen: Vec<_> = reports.iter().map(|r| (r.outcome, r.bytes)).collect();
        assert_eq!(seen, [(Outcome::Deleted, 7), (Outcome::Left, 1)]);
        // A disk may have the number of a machine.
        note(
            &mut reports,
            GuestReport {
                what: "disk".into(),
                ..told("b", Outcome::Deleted, 0)
            },
        );
        assert_eq!(reports.len(), 3);
    }

    #[test]
    fn what_was_noted_is_told_of_once() {
        let told = |name: &str, why: &str| crate::left("kind", "disk", name, &why, 0);
        let mut reports = vec![told("a", "the tool's reason")];
        add_noted(&mut reports, vec![told("a", "noted"), told("b", "noted")]);
        assert_eq!(reports, [told("a", "the tool's reason"), told("b", "noted")]);
        // What was removed, and is there again, is not what was removed.
        reports[0].outcome = Outcome::Deleted;
        add_noted(&mut reports, vec![told("a", "noted")]);
        assert_eq!(reports.len(), 3);
    }
}
