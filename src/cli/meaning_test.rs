use super::super::words;
use super::*;
use crate::cli::request::{GcRequest, StopHow};
use proptest::prelude::*;

/// A call with these variables and these files, the stronger file first.
pub struct Call<'a> {
    pub variables: &'a [(&'a str, &'a str)],
    pub files: &'a [&'a str],
}

const BARE: Call<'_> = Call {
    variables: &[],
    files: &[],
};

impl Call<'_> {
    pub fn request(&self, line: &str) -> Result<(Request, Voice), String> {
        let words = line.split_whitespace().map(|word| word.replace('~', " "));
        let words =
            words::split(words.map(OsString::from)).map_err(|e| Error::usage(&e, None).to_string())?;
        let layers = Layers::for_test(self.variables, self.files).map_err(|e| e.to_string())?;
        let environ: Environ = self.variables.iter().copied().collect();
        let door = Door {
            layers: &layers,
            environ: &environ,
            euid: 0,
        };
        door.request(words).map_err(|e| e.to_string())
    }

    fn run(&self, options: &str) -> Result<RunRequest, String> {
        match self.request(&format!("jobcage run {options} -- true"))? {
            (Request::Run(run), _) => Ok(*run),
            (other, _) => panic!("{other:?}"),
        }
    }

    fn refused(&self, options: &str) -> String {
        self.run(options).expect_err("this must be refused")
    }
}

fn variables<'a>(variables: &'a [(&'a str, &'a str)]) -> Call<'a> {
    Call {
        variables,
        files: &[],
    }
}

fn files<'a>(files: &'a [&'a str]) -> Call<'a> {
    Call {
        variables: &[],
        files,
    }
}

fn new_cage(run: &RunRequest) -> &CageRequest {
    match &run.cage {
        CageChoice::New { cage, .. } => cage,
        CageChoice::Existing(id) => panic!("an existing cage {id}"),
    }
}

fn set(run: &RunRequest) -> Vec<(&str, &str)> {
    let text =
        |text: &'_ OsStr| -> &'static str { Box::leak(text.to_str().unwrap().to_owned().into_boxed_str()) };
    run.step
        .env
        .set
        .iter()
        .map(|(name, value)| (text(name), text(value.expose())))
        .collect()
}

#[test]
fn without_options_there_are_the_documented_defaults() {
    let run = BARE.run("").unwrap();
    assert_eq!(
        (run.timeout, run.idle_timeout, run.grace),
        (None, None, Duration::from_secs(10))
    );
    assert_eq!((run.signal, run.common.voice), (Signal::TERM, Voice::Normal));
    assert_eq!(new_cage(&run), &CageRequest::default());
    assert_eq!(run.common.places.runtime_dir, PathBuf::from("/run/jobcage"));
    assert_eq!(run.step.command, ["true"]);
    assert!(run.step.env.inherit && run.step.env.set.is_empty() && !run.step.env.login);
}

#[test]
fn the_command_line_beats_a_variable_and_a_variable_a_file() {
    let all = Call {
        variables: &[
            ("JOBCAGE_TIMEOUT", "2m"),
            ("JOBCAGE_MEMORY", "2M"),
            ("JOBCAGE_PIDS", ""),
        ],
        files: &[
            "[run]\ntimeout = 3\npids = 30\n",
            "[run]\ntimeout = 4\npids = 40\nswap = '4K'\n",
        ],
    };
    let run = all.run("--timeout 1m").unwrap();
    let limits = &new_cage(&run).limits;
    assert_eq!(run.timeout, Some(Duration::from_secs(60)));
    assert_eq!(limits.memory, Some(2 << 20));
    assert_eq!(
        limits.pids,
        Some(30),
        "an empty variable is not set, the first file is the stronger one"
    );
    assert_eq!(limits.swap, Some(4096));
    assert_eq!(all.run("").unwrap().timeout, Some(Duration::from_secs(120)));
}

#[test]
fn a_stronger_layer_can_take_back_what_a_weaker_one_sets() {
    let set = files(&["[run]\ntimeout = '1h'\nmemory = '1G'\nbest_effort = true\nafter = 'x'\nnice = 3\n"]);
    let run = set
        .run("--timeout none --memory none --best-effort=false --after= --nice none")
        .unwrap();
    assert_eq!(
        (run.timeout, new_cage(&run), run.step.nice),
        (None, &CageRequest::default(), None)
    );
    assert!(matches!(run.cage, CageChoice::New { after: None, .. }));
}

#[test]
fn a_wrong_value_is_an_error_in_every_layer_and_names_its_place() {
    assert!(
        BARE.refused("--memory lots")
            .starts_with("--memory: \"lots\" is no size")
    );
    let variable = variables(&[("JOBCAGE_TIMEOUT", "soon")]);
    assert!(
        variable
            .refused("--timeout 5")
            .starts_with("JOBCAGE_TIMEOUT: \"soon\" is no time")
    );
    let text = files(&["# a comment\n[run]\n\nnice = 77\n"]).refused("--nice 1");
    assert!(
        text.starts_with("file0.toml, line 4: nice: \"77\" is no niceness"),
        "{text}"
    );
}

#[test]
fn lists_add_up_and_the_stronger_wins_by_name() {
    let call = Call {
        variables: &[
            ("JOBCAGE_RLIMIT", "core=0 nofile=20"),
            ("JOBCAGE_IO", "8:0:rbps=2"),
        ],
        files: &[
            "[run]\nenv = ['A=file', 'B=file']\nrlimit = 'nofile=30'\nio = ['8:0:rbps=3,wbps=3', '8:1:wiops=3']\n",
        ],
    };
    let run = call.run("--env A=line --rlimit stack=1M --env A=last").unwrap();
    assert_eq!(set(&run), [("B", "file"), ("A", "last")]);
    let rlimits: Vec<_> = run
        .step
        .rlimits
        .iter()
        .map(|r| (r.resource.name, r.soft))
        .collect();
    assert_eq!(rlimits, [("core", 0), ("nofile", 20), ("stack", 1 << 20)]);
    let io = &new_cage(&run).limits.io;
    assert_eq!(io[0].rates, [("wbps".to_owned(), 3), ("rbps".to_owned(), 2)]);
    assert_eq!(io[1].device, "8:1");
}

#[test]
fn variables_of_the_job_are_checked_and_never_shown() {
    let call = variables(&[("PATH", "/bin"), ("EMPTY", "")]);
    assert_eq!(
        set(&call.run("--env PATH --env EMPTY --env X= --env Y=a=b").unwrap()),
        [("PATH", "/bin"), ("EMPTY", ""), ("X", ""), ("Y", "a=b")]
    );
    assert!(call.refused("--env NOT_THERE").contains("NOT_THERE is not set"));
    for bad in [
        "--env =hunter2",
        "--env my~hunter2",
        "--env my~x=hunter2",
        "--env JOBCAGE_JOB=hunter2",
    ] {
        let text = call.refused(bad);
        assert!(text.starts_with("--env: ") && !text.contains("hunter2"), "{text}");
    }
    let file = files(&["[run]\nenv = ['NOT_THERE', 'A=1']\n"]);
    assert_eq!(set(&file.run("").unwrap()), [("A", "1")]);
    let debug = format!("{:?}", call.run("--env A=hunter2 --after hunter2").unwrap());
    assert!(!debug.contains("hunter2"), "{debug}");
}

#[test]
fn what_jobcage_sets_for_a_job_is_no_option() {
    let inside = variables(&[
        ("JOBCAGE_JOB", "outer-00000000"),
        ("JOBCAGE_SIGNAL", "9"),
        ("JOBCAGE_ENV", "A=1"),
        ("JOBCAGE_VM_KERNEL", "6.1"),
    ]);
    assert_eq!(inside.run("").unwrap(), BARE.run("").unwrap());
    assert!(
        Layers::for_test(inside.variables, &[])
            .unwrap()
            .unknown
            .is_empty()
    );
}

#[test]
fn a_job_inherits_all_but_the_options_of_this_call() {
    let environ: Environ = [
        ("A", "1"),
        ("JOBCAGE_AFTER", "x"),
        ("JOBCAGE_CGROUP_ROOT", "/c"),
        ("JOBCAGE_X", "2"),
        ("JOBCAGE_LEASE_PID", "3"),
    ]
    .into_iter()
    .collect();
    let mut run = BARE.run("").unwrap();
    inherit(&mut run, environ.clone());
    let names: Vec<_> = run
        .step
        .env
        .inherited
        .iter()
        .map(|(name, _)| name.to_str().unwrap())
        .collect();
    assert_eq!(names, ["A", "JOBCAGE_CGROUP_ROOT", "JOBCAGE_X"]);
    let mut cleared = BARE.run("--clear-env").unwrap();
    inherit(&mut cleared, environ);
    assert!(cleared.step.env.inherited.is_empty());
}

#[test]
fn a_step_of_an_existing_cage_takes_no_settings_of_a_new_one() {
    let call = Call {
        variables: &[("JOBCAGE_MEMORY", "1G")],
        files: &["[run]\nafter = 'x'\ntimeout = 5\n"],
    };
    let run = call.run("--job ci-00000000").unwrap();
    assert_eq!(run.cage, CageChoice::Existing("ci-00000000".parse().unwrap()));
    assert_eq!(run.timeout, Some(Duration::from_secs(5)));
    for option in [
        "--name x",
        "--memory 1G",
        "--io 8:0:rbps=1",
        "--after x",
        "--after-timeout 1",
        "--best-effort",
    ] {
        let text = call.refused(&format!("--job ci-00000000 {option}"));
        assert!(
            text.contains("--job does not go with") || text.contains("does not go with --job"),
            "{text}"
        );
    }
    assert!(
        call.refused("--job ../x")
            .starts_with("--job: \"../x\" is no job id")
    );
}

#[test]
fn the_voice_of_the_stronger_layer_holds() {
    let voice = |call: &Call<'_>, options| call.run(options).map(|run| run.common.voice);
    let loud = variables(&[("JOBCAGE_VERBOSE", "1")]);
    assert_eq!(voice(&loud, ""), Ok(Voice::Verbose));
    assert_eq!(voice(&loud, "-q"), Ok(Voice::Quiet));
    assert_eq!(voice(&loud, "--verbose=no"), Ok(Voice::Normal));
    let both = files(&["quiet = true\nverbose = true\n"]);
    assert!(voice(&both, "").unwrap_err().contains("both are set"));
    assert_eq!(voice(&both, "-v"), Ok(Voice::Verbose));
    assert!(voice(&BARE, "-q -v").unwrap_err().contains("does not go with"));
}

#[test]
fn the_other_verbs_have_their_own_requests() {
    let of = |line: &str| BARE.request(line).map(|(request, _)| request);
    let Ok(Request::Create(create)) = of("jobcage create --lease-pid 42 --memory 1G --user ci") else {
        panic!("no create")
    };
    assert_eq!(
        (create.lease_pid, create.cage.limits.memory),
        (Some(42), Some(1 << 30))
    );
    let Ok(Request::Stop(stop)) = of("jobcage stop a-b --now --json") else {
        panic!("no stop")
    };
    assert_eq!((stop.how, stop.json), (StopHow::Now, true));
    let Ok(Request::Stop(stop)) = of("jobcage stop a-b --signal int") else {
        panic!("no stop")
    };
    let how = StopHow::Polite {
        signal: Some("2".parse().unwrap()),
        grace: None,
    };
    assert_eq!(stop.how, how);
    assert!(
        of("jobcage stop a-b --signal int --now")
            .unwrap_err()
            .contains("does not go with")
    );
    assert!(
        of("jobcage create --timeout 5")
            .unwrap_err()
            .contains("unknown option --timeout")
    );
    assert!(matches!(
        of("jobcage list --json"),
        Ok(Request::List(ListRequest { json: true, .. }))
    ));
    assert!(matches!(
        of("jobcage gc"),
        Ok(Request::Gc(GcRequest { json: false, .. }))
    ));
    assert!(matches!(of("jobcage doctor"), Ok(Request::Doctor(_))));
    let broken = files(&["[run]\nnice = 99\n"]);
    assert!(broken.request("jobcage doctor").is_err() && broken.request("jobcage gc").is_ok());
    assert!(matches!(
        of("jobcage show x --json"),
        Ok(Request::Show(ShowRequest { json: true, .. }))
    ));
    let Ok(Request::Cleanup(cleanup)) = variables(&[("JOBCAGE_REPORT", "r.json")])
        .request("jobcage cleanup x")
        .map(|(request, _)| request)
    else {
        panic!("no cleanup")
    };
    assert_eq!(cleanup.report, Some("r.json".into()));
}

#[test]
fn a_user_has_directories_of_their_own() {
    let layers = Layers::default();
    let places = |vars: &[(&str, &str)]| {
        let environ = vars.iter().copied().collect();
        let door = Door {
            layers: &layers,
            environ: &environ,
            euid: 1000,
        };
        (door.default_runtime_dir(), door.default_state_dir())
    };
    let path = PathBuf::from;
    let xdg = [
        ("XDG_RUNTIME_DIR", "/run/user/7"),
        ("XDG_STATE_HOME", "/state"),
        ("HOME", "/home/a"),
    ];
    assert_eq!(
        places(&xdg),
        (path("/run/user/7/jobcage"), path("/state/jobcage"))
    );
    let home = [("HOME", "/home/a"), ("XDG_STATE_HOME", "relative")];
    assert_eq!(
        places(&home),
        (
            path("/run/user/1000/jobcage"),
            path("/home/a/.local/state/jobcage")
        )
    );
    assert_eq!(places(&[]).1, path("/run/user/1000/jobcage/state"));
}

proptest! {
    #[test]
    fn whichever_layers_speak_the_strongest_is_heard(line: bool, variable: bool, user: bool, host: bool) {
        let vars: &[_] = if variable { &[("JOBCAGE_GRACE", "2")] } else { &[] };
        let texts = [if user { "[run]\ngrace = 3" } else { "" }, if host { "[run]\ngrace = 4" } else { "" }];
        let call = Call { variables: vars, files: &texts };
        let run = call.run(if line { "--grace 1" } else { "" }).unwrap();
        let heard = [line, variable, user, host].iter().position(|speaks| *speaks).map_or(10, |at| at as u64 + 1);
        prop_assert_eq!(run.grace, Duration::from_secs(heard));
    }

    #[test]
    fn no_value_of_a_variable_is_ever_shown(name in "[A-Z ]{0,3}", value in "[a-z]{12}") {
        let given = format!("--env={}={value}", name.replace(' ', "~"));
        if let Err(text) = BARE.run(&given) {
            prop_assert!(!text.contains(&value), "{}", text);
        }
    }
}

#[test]
fn a_key_asks_for_an_agent_unless_there_is_to_be_none() {
    let agent = |call: &Call<'_>, options: &str| {
        let keys = new_cage(&call.run(options).unwrap()).ssh_agent.clone();
        keys.map(|keys| {
            keys.iter()
                .map(|key| key.display().to_string())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(agent(&BARE, ""), None);
    assert_eq!(agent(&BARE, "--ssh-agent"), Some(Vec::new()));
    assert_eq!(
        agent(&BARE, "--ssh-key a --ssh-key -"),
        Some(vec!["a".into(), "-".into()])
    );
    assert_eq!(agent(&BARE, "--ssh-key a --ssh-agent=false"), None);
    let host = files(&["[run]\nssh_key = ['a', 'b']\n"]);
    assert_eq!(agent(&host, "--ssh-key a"), Some(vec!["a".into(), "b".into()]));
    assert_eq!(agent(&host, "--ssh-agent=no"), None);
    assert!(BARE.refused("--ssh-key=").contains("ssh-key"));
    let many = "--ssh-key x".to_owned();
    let many: Vec<String> = (0..33).map(|n| format!("{many}{n}")).collect();
    assert!(BARE.refused(&many.join(" ")).contains("at most 32"));
    // Its cage has one, or has none.
    let told = BARE.refused("--job main-00000000 --ssh-key a");
    assert!(told.contains("--job") && told.contains("--ssh-key"), "{told}");
    assert!(host.run("--job main-00000000").is_ok());
}

#[test]
fn a_hook_is_the_command_of_one_place() {
    let hook = |call: &Call<'_>, options: &str| {
        let run = call.run(options).unwrap();
        new_cage(&run).guest_hook.clone()
    };
    assert_eq!(hook(&BARE, ""), [""; 0]);
    let given = "--guest-hook /b --guest-hook=--all";
    assert_eq!(hook(&BARE, given), ["/b", "--all"]);
    let host = files(&["[run]\nguest_hook = ['/a', 'x y']\n"]);
    assert_eq!(hook(&host, ""), ["/a", "x y"]);
    assert_eq!(hook(&host, given), ["/b", "--all"]);
    assert_eq!(hook(&host, "--guest-hook none"), [""; 0]);
    let variable = Call {
        variables: &[("JOBCAGE_GUEST_HOOK", "/c z")],
        ..host
    };
    assert_eq!(hook(&variable, ""), ["/c", "z"]);
    for wrong in ["--guest-hook hook", "--guest-hook none --guest-hook /a"] {
        assert!(BARE.refused(wrong).contains("no absolute path"), "{wrong}");
    }
    let told = BARE.refused("--job main-00000000 --guest-hook /a");
    assert!(told.contains("--job") && told.contains("--guest-hook"), "{told}");
}

#[test]
fn names_to_spare_are_programs() {
    let spare = |options: &str| BARE.run(options).unwrap().spare;
    assert_eq!(spare(""), ["ssh-agent", "gpg-agent"]);
    assert_eq!(spare("--spare a,b"), ["a", "b"]);
    assert_eq!(spare("--spare none"), [""; 0]);
    for wrong in ["/usr/bin/ssh-agent", "a,,b", "a,"] {
        assert!(
            BARE.refused(&format!("--spare {wrong}"))
                .contains("no name of a program"),
            "{wrong}"
        );
    }
}
