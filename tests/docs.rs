//! The documentation says what the program does: its examples are run, its keys are compared with the types, and the
//! files that it names are there.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::programs;
use support::world::World;

mod documented;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, by its path from the repository's root.
fn pages() -> Vec<(String, String)> {
    let mut found: Vec<PathBuf> = Vec::new();
    for dir in ["", "docs", "docs/adr", "tests", "tests/zoo", "tests/vm"] {
        let listed = fs::read_dir(repository().join(dir)).unwrap();
        found.extend(listed.map(|entry| entry.unwrap().path()));
    }
    found.retain(|path| path.extension().is_some_and(|end| end == "md"));
    found.sort();
    let name = |path: &Path| path.strip_prefix(repository()).unwrap().display().to_string();
    found
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// One `$ command` of a `console` block, what it prints, and its exit code (`? N`, 0 where nothing stands).
#[derive(Debug)]
struct Example {
    place: String,
    command: String,
    output: Vec<String>,
    code: i32,
}

/// The examples of one page, block by block.
fn examples(page: &str, text: &str) -> Vec<Vec<Example>> {
    let mut blocks: Vec<Vec<Example>> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
            if inside {
                blocks.push(Vec::new());
            }
            continue;
        }
        let Some(block) = blocks.last_mut().filter(|_| inside) else {
            continue;
        };
        if let Some(command) = line.strip_prefix("$ ") {
            block.push(Example {
                place: format!("{page}:{}", number + 1),
                command: command.into(),
                output: Vec::new(),
                code: 0,
            });
            continue;
        }
        let example = block
            .last_mut()
            .unwrap_or_else(|| panic!("{page}:{}: output of no command", number + 1));
        match line.strip_prefix("? ") {
            Some(code) => example.code = code.parse().unwrap(),
            None => example.output.push(line.into()),
        }
    }
    blocks
}

/// Whether the lines are as shown: `...` stands for any lines, `[..]` for anything within a line.
fn matches(shown: &[String], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "..." => (0..=lines.len()).any(|n| matches(rest, &lines[n..])),
        Some((one, rest)) => lines
            .split_first()
            .is_some_and(|(line, more)| line_matches(one, line) && matches(rest, more)),
    }
}

fn line_matches(shown: &str, line: &str) -> bool {
    match shown.split_once("[..]") {
        None => shown == line,
        Some((head, rest)) => line.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| line_matches(rest, &tail[at..]))
        }),
    }
}

/// Runs an example; what differs from what the page shows.
fn difference(world: &World, example: &Example) -> Option<String> {
    let beside = programs::jobcage().parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([beside].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let output = world
        .command("sh")
        .args(["-c", "exec 2>&1; eval \"$1\"", "sh", &example.command])
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    let code = output.status.code();
    (code != Some(example.code) || !matches(&example.output, &lines)).then(|| {
        let Example {
            place,
            command,
            output: shown,
            code: wanted,
        } = example;
        format!(
            "{place}: $ {command}\nshown, with {wanted}:\n{}\nseen, with {code:?}:\n{text}",
            shown.join("\n")
        )
    })
}

#[test]
fn every_example_does_what_its_page_shows() {
    let mut differences = Vec::new();
    let mut count = 0;
    for (page, text) in pages() {
        for block in examples(&page, &text) {
            let mut world = World::new("example");
            for example in &block {
                world.phase(&example.place);
                count += 1;
                differences.extend(difference(&world, example));
            }
            world.assert_nothing_left();
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    assert!(count > 10, "only {count} examples were found");
}

#[test]
fn the_comparison_tells_right_from_wrong() {
    let shown = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(matches(&shown("a [..] c\n...\nz"), &["a b c", "x", "y", "z"]));
    assert!(matches(&shown("...\nz"), &["z"]));
    assert!(!matches(&shown("a [..] c"), &["a b d"]));
    assert!(!matches(&shown("a"), &["a", "b"]));
    assert!(!matches(&shown("a\nb"), &["a"]));
}

#[test]
fn every_file_that_a_page_names_is_there() {
    const OURS: [&str; 8] = [
        "docs/",
        "tests/",
        "src/",
        "crates/",
        "examples/",
        "packaging/",
        "benches/",
        ".ci/",
    ];
    let mut missing = Vec::new();
    for (page, text) in pages() {
        // Code in a line stands between backticks, so every other piece is code.
        for word in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let ours = OURS.iter().any(|dir| word.starts_with(dir)) || word.ends_with(".md");
            let plain = !word.contains(|c: char| c.is_whitespace() || "*<>{}…:".contains(c));
            let beside = Path::new(&page).parent().unwrap().join(word);
            if ours && plain && !repository().join(word).exists() && !repository().join(beside).exists() {
                missing.push(format!("{page}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The first cells of the rows of a page's tables, where these are code.
fn documented_keys(page: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(repository().join(page)).unwrap();
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    text.lines().filter_map(cell).collect()
}

#[test]
fn every_key_of_the_report_is_documented() {
    let keys = documented::keys_of_the_report();
    let page = documented_keys("docs/outcomes.md");
    let missing: Vec<_> = keys.difference(&page).collect();
    assert!(missing.is_empty(), "docs/outcomes.md lacks {missing:#?}");
    let first = "version".to_owned();
    assert!(keys.contains(&first));
    // The table of the report is the one with dots and brackets, and the top keys; other tables hold words.
    let words: BTreeSet<String> = documented::words().into_iter().chain(keys).collect();
    let stale: Vec<_> = page.difference(&words).collect();
    assert!(
        stale.is_empty(),
        "docs/outcomes.md documents what there is not: {stale:#?}"
    );
}

#[test]
fn every_key_of_a_spec_and_of_a_request_is_documented() {
    let page = documented_keys("docs/state-on-disk.md");
    let missing: Vec<_> = documented::keys_of_a_spec()
        .into_iter()
        .chain(documented::keys_of_a_stop())
        .filter(|key| !page.contains(key))
        .collect();
    assert!(missing.is_empty(), "docs/state-on-disk.md lacks {missing:#?}");
}

#[test]
fn every_dependency_has_its_line() {
    let page = fs::read_to_string(repository().join("docs/dependencies.md")).unwrap();
    let used = page.split("## Not used").next().unwrap();
    let crates = fs::read_dir(repository().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let homes = [repository().to_owned(), repository().join("benches")];
    let mut missing = BTreeSet::new();
    for home in crates.chain(homes) {
        let manifest = fs::read_to_string(home.join("Cargo.toml")).unwrap();
        let mut wanted = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                wanted = line.ends_with("dependencies]") && !line.contains("workspace");
            }
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let foreign =
                wanted && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.starts_with("jobcage-");
            if foreign && !used.contains(&format!("`{name}`")) {
                missing.insert(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "docs/dependencies.md lacks {missing:?}");
}
