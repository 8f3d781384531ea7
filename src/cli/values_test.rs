use super::*;
use proptest::prelude::*;

#[test]
fn signals_by_name_and_number() {
    for (text, number) in [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("term", 15),
        ("15", 15),
        ("SIGHUP", 1),
        ("sys", 31),
        ("USR2", 12),
        ("WINCH", 28),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("64", 64),
    ] {
        assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(number), "{text}");
    }
    for bad in [
        "",
        "SIG",
        "0",
        "65",
        "-1",
        "+1",
        "SIG15",
        "TERMINATE",
        "RTMIN+31",
        "RTMIN-1",
        "RTMIN+",
        "RTMIN++1",
    ] {
        assert!(bad.parse::<Signal>().is_err(), "{bad}");
    }
    assert_eq!(Signal::TERM.to_string(), "SIGTERM");
    assert_eq!("40".parse::<Signal>().unwrap().to_string(), "signal 40");
}

#[test]
fn rlimits_in_each_spelling_and_unit() {
    let (nofile, core, cpu, unlimited) = (7, 4, 0, Rlimit::UNLIMITED);
    for (text, number, soft, hard) in [
        ("nofile=1024", nofile, 1024, 1024),
        ("NOFILE=1024:4096", nofile, 1024, 4096),
        ("RLIMIT_NOFILE=1K:unlimited", nofile, 1024, unlimited),
        ("core=unlimited", core, unlimited, unlimited),
        ("core=0:infinity", core, 0, unlimited),
        ("as=1.5G", 9, 3 << 29, 3 << 29),
        ("cpu=10m", cpu, 600, 600),
        ("cpu=500ms", cpu, 1, 1),
        ("rttime=1s", 15, 1_000_000, 1_000_000),
    ] {
        let limit: Rlimit = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(
            (limit.resource.number, limit.soft, limit.hard),
            (number, soft, hard),
            "{text}"
        );
    }
    for bad in [
        "",
        "nofile",
        "nofile=",
        "files=1",
        "nofile=2:1",
        "nofile=unlimited:1",
        "nofile=1:2:3",
        "=1",
        "cpu=1M",
    ] {
        assert!(bad.parse::<Rlimit>().is_err(), "{bad}");
    }
    let text = "files=1".parse::<Rlimit>().unwrap_err().to_string();
    assert!(text.contains("nofile"), "names what is allowed: {text}");
}

#[test]
fn signal_and_resource_numbers_are_the_kernels() {
    use nix::sys::resource::Resource as Known;
    for (name, known) in [
        ("cpu", Known::RLIMIT_CPU),
        ("fsize", Known::RLIMIT_FSIZE),
        ("nproc", Known::RLIMIT_NPROC),
        ("memlock", Known::RLIMIT_MEMLOCK),
        ("locks", Known::RLIMIT_LOCKS),
        ("msgqueue", Known::RLIMIT_MSGQUEUE),
        ("rttime", Known::RLIMIT_RTTIME),
    ] {
        let ours: Rlimit = format!("{name}=1").parse().unwrap();
        assert_eq!(ours.resource.number, known as u32, "{name}");
    }
    for signal in nix::sys::signal::Signal::iterator() {
        let ours: Signal = signal.as_str().parse().unwrap();
        assert_eq!(
            (ours.number(), ours.to_string()),
            (signal as i32, signal.to_string())
        );
    }
}

#[test]
fn lists_of_processors() {
    for good in ["0", "0-3", "0-3,6", "7,1", "0-15:2/4", " 1 "] {
        assert_eq!(parse_cpus(good).as_deref(), Ok(good.trim()));
    }
    for bad in [
        "", ",", "0,", "3-1", "-1", "1-", "a", "0-3:2", "0-3:0/4", "0-3:5/4", "1:1/2", "0 1", "1\n2",
        "123456",
    ] {
        assert!(parse_cpus(bad).is_err(), "{bad}");
    }
}

#[test]
fn small_values_have_their_bounds() {
    assert_eq!((parse_nice("-20"), parse_nice("19")), (Ok(-20), Ok(19)));
    assert!(
        ["-21", "20", "", "1.5"]
            .iter()
            .all(|bad| parse_nice(bad).is_err())
    );
    assert_eq!((parse_bool("yes"), parse_bool("OFF")), (Ok(true), Ok(false)));
    assert!(["", "2", "maybe"].iter().all(|bad| parse_bool(bad).is_err()));
    assert!(
        ["0", "-1", "max", ""]
            .iter()
            .all(|bad| parse_count(bad).is_err() && parse_pid(bad).is_err())
    );
    assert!(parse_clock("0").is_err() && parse_clock("0s").is_err() && parse_clock("1ms").is_ok());
    assert!(parse_room("0").is_err() && parse_room("1").is_ok());
    assert!(
        ["", "a:b", "a b", "a/b", "-x", "a\n"]
            .iter()
            .all(|bad| parse_account(bad).is_err())
    );
    assert!(
        ["root", "1000", "build.user", "ci$", "DOM\\user"]
            .iter()
            .all(|good| parse_account(good).is_ok())
    );
    assert!(
        ["", " ", "a\x1b[2J", &"x".repeat(201)]
            .iter()
            .all(|bad| parse_name(bad).is_err())
    );
}

proptest! {
    #[test]
    fn no_text_panics_and_errors_are_one_line(text in any::<String>()) {
        let errors = [
            text.parse::<Signal>().err(),
            text.parse::<Rlimit>().err(),
            format!("nofile={text}").parse::<Rlimit>().err(),
            format!("cpu={text}").parse::<Rlimit>().err(),
            parse_cpus(&text).err(),
            parse_nice(&text).err(),
            parse_bool(&text).err(),
            parse_clock(&text).err(),
            parse_room(&text).err(),
            parse_account(&text).err(),
            parse_name(&text).err(),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(!error.to_string().contains(char::is_control), "{error}");
            prop_assert!(error.to_string().len() < 1500);
        }
    }

    #[test]
    fn every_number_of_a_signal_is_itself(number in 1i32..=64) {
        let signal: Signal = number.to_string().parse().unwrap();
        prop_assert_eq!(signal.number(), number);
        if let Ok(again) = signal.to_string().parse::<Signal>() {
            prop_assert_eq!(again, signal);
        }
    }

    #[test]
    fn ranges_in_order_are_lists(a in 0u32..9999, b in 0u32..9999) {
        prop_assert_eq!(parse_cpus(&format!("{a}-{b}")).is_ok(), a <= b);
    }

    #[test]
    fn a_soft_limit_is_never_above_the_hard_one(soft: u32, hard: u32) {
        let limit = format!("nproc={soft}:{hard}").parse::<Rlimit>();
        prop_assert_eq!(limit.map(|l| (l.soft, l.hard)).ok(), (soft <= hard).then_some((soft.into(), hard.into())));
    }
}

#[test]
fn guests_are_said_for_all_kinds_and_for_each() {
    use crate::cli::request::GuestRest;
    use jobcage_job::GuestMode::Isolate;
    let said = |text| parse_guests(text).map(|guests| (guests.rest, guests.kinds));
    assert_eq!(said("isolate"), Ok((Some(GuestRest::Isolate), vec![])));
    assert_eq!(
        said("off,vagrant=isolate,virtualbox=off"),
        Ok((
            Some(GuestRest::Off),
            vec![("vagrant".into(), Some(Isolate)), ("virtualbox".into(), None)]
        ))
    );
    for (text, told) in [
        ("", "neither isolate nor off nor KIND=MODE"),
        ("shared", "neither isolate nor off nor KIND=MODE"),
        ("isolate,off", "only once"),
        ("vagrant=off,vagrant=off", "vagrant is there twice"),
        (
            "qubes=isolate",
            "no kind that is known: virtualbox, vagrant, libvirt, podman, docker, lxc, qemu",
        ),
        (
            "vagrant=shared",
            "vagrant cannot be \"shared\", but isolate, destroy, off",
        ),
        ("vagrant=", "vagrant cannot be \"\""),
    ] {
        let why = parse_guests(text).unwrap_err();
        assert!(why.contains(told), "{text}: {why}");
    }
}
