//! The longer texts of `--help`.

pub const RUN: &str = "Run a command in the foreground and end everything it has started.";
pub const CREATE: &str = "Make a cage for several steps and print its id.";
pub const CLEANUP: &str = "End a cage that `create` has made.";
pub const LIST: &str = "List the jobs of this host.";
pub const SHOW: &str = "Show one job.";
pub const GUESTS: &str = "List the machines that jobs have in places of their own.";
pub const STOP: &str = "Stop a job.";
pub const WAIT: &str = "Wait until jobs are over.";
pub const EXEC: &str = "Run a further command in the cage of a job.";
pub const GC: &str = "End what dead jobs have left, and remove old records.";
pub const LOGS: &str = "Print the output of a job that is captured.";
pub const ATTACH: &str = "Follow the output of a job that is captured, and end as it ends.";
pub const DOCTOR: &str = "Tell what this host gives and what is missing.";
pub const GITLAB: &str = "Be GitLab Runner's custom executor.";
pub const GITLAB_CONFIG: &str = "Tell the runner where the jobs live, as JSON.";
pub const GITLAB_PREPARE: &str = "Make the job's cage.";
pub const GITLAB_RUN: &str = "Run one stage of the job in its cage.";
pub const GITLAB_CLEANUP: &str = "End the job's cage and everything in it.";
pub const GITLAB_TEMPLATE: &str = "Print a [[runners]] block for gitlab-runner register --template-config.";
pub const GITLAB_CONVERT: &str = "Turn the shell executors of a runner's config.toml into ones of ours.";
pub const GITLAB_CHECK: &str =
    "Tell what in a runner's config.toml and on this host keeps jobs from ending well.";
pub const ENV: &str = "Hand variables on to later steps, from inside a job.";
pub const ENV_SET: &str = "Give later steps a variable.";
pub const ENV_GET: &str = "Print the value that later steps get.";
pub const ENV_UNSET: &str = "Take variables away from later steps.";
pub const ENV_LIST: &str = "Print the names of the variables that later steps get.";
pub const MAN: &str = "Write the manual pages into a directory.";
pub const COMPLETIONS: &str = "Print the completion script of a shell.";

pub const EXIT_CODES: &str = "\
Exit codes of `jobcage run`:
  the command's own code, or
  123    with --host: there is no line to the host any more, and the job may run
  124    it ran out of time
  125    jobcage itself failed, or something of the job could not be killed
  126    the command cannot be run
  127    the command was not found
  128+N  signal N ended it
`jobcage exec` has the same ones for its own command, and `jobcage wait` those of the jobs that it waited for.
`jobcage attach` has the one of its job.
The other verbs end with 0, or with 125 if they failed; `env get` with 1 if there is no such variable, and `gitlab check` with
1 if it found something to change.";

// Each paragraph is one line, so that clap can wrap it to the terminal.
pub const AFTER_RUN: &str = concat!(
    "The command has the terminal, the session and the files of jobcage itself. When it ends, whatever it has left ",
    "behind is killed. SIGTERM, SIGHUP and SIGINT to jobcage stop it: first --signal to all its processes, then ",
    "--grace, then the kill. A second signal skips the grace.\n\n",
    "`none` takes back a time or a limit that a variable or a config file sets; --login=false does so for a switch.",
    "\n\n",
    "Every option but --job, --env, --signal and those of another host is also read from a variable, such as JOBCAGE_IDLE_TIMEOUT for ",
    "--idle-timeout. Every option but --job is also a key, such as idle_timeout, of the config files ",
    "$XDG_CONFIG_HOME/jobcage/config.toml and /etc/jobcage/config.toml; JOBCAGE_CONFIG names another file instead ",
    "of these two. The command line is stronger than a variable, and a variable is stronger than a file.\n\n",
    "Exit codes:\n",
    "  the command's own code, or\n",
    "  123    with --host: there is no line to the host any more, and the job may run\n",
    "  124    it ran out of time\n",
    "  125    jobcage itself failed, or something of the job could not be killed\n",
    "  126    the command cannot be run\n",
    "  127    the command was not found\n",
    "  128+N  signal N ended it",
);

pub const AFTER_GITLAB: &str = concat!(
    "The runner makes the first four calls; template, convert and check are for an administrator. In the runner's ",
    "config.toml: executor = \"custom\", and in [runners.custom] config_exec, prepare_exec, run_exec and cleanup_exec = \"/usr/bin/jobcage\", each with its own config_args = [\"gitlab\", ",
    "\"config\"] and so on. Limits, user and times are those of [run] in jobcage's own config files.\n\n",
    "Exit codes: 0; $BUILD_FAILURE_EXIT_CODE if the job failed, with the job's code in $BUILD_EXIT_CODE_FILE; ",
    "$SYSTEM_FAILURE_EXIT_CODE if jobcage failed. Those of convert and check are told by their own --help.",
);

pub const AFTER_GITLAB_CONVERT: &str = concat!(
    "It prints what it would change as a unified difference, in which tokens, variables and comments are hidden, and changes ",
    "nothing. With --write the file is replaced as a whole, with its mode and owner, and the old one stays beside it as ",
    "config.toml.jobcage-backup. Runners that are ours already stay as they are, and those with other executors too.\n\n",
    "Exit codes: 0, or 125 if it failed; then the file is as it was.",
);

pub const AFTER_GITLAB_CHECK: &str = concat!(
    "One line for each finding: ok, skipped, warning or error, what it is about, and what to do. As root or as the build user ",
    "it also starts that user's login shell, as every stage of a job does, in a cage and for at most 10 s.\n\n",
    "Exit codes: 0 if there is neither a warning nor an error, 1 if there is, 125 if it could not look.",
);

pub const AFTER_ENV: &str = concat!(
    "It reads and writes the file that JOBCAGE_ENV names, which each step of a job of several steps has, and each ",
    "`jobcage run --after`. What stands there is in the environment of the later steps and of the after phase, but ",
    "for the variables that these get by --env. It is kept in memory and gone with the job.\n\n",
    "A script may as well write lines into it: NAME=value; or NAME<<DELIMITER, the lines of the value, DELIMITER; or ",
    "unset NAME. A directory that is written to the file that JOBCAGE_PATH names, one on a line, comes first in the ",
    "PATH of later steps.\n\n",
    "Exit codes: 0, 1 if `get` finds no such variable, 125 if it failed.",
);

pub const AFTER_CREATE: &str = concat!(
    "The cage stays until `jobcage cleanup ID`, until the process of --lease-pid ends, or until the host goes down. ",
    "Run steps in it with `jobcage run --job ID -- command`.\n\n",
    "Exit codes: 0, or 125 if it failed. The id is the only thing on standard output.",
);

pub const AFTER_WAIT: &str = concat!(
    "For each job that is over it prints a line: the id, how the job ended, and its exit code.\n\n",
    "Exit codes: that of the job; of several the first that is not 0, in the order in which they were given; with --any ",
    "that of the first that was over. 124: the time was over. 125: nobody can tell how a job ended.",
);

pub const AFTER_EXEC: &str = concat!(
    "The command runs as the job's user. Of a running job it has the environment and the directory of the main process; ",
    "of a job of `jobcage create` those of jobcage itself. It has the terminal and the files of jobcage, and dies with the ",
    "job.\n\n",
    "Exit codes: as of `jobcage run`; 137 if the job has ended meanwhile.",
);

pub const AFTER_LOGS: &str = concat!(
    "The output comes as the job wrote it, stdout to standard output and stderr, where the streams are split, to standard ",
    "error. What was dropped of the middle of a full log is told on standard error, with its size.\n\n",
    "Exit codes: 0; 1 if --verify finds a log that is not whole; 125 if it failed; 141 if standard output was closed.",
);

pub const AFTER_ATTACH: &str = concat!(
    "Any number may be attached to a job, from any byte on, and none of them slows it. It shows the command's output and ",
    "then that of the after phase. Ctrl-C ends jobcage alone (130), unless --stop-on-interrupt is given.\n\n",
    "Exit codes: the one that `jobcage run` would have had; 128+N if signal N ended jobcage and the job goes on; 141 if ",
    "standard output was closed; 125 if it failed.",
);
