//! `jobcage gitlab template`: the block for `gitlab-runner register --template-config`.

use super::timing::{Budgets, RUNNER_WAITS, Timeouts};
use std::fmt::Write as _;
use toml_edit::{Array, Value};

/// What a block of ours says in `[runners.custom]`, in its order.
#[must_use]
pub fn custom(binary: &str, timeouts: &Timeouts, config_args: &[String]) -> Vec<(String, Value)> {
    let mut keys: Vec<(String, Value)> = Vec::new();
    for call in super::runners::CALLS {
        let more = if call == "config" { config_args } else { &[] };
        let ours = ["gitlab", call].map(str::to_owned);
        let args: Array = ours.iter().chain(more).collect();
        keys.push((format!("{call}_exec"), binary.into()));
        keys.push((format!("{call}_args"), args.into()));
    }
    for (key, seconds) in [
        ("graceful_kill_timeout", timeouts.graceful),
        ("force_kill_timeout", timeouts.force),
        ("cleanup_exec_timeout", timeouts.cleanup),
    ] {
        keys.push((key.into(), i64::try_from(seconds).unwrap_or(i64::MAX).into()));
    }
    keys
}

/// The block, and as comments what is not a block's.
#[must_use]
pub fn template(binary: &str, budgets: &Budgets) -> String {
    let timeouts = Timeouts::of(budgets);
    let mut text = format!(
        "# For gitlab-runner register --template-config FILE, which takes the block alone. The next two belong at the top of\n\
         # config.toml, before the first block, by hand; and TimeoutStopSec of the runner's unit has to be longer.\n\
         #shutdown_timeout = {}\n\
         #log_level = \"info\"\n\
         \n\
         [[runners]]\n  executor = \"custom\"\n  [runners.custom]\n",
        timeouts.shutdown
    );
    for line in reason(budgets, &timeouts) {
        let _ = writeln!(text, "    # {line}");
    }
    for (key, value) in custom(binary, &timeouts, &[]) {
        let _ = writeln!(text, "    {key} = {value}");
    }
    text
}

/// Why the timeouts are these.
fn reason(budgets: &Budgets, timeouts: &Timeouts) -> Vec<String> {
    let sum = budgets.tell();
    if budgets.fit() {
        return vec![format!("{sum} < graceful_kill_timeout < {RUNNER_WAITS} s")];
    }
    let mut lines = vec![
        format!("{sum}: more than the {RUNNER_WAITS} s that the runner waits for a job that is over."),
        format!(
            "{} s leave the after phase {} s, and what it writes later is not in the job's log;",
            timeouts.graceful,
            budgets.after_within(timeouts.graceful)
        ),
    ];
    lines.push(format!("{}.", shorten(budgets)));
    lines
}

/// What would fit where the budgets do not.
#[must_use]
pub fn shorten(budgets: &Budgets) -> String {
    // One less than the limit for the timeout, and one less for what is to be below it.
    let most = budgets.after_within(RUNNER_WAITS - 2);
    if most == 0 {
        return "a shorter grace in [run] of jobcage's config.toml would fit".into();
    }
    format!("after_timeout = \"{most}s\" or less in [run] of jobcage's config.toml would fit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitlab::install::runners;
    use std::time::Duration;

    fn budgets(grace: u64, after: u64) -> Budgets {
        Budgets {
            grace: Duration::from_secs(grace),
            after: Duration::from_secs(after),
        }
    }

    #[test]
    fn it_is_one_block_that_calls_us_directly() {
        for binary in ["/usr/bin/jobcage", "/opt/a \"b\"\\c\u{1b}/jobcage"] {
            let text = template(binary, &budgets(10, 240));
            let document = runners::parse(&text).unwrap();
            let blocks = runners::blocks(&document).unwrap();
            assert_eq!((blocks.len(), document.len()), (1, 1), "{text}");
            let custom = runners::custom(blocks[0]).unwrap();
            for call in runners::CALLS {
                assert_eq!(
                    runners::reach(custom, call),
                    runners::Reach::Direct(binary.into()),
                    "{text}"
                );
            }
            assert!(
                text.contains("\n#shutdown_timeout = 300\n") && !text.contains('\u{1b}'),
                "{text}"
            );
        }
    }

    /// The advice is followed to the letter, and then all fits; one second more, and it does not.
    #[test]
    fn where_it_cannot_fit_the_comment_tells_what_would() {
        let text = template("/usr/bin/jobcage", &budgets(10, 300));
        assert!(text.contains("    graceful_kill_timeout = 295\n"), "{text}");
        assert!(text.contains("leave the after phase 275 s"), "{text}");
        assert!(text.contains("after_timeout = \"278s\""), "{text}");
        assert!(budgets(10, 278).fit() && !budgets(10, 279).fit());
        let text = template("/usr/bin/jobcage", &budgets(400, 1));
        assert!(text.contains("shorter grace"), "{text}");
    }
}
