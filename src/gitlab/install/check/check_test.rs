//! Every pitfall, one by one: found where it is, and not where it is not.

use super::*;
use crate::gitlab::install::template::template;
use std::time::Duration;

fn budgets(grace: u64, after: u64) -> Budgets {
    Budgets {
        grace: Duration::from_secs(grace),
        after: Duration::from_secs(after),
    }
}

/// What `template` prints, where it prints that it belongs.
fn good(budgets: &Budgets) -> String {
    let text = template("/usr/bin/jobcage", budgets);
    text.replace("#shutdown_timeout", "shutdown_timeout")
        .replace("#log_level", "log_level")
}

/// What is found, the worst first.
fn found(text: &str, budgets: &Budgets) -> Vec<Finding> {
    let document = runners::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut findings = of_the_file(&document, budgets).unwrap();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[test]
fn the_template_passes() {
    for (grace, after) in [(10, 240), (0, 0), (10, 278), (60, 60)] {
        let budgets = budgets(grace, after);
        let findings = found(&good(&budgets), &budgets);
        assert!(
            findings.iter().all(|f| f.severity == Severity::Ok) && findings.len() == 1,
            "{findings:?}"
        );
    }
}

#[test]
fn where_the_budgets_do_not_fit_the_template_leaves_one_warning() {
    let budgets = budgets(10, 300);
    let findings = found(&good(&budgets), &budgets);
    let [only] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!(only.severity, Severity::Warning);
    for words in [
        "= 320 s",
        "leaves the after phase 275 s",
        "after_timeout = \"278s\"",
    ] {
        assert!(only.what.contains(words), "{}", only.what);
    }
    // And less than what fits is told as well.
    let less = good(&budgets).replace("graceful_kill_timeout = 295", "graceful_kill_timeout = 100");
    let findings = found(&less, &budgets);
    assert!(
        findings[0].what.contains("set graceful_kill_timeout = 295"),
        "{findings:?}"
    );
}

/// A change to the good file; how bad it is; words of the finding.
const PITFALLS: [(&str, &str, Severity, &str); 35] = [
    (
        "shutdown_timeout = 120\n",
        "",
        Severity::Error,
        "shutdown_timeout is missing: 30 s",
    ),
    (
        "shutdown_timeout = 120",
        "shutdown_timeout = 85",
        Severity::Error,
        "not less than shutdown_timeout, 85 s",
    ),
    (
        "shutdown_timeout = 120",
        "shutdown_timeout = 0",
        Severity::Error,
        "means the default of 30 s",
    ),
    (
        "shutdown_timeout = 120",
        "shutdown_timeout = '2m'",
        Severity::Error,
        "is no whole number",
    ),
    (
        "    graceful_kill_timeout = 85\n",
        "",
        Severity::Error,
        "is missing, and the default is 600 s",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = 0",
        Severity::Error,
        "= 0 means the default, which is 600 s",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = -3",
        Severity::Error,
        "= -3 means the default",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = 300",
        Severity::Error,
        "not less than the 300 s that it waits",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = 120",
        Severity::Error,
        "would lose the cleanup",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = 80",
        Severity::Error,
        "grace 10 s + after phase 60 s + 10 s = 80 s",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = 85.5",
        Severity::Error,
        "graceful_kill_timeout is no whole number",
    ),
    (
        "graceful_kill_timeout = 85",
        "graceful_kill_timeout = \"85\"",
        Severity::Error,
        "graceful_kill_timeout is no whole number",
    ),
    (
        "  [runners.custom]\n",
        "  graceful_kill_timeout = 85\n  [runners.custom]\n",
        Severity::Ok,
        "",
    ),
    (
        "force_kill_timeout = 5",
        "force_kill_timeout = 0",
        Severity::Warning,
        "means the default of 10 s",
    ),
    (
        "force_kill_timeout = 5",
        "force_kill_timeout = true",
        Severity::Error,
        "force_kill_timeout is no whole number",
    ),
    ("    force_kill_timeout = 5\n", "", Severity::Ok, ""),
    (
        "cleanup_exec_timeout = 85",
        "cleanup_exec_timeout = 5",
        Severity::Warning,
        "= 5 is too small",
    ),
    (
        "cleanup_exec_timeout = 85",
        "cleanup_exec_timeout = []",
        Severity::Error,
        "cleanup_exec_timeout is no whole number",
    ),
    (
        "cleanup_exec_timeout = 85",
        "cleanup_exec_timeout = 0",
        Severity::Ok,
        "",
    ),
    ("    cleanup_exec_timeout = 85\n", "", Severity::Ok, ""),
    (
        "log_level = \"info\"\n",
        "graceful_kill_timeout = 85\n",
        Severity::Warning,
        "graceful_kill_timeout is ignored here",
    ),
    (
        "  executor = \"custom\"\n",
        "  executor = \"custom\"\n  log_level = \"debug\"\n",
        Severity::Warning,
        "log_level stands in [[runners]]",
    ),
    (
        "  executor = \"custom\"\n",
        "  executor = \"custom\"\n  shutdown_timeout = 60\n",
        Severity::Warning,
        "shutdown_timeout stands in [[runners]]",
    ),
    (
        "force_kill_timeout = 5",
        "log_level = 'debug'",
        Severity::Warning,
        "log_level stands in [runners.custom]",
    ),
    (
        "    config_exec = \"/usr/bin/jobcage\"\n",
        "",
        Severity::Error,
        "builds_dir is missing",
    ),
    (
        "    prepare_exec = \"/usr/bin/jobcage\"\n",
        "",
        Severity::Error,
        "prepare_exec is missing: no job has a cage",
    ),
    (
        "    run_exec = \"/usr/bin/jobcage\"\n",
        "",
        Severity::Error,
        "run_exec is missing",
    ),
    (
        "    cleanup_exec = \"/usr/bin/jobcage\"\n",
        "",
        Severity::Error,
        "cleanup_exec is missing",
    ),
    (
        "run_args = [\"gitlab\", \"run\"]",
        "run_args = [\"gitlab\", \"cleanup\"]",
        Severity::Error,
        "run_args has to begin with [\"gitlab\", \"run\"]",
    ),
    (
        "run_exec = \"/usr/bin/jobcage\"",
        "run_exec = \"jobcage\"",
        Severity::Warning,
        "looked for in the runner's PATH",
    ),
    (
        "run_exec = \"/usr/bin/jobcage\"",
        "run_exec = \"/opt/run.sh\"\nrun_args2 = []",
        Severity::Ok,
        "",
    ),
    (
        "run_exec = \"/usr/bin/jobcage\"\n    run_args = [\"gitlab\", \"run\"]",
        "run_exec = \"/usr/bin/sudo\"\n    run_args = [\"/usr/bin/jobcage\", \"gitlab\", \"run\"]",
        Severity::Error,
        "is a wrapper",
    ),
    (
        "run_exec = \"/usr/bin/jobcage\"\n    run_args = [\"gitlab\", \"run\"]",
        "run_exec = \"/opt/run.sh\"",
        Severity::Error,
        "does not call jobcage gitlab run",
    ),
    (
        "  executor = \"custom\"\n",
        "  executor = \"custom\"\n  builds_dir = '/b'\n",
        Severity::Warning,
        "builds_dir = \"/b\" has no effect",
    ),
    (
        "  executor = \"custom\"\n",
        "  executor = \"docker\"\n",
        Severity::Warning,
        "no runner in it calls jobcage",
    ),
];

#[test]
fn every_pitfall_is_found_where_it_is() {
    let budgets = budgets(10, 60);
    let good = good(&budgets);
    for (old, new, severity, words) in PITFALLS {
        assert!(good.contains(old), "{old}\n{good}");
        let text = good.replacen(old, new, 1);
        let findings = found(&text, &budgets);
        let told: Vec<_> = findings.iter().map(Finding::line).collect();
        assert_eq!(findings[0].severity, severity, "{new:?}: {told:#?}");
        assert!(
            told.iter().any(|line| line.contains(words)),
            "{new:?} for {old:?}: no {words:?} in {told:#?}"
        );
    }
}

#[test]
fn a_runner_without_us_has_its_own_timeouts() {
    let findings = found("[[runners]]\nexecutor = \"shell\"\n", &budgets(10, 60));
    let told: Vec<_> = findings.iter().map(Finding::line).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("no runner in it calls jobcage"), "{told:#?}");
}

#[test]
fn timeouts_in_the_wrong_table_are_told_apart_from_missing_ones() {
    let budgets = budgets(10, 60);
    let mut text = good(&budgets);
    let keys = [
        "graceful_kill_timeout = 85",
        "force_kill_timeout = 5",
        "cleanup_exec_timeout = 85",
    ];
    for key in keys {
        text = text.replace(&format!("    {key}\n"), "");
        text = text.replace("  [runners.custom]\n", &format!("  {key}\n  [runners.custom]\n"));
    }
    let told: Vec<_> = found(&text, &budgets).iter().map(Finding::line).collect();
    assert!(
        told.len() == 3
            && told
                .iter()
                .all(|line| line.contains("stands in [[runners]], where the runner ignores it")),
        "{told:#?}"
    );
}

#[test]
fn each_runner_is_looked_at_and_called_by_its_name() {
    let budgets = budgets(10, 60);
    let text = good(&budgets).replace("\n[[runners]]\n", "\n[[runners]]\n  name = \"good\"\n")
        + "[[runners]]\nname = \"a\\u001b]0;x\\u0007\"\nexecutor = \"shell\"\ntoken = \"glrt-hunter2\"\n\
           [[runners]]\nexecutor = \"docker\\u009b\"\n";
    let findings = found(&text, &budgets);
    let told: Vec<_> = findings.iter().map(Finding::line).collect();
    assert!(findings.iter().all(|f| f.severity == Severity::Ok), "{told:#?}");
    for words in [
        "ok: runner \"good\": grace",
        "ok: runner \"a\\u{1b}]0;x\\u{7}\": its executor is \"shell\"",
        "ok: runner 3 of the file, which has no name: its executor is \"docker\\u{9b}\"",
    ] {
        assert!(
            told.iter().any(|line| line.starts_with(words)),
            "{words}: {told:#?}"
        );
    }
    assert!(!told.concat().contains("hunter2"));
}

/// A directory that is told to `gitlab config` as well is in force.
#[test]
fn a_directory_in_both_places_is_fine() {
    let budgets = budgets(10, 60);
    let text = good(&budgets)
        .replace("executor", "builds_dir = '/b'\n  executor")
        .replace(
            "[\"gitlab\", \"config\"]",
            "[\"gitlab\", \"config\", \"--builds-dir\", \"/b\"]",
        );
    assert_eq!(found(&text, &budgets)[0].severity, Severity::Ok);
    let other = text.replace("'/b'", "'/c'");
    assert_eq!(found(&other, &budgets)[0].severity, Severity::Warning);
}
