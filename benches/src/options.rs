//! What the command line says.

use crate::Result;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Shown by `--help` and after a wrong word.
pub const USAGE: &str = "\
jobcage-bench: measures jobcage, a bare program of our own (floor) and its peers side by side

  --rounds N         rounds of every case (default: each case its own number)
  --smoke            tiny numbers: proves that every case still runs, measures nothing
  --only CASE        one case (repeat): launch spaced calls end bombs memory many rootless
                     detach detached-memory output slow-reader latency detached-many
                     driver, or a measure of docs/performance.md: L1 L2 L3 L4 K1 K2 K3 M1 S1 S2
                     D1 D2 D3 D4 D5 G1
  --seed N           of the order within the rounds (default: from the clock; always printed)
  --json FILE        every sample, for other programs
  --markdown         the tables as they stand in docs/performance.md
  --jobcage FILE     the binary to measure (default: beside this program)
  --without-jobcage  only floor and peers
  --cgroup-root DIR  make the benchmark's one cgroup below DIR (default: the cgroup we are in)
  --helpers DIR      compiled helpers (default: compile them with cc into target/bench-helpers)
  --temp DIR         where the benchmark's temporary directory is made (default: $TMPDIR or /tmp)
";

/// The options, parsed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--rounds`.
    pub rounds: Option<usize>,
    /// `--smoke`.
    pub smoke: bool,
    /// `--only`, lower case.
    pub only: Vec<String>,
    /// `--seed`.
    pub seed: u64,
    /// `--json`.
    pub json: Option<PathBuf>,
    /// `--markdown`.
    pub markdown: bool,
    /// `--jobcage`.
    pub jobcage: Option<PathBuf>,
    /// `--without-jobcage`.
    pub without_jobcage: bool,
    /// `--cgroup-root`.
    pub cgroup_root: Option<PathBuf>,
    /// `--helpers`.
    pub helpers: Option<PathBuf>,
    /// `--temp`.
    pub temp: Option<PathBuf>,
    /// `--worker`: started by ourselves as another user; waits for a line on standard input before it begins.
    pub worker: bool,
    /// `--inner PID`: the one that measures; PID is of the one that cleans up.
    pub inner: Option<u32>,
    /// `--help`.
    pub help: bool,
}

impl Options {
    /// Reads the command line.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut options = Self {
            seed: clock.as_secs(),
            ..Self::default()
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--rounds" => options.rounds = Some(number(&arg, &value()?)?.max(1)),
                "--smoke" => options.smoke = true,
                "--only" => options.only.push(value()?.to_lowercase()),
                "--seed" => options.seed = number(&arg, &value()?)? as u64,
                "--json" => options.json = Some(value()?.into()),
                "--markdown" => options.markdown = true,
                "--jobcage" => options.jobcage = Some(value()?.into()),
                "--without-jobcage" => options.without_jobcage = true,
                "--cgroup-root" => options.cgroup_root = Some(value()?.into()),
                "--helpers" => options.helpers = Some(value()?.into()),
                "--temp" => options.temp = Some(value()?.into()),
                "--inner" => options.inner = Some(u32::try_from(number(&arg, &value()?)?)?),
                "--worker" => options.worker = true,
                // `cargo bench` adds it.
                "--bench" => {}
                "-h" | "--help" => options.help = true,
                other => return Err(format!("no such option: {other}").into()),
            }
        }
        Ok(options)
    }

    /// The rounds of a case.
    #[must_use]
    pub fn rounds(&self, full: usize) -> usize {
        self.rounds.unwrap_or(if self.smoke { 2 } else { full })
    }

    /// How many processes or jobs a case has.
    #[must_use]
    pub fn size(&self, full: usize, smoke: usize) -> usize {
        if self.smoke { smoke } else { full }
    }
}

fn number(option: &str, text: &str) -> Result<usize> {
    text.parse()
        .map_err(|_| format!("{option}: not a number: {text:?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn rounds_and_sizes_follow_smoke_and_rounds() {
        let smoke = parse("--smoke").expect("valid");
        assert_eq!((smoke.rounds(40), smoke.size(1000, 10)), (2, 10));
        let both = parse("--smoke --rounds 3").expect("valid");
        assert_eq!((both.rounds(40), both.size(1000, 10)), (3, 10));
        assert_eq!(parse("").expect("valid").rounds(40), 40);
    }

    #[test]
    fn a_wrong_word_is_named() {
        assert!(
            parse("--fast")
                .expect_err("unknown")
                .to_string()
                .contains("--fast")
        );
        assert!(
            parse("--rounds many")
                .expect_err("no number")
                .to_string()
                .contains("many")
        );
        assert!(
            parse("--seed")
                .expect_err("no value")
                .to_string()
                .contains("--seed")
        );
    }
}
