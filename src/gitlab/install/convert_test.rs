//! Configurations as runners have them, converted.

use super::*;
use crate::gitlab::install::check::{Severity, of_the_file};
use crate::gitlab::install::timing::Budgets;
use proptest::prelude::*;
use std::time::Duration;

const BUDGETS: Budgets = Budgets {
    grace: Duration::from_secs(10),
    after: Duration::from_secs(60),
};

fn wanted(name: Option<&str>) -> Wanted<'_> {
    Wanted {
        binary: "/usr/bin/jobcage",
        timeouts: Timeouts::of(&BUDGETS),
        name,
    }
}

fn converted(text: &str) -> Converted {
    convert(text, &wanted(None)).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What a conversion adds to a block, but for the words of `config_args`.
fn block(config_args: &str) -> String {
    format!(
        r#"  [runners.custom]
    config_exec = "/usr/bin/jobcage"
    config_args = ["gitlab", "config"{config_args}]
    prepare_exec = "/usr/bin/jobcage"
    prepare_args = ["gitlab", "prepare"]
    run_exec = "/usr/bin/jobcage"
    run_args = ["gitlab", "run"]
    cleanup_exec = "/usr/bin/jobcage"
    cleanup_args = ["gitlab", "cleanup"]
    graceful_kill_timeout = 85
    force_kill_timeout = 5
    cleanup_exec_timeout = 85
"#
    )
}

/// As `gitlab-runner register` and the hands of three administrators leave it.
const USUAL: &str = r#"# ours since 2019
concurrent = 4   # one for each core
check_interval = 0

[session_server]
  session_timeout = 1800

[[runners]]
  name = "build-1"
  url = "https://gitlab.example.com/"
  id = 7
  token = "glrt-aaaa"
  token_obtained_at = 2024-02-29T00:00:00Z
"#;

#[test]
fn a_usual_file_keeps_all_but_what_has_to_change() {
    let before = USUAL;
    let rest = r#"  executor = "shell" # as ever
  environment = [
    "A=1", # first
    "B=2",
  ]

  # Caches are on the second disk.
  [runners.cache]
    MaxUploadedArchiveSize = 0

# the end of the first one
[[runners]]
  name = "docker"
  executor = "docker"
  [runners.docker]
    image = "debian"
"#;
    let converted = converted(&format!("{before}{rest}"));
    let expected = format!("{before}{rest}")
        .replace(
            "check_interval = 0\n",
            "check_interval = 0\nshutdown_timeout = 120\n",
        )
        .replace(
            "executor = \"shell\" # as ever",
            "executor = \"custom\" # as ever",
        )
        .replace(
            "MaxUploadedArchiveSize = 0\n",
            &format!("MaxUploadedArchiveSize = 0\n{}", block("")),
        );
    assert_eq!(converted.text, expected);
    let fates: Vec<_> = converted.fates.iter().map(|(_, fate)| fate.clone()).collect();
    assert_eq!(fates, [Fate::Converted, Fate::Other("\"docker\"".into())]);
    assert_eq!(converted.fates[0].0, "runner \"build-1\"");
}

#[test]
fn the_directories_of_the_block_are_told_to_our_own_config() {
    let text =
        "[[runners]]\n  executor = 'shell'\n  builds_dir = '/srv/builds'\n  cache_dir = \"/srv/ca\\\"che\"\n";
    let converted = converted(text);
    let words = r#", "--builds-dir", "/srv/builds", "--cache-dir", '/srv/ca"che'"#;
    let expected = format!("shutdown_timeout = 120\n{text}{}", block(words)).replace("'shell'", "\"custom\"");
    assert_eq!(converted.text, expected);
}

#[test]
fn blocks_are_converted_however_they_are_written() {
    for text in [
        "runners = [{name = 'a', executor = 'shell', cache = {Type = 's3'}}] # inline\n",
        "[[runners]]\nexecutor = 'shell'\ncustom.run_exec = '/old'\ncustom.x = 1 # dotted\n",
        "[[runners]]\nexecutor = 'shell'\n[runners.custom]\n  graceful_kill_timeout = 9 # mine\n  other = 'x'\n[runners.cache]\n",
        "[[runners]]\nexecutor = 'shell'\n[other]\nx = 1\n[runners.cache]\ny = 2\n[last]\n",
        "[[runners]]\nexecutor = 'shell'",
        "\u{feff}[[runners]]\nexecutor = 'shell'\n",
    ] {
        let after = converted(text);
        assert!(after.any(), "{text}");
        let again = converted(&after.text);
        assert_eq!(
            (again.text.as_str(), again.any()),
            (after.text.as_str(), false),
            "{text}"
        );
        assert_passes(&after.text);
        assert_keeps(text, &after.text);
        for comment in ["# inline", "# dotted", "# mine"] {
            assert_eq!(
                text.contains(comment),
                after.text.contains(comment),
                "{}",
                after.text
            );
        }
    }
}

#[test]
fn what_cannot_be_ours_stays_and_says_why() {
    for (line, why) in [
        (
            "builds_dir = 'builds'",
            "its builds_dir \"builds\" is no absolute path",
        ),
        ("cache_dir = '$HOME/c'", "its cache_dir \"$HOME/c\""),
        ("shell = 'pwsh'", "its shell is \"pwsh\""),
    ] {
        let text = format!("[[runners]]\nexecutor = 'shell'\n{line}\n");
        let converted = converted(&text);
        assert_eq!(converted.text, text);
        let [(_, Fate::Kept(told))] = &converted.fates[..] else {
            panic!("{:?}", converted.fates)
        };
        assert!(told.contains(why), "{told}");
    }
    for text in [
        "",
        "# nothing\n",
        "concurrent = 1\n",
        "[[runners]]\n",
        "[[runners]]\nexecutor = 1\n",
    ] {
        let converted = converted(text);
        assert!(!converted.any() && converted.text == text, "{text}");
    }
    for text in [
        "[[runners]\n",
        "runners = 1\n",
        "\u{0}",
        "[[runners]]\nexecutor = 'shell\n",
    ] {
        assert!(convert(text, &wanted(None)).is_err(), "{text:?}");
    }
}

#[test]
fn one_runner_is_converted_by_its_name() {
    let text = "[[runners]]\nname = 'a'\nexecutor = 'shell'\n[[runners]]\nname = 'b\\n'\nexecutor = 'shell'\n\
                [[runners]]\nname = \"b\\u001b[m\"\nexecutor = 'shell'\n";
    let converted = convert(text, &wanted(Some("b\u{1b}[m"))).unwrap();
    let fates: Vec<_> = converted.fates.iter().map(|(_, fate)| fate.clone()).collect();
    assert_eq!(fates, [Fate::NotAsked, Fate::NotAsked, Fate::Converted]);
    assert_eq!(converted.text.matches("'shell'").count(), 2);
    let missing = convert(text, &wanted(Some("c\u{1b}[m"))).unwrap_err().to_string();
    assert!(missing.contains("\"c\\u{1b}[m\""), "{missing}");
}

#[test]
fn a_shutdown_timeout_is_raised_and_never_lowered() {
    for (set, after) in [
        ("shutdown_timeout = 20 # short", "shutdown_timeout = 120 # short"),
        ("shutdown_timeout = 0", "shutdown_timeout = 120"),
        ("shutdown_timeout = 900", "shutdown_timeout = 900"),
        ("shutdown_timeout = 'x'", "shutdown_timeout = 120"),
    ] {
        let text = format!("{set}\n[[runners]]\nexecutor = 'shell'\n");
        let converted = converted(&text);
        assert_eq!(converted.text.lines().next(), Some(after));
    }
}

#[test]
fn line_ends_of_another_system_stay() {
    let text = "concurrent = 1\r\n[[runners]]\r\n  executor = \"shell\"\r\n";
    let after = converted(text).text;
    assert_eq!(after.matches('\n').count(), after.matches("\r\n").count());
    assert_passes(&after);
}

#[test]
fn a_large_file_is_no_matter() {
    let mut text = String::from("concurrent = 1\n");
    for number in 0..10_000 {
        text += &format!(
            "# the {number}th, and a comment that is as long as those are\n[[runners]]\n  name = \"r{number}\"\n  executor = \
             \"shell\"\n"
        );
    }
    assert!(text.len() > 1 << 20);
    let after = converted(&text);
    assert_eq!(after.text.matches("[runners.custom]").count(), 10_000);
    assert_eq!(after.text.matches("th, and a comment").count(), 10_000);
}

/// Check has nothing against it.
#[track_caller]
fn assert_passes(text: &str) {
    let findings = of_the_file(&runners::parse(text).unwrap(), &BUDGETS).unwrap();
    let bad: Vec<_> = findings
        .iter()
        .filter(|f| f.severity > Severity::Skipped)
        .collect();
    assert!(bad.is_empty(), "{bad:?}\n{text}");
}

/// Every value that a conversion may not touch is the same.
#[track_caller]
fn assert_keeps(before: &str, after: &str) {
    let rest = |text: &str| {
        let mut table: toml::Table = text.trim_start_matches('\u{feff}').parse().unwrap();
        table.remove("shutdown_timeout");
        for runner in table
            .get_mut("runners")
            .and_then(toml::Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let runner = runner.as_table_mut().unwrap();
            let is_changed = ["shell", "custom"]
                .map(|e| runner.get("executor") == Some(&e.into()))
                .contains(&true);
            if !is_changed {
                continue;
            }
            runner.remove("executor");
            let custom = runner
                .entry("custom")
                .or_insert_with(|| toml::Table::new().into());
            let ours = template::custom("", &Timeouts::of(&BUDGETS), &[]);
            for (key, _) in ours {
                custom.as_table_mut().unwrap().remove(&key);
            }
        }
        table
    };
    assert_eq!(rest(before), rest(after), "{before}\n{after}");
}

/// A file of several runners: what stands in one, in any order.
fn configuration() -> impl Strategy<Value = String> {
    let blank = prop_oneof![Just(""), Just("\n"), Just("  # a comment\n"), Just("\t")];
    let line = prop_oneof![
        Just("concurrent = 4\n"),
        Just("check_interval = 0 # often\n"),
        Just("log_level = \"info\"\n"),
        Just("shutdown_timeout = 30\n"),
        Just("connection_max_age = \"15m0s\"\n"),
    ];
    let key = prop_oneof![
        Just("  url = 'https://x/'\n"),
        Just("  token = \"t\" # secret\n"),
        Just("  environment = [\"A=1\",\n # in a list\n \"B=2\"]\n"),
        Just("  builds_dir = \"/srv/builds\"\n"),
        Just("  cache_dir = ''\n"),
        Just("  shell = \"bash\"\n"),
        Just("  pre_build_script = '''\n[[runners]]\nexecutor = \"shell\"\n'''\n"),
        Just("  feature_flags = { FF_X = true }\n"),
        Just("  custom.graceful_kill_timeout = 1\n"),
        Just("  \"od#d\" . k = 1\n"),
    ];
    let table = prop_oneof![
        Just("  [runners.cache]\n    Type = \"s3\"\n"),
        Just("[runners.docker]\nimage = 'x'\n"),
        Just("  [runners.machine.sub]\n    a = 1\n  # behind it\n"),
        Just("[session_server]\n  session_timeout = 1800\n"),
    ];
    let executor = prop_oneof![3 => Just("shell"), 1 => Just("docker"), 1 => Just("custom")];
    let block = (
        blank.clone(),
        executor,
        proptest::collection::hash_set(key, 0..5),
        proptest::collection::hash_set(table, 0..3),
        blank,
    )
        .prop_map(|(before, executor, keys, tables, between)| {
            let keys: String = keys.into_iter().collect();
            let tables: String = tables.into_iter().collect();
            format!("{before}[[runners]]\n{keys}  executor = \"{executor}\" # e\n{between}{tables}")
        });
    (
        proptest::collection::hash_set(line, 0..5),
        proptest::collection::vec(block, 1..4),
    )
        .prop_map(|(top, blocks)| {
            let top: String = top.into_iter().collect();
            let mut text = top;
            // A table of the top may stand there once.
            for block in blocks {
                let again = text.contains("[session_server]");
                let section = "[session_server]\n  session_timeout = 1800\n";
                text += &if again { block.replace(section, "") } else { block };
            }
            text
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn conversion_keeps_the_rest_happens_once_and_passes_the_check(text in configuration()) {
        // A choice that repeats a key is no configuration.
        prop_assume!(runners::parse(&text).is_ok());
        let after = converted(&text);
        let again = converted(&after.text);
        prop_assert_eq!(&again.text, &after.text);
        prop_assert!(!again.any());
        assert_keeps(&text, &after.text);
        let comments = |text: &str| {
            let mut found: Vec<_> = text.lines().filter_map(|line| line.split_once('#')).map(|(_, c)| c.to_owned()).collect();
            found.sort();
            found
        };
        prop_assert_eq!(comments(&text), comments(&after.text));
        if after.any() {
            assert_passes(&after.text);
        } else {
            prop_assert_eq!(&text, &after.text);
        }
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]='\",{}#\n .a-z0-9]{0,60}", before: bool) {
        let block = "[[runners]]\nexecutor = 'shell'\n";
        let text = if before { format!("{block}{text}") } else { format!("{text}{block}") };
        if let Ok(after) = convert(&text, &wanted(None)) {
            prop_assert!(convert(&after.text, &wanted(None)).is_ok(), "{}\n{}", text, after.text);
        }
    }
}
