//! `jobcage run` at a terminal, under a shell with job control: as if jobcage were not there.

#[path = "../support/mod.rs"]
mod support;

mod pty;

use pty::{CTRL_BACKSLASH, CTRL_C, CTRL_Z, Terminal};
use std::process::Command;
use support::needs::{self, Need};
use support::process::{Process, stat};
use support::world::World;
use support::{PATIENCE, cgroup};

/// A world and a terminal in it; `None` where the programs for it are missing.
fn at_a_terminal(test: &str) -> Option<(World, Terminal)> {
    if !needs::met(
        test,
        &[
            Need::Program("bash"),
            Need::Program("setsid"),
            Need::Program("stty"),
        ],
    ) {
        return None;
    }
    let world = World::new(test);
    let terminal = Terminal::bash(&world);
    Some((world, terminal))
}

#[test]
fn the_command_has_the_terminal() {
    let Some((world, mut terminal)) = at_a_terminal("tty-is") else {
        return;
    };
    for run in ["", "$JOBCAGE run --"] {
        let shown = terminal.does(&format!(
            "{run} sh -c 'test -t 0 && test -t 1 && test -t 2 && tty && stty size'"
        ));
        assert_eq!(shown, format!("{}\r\n33 77\r\n", terminal.name), "{run:?}");
        let shown = terminal.does(&format!(
            "{run} sh -c 'echo to the terminal > /dev/tty' > /dev/null"
        ));
        assert_eq!(shown, "to the terminal\r\n", "{run:?}");
    }
    // The foreground group is that of the command.
    let shown = terminal.does("$JOBCAGE run -- sh -c 'cut -d\" \" -f5,8 /proc/$$/stat'");
    let ids: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(ids[0], ids[1], "{shown}");
    world.assert_clean();
}

/// As `run`: the terminal is the caller's, and so are its keys.
#[test]
fn a_command_beside_a_job_has_the_callers_terminal() {
    let Some((mut world, mut terminal)) = at_a_terminal("tty-exec") else {
        return;
    };
    terminal.does("$JOBCAGE create > id");
    let shown =
        terminal.does("$JOBCAGE exec $(cat id) -- sh -c 'test -t 0 && test -t 1 && test -t 2 && tty'");
    assert_eq!(shown, format!("{}\r\n", terminal.name));
    terminal.line("$JOBCAGE exec $(cat id) -- sh -c 'echo u\"\"p; exec sleep 300'");
    terminal.shows("up\r\n");
    terminal.keys(CTRL_C);
    terminal.prompt();
    assert_eq!(terminal.does("echo code $?"), "code 130\r\n");
    terminal.does("$JOBCAGE cleanup $(cat id)");
    drop(terminal);
    world.assert_nothing_left();
}

#[test]
fn a_new_window_size_is_told_to_the_command() {
    let Some((world, mut terminal)) = at_a_terminal("tty-size") else {
        return;
    };
    terminal.line(
        "$JOBCAGE run -- sh -c 'trap \"n=1\" WINCH; echo u\"\"p; while [ -z \"$n\" ]; do sleep 0.02; done; stty size'",
    );
    terminal.shows("up\r\n");
    let mut stty = Command::new("stty");
    assert!(
        stty.args(["-F", &terminal.name, "rows", "44", "cols", "99"])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(terminal.prompt(), "44 99\r\n");
    world.assert_clean();
}

#[test]
fn ctrl_c_ends_the_command_and_the_loop_around_it() {
    let Some((mut world, mut terminal)) = at_a_terminal("ctrl-c") else {
        return;
    };
    // A script ends at Ctrl-C only if it sees that its command was ended by the signal.
    for around in ["", "bash -c"] {
        let body =
            "for i in 1 2 3; do $JOBCAGE run -- sh -c \"echo u\\\"\\\"p; exec sleep 300\"; echo next; done";
        terminal.line(&if around.is_empty() {
            body.to_owned()
        } else {
            format!("{around} '{body}'")
        });
        terminal.shows("up\r\n");
        terminal.keys(CTRL_C);
        let shown = terminal.prompt();
        assert!(
            !shown.contains("next") && !shown.contains("jobcage:"),
            "{around:?}: {shown}"
        );
        assert_eq!(terminal.does("echo code $?"), "code 130\r\n");
    }
    drop(terminal);
    world.assert_nothing_left();
    world.assert_clean();
}

#[test]
fn ctrl_c_is_the_commands_own_if_it_wants_it() {
    let Some((world, mut terminal)) = at_a_terminal("ctrl-c-own") else {
        return;
    };
    terminal.line(
        "$JOBCAGE run -- sh -c 'trap \"echo caught; n=1\" INT; echo u\"\"p; while [ -z \"$n\" ]; do sleep 0.02; done; \
         read line; echo got $line; exit 5'",
    );
    terminal.shows("up\r\n");
    terminal.keys(CTRL_C);
    terminal.shows("caught\r\n");
    terminal.line("more");
    assert_eq!(terminal.prompt(), "got more\r\n");
    assert_eq!(terminal.does("echo code $?"), "code 5\r\n");
    // One that ignores it is not disturbed either, however often.
    terminal.line("$JOBCAGE run -- sh -c 'trap \"\" INT; echo u\"\"p; read line; echo got $line'");
    terminal.shows("up\r\n");
    terminal.keys(&CTRL_C.repeat(3));
    terminal.line("");
    terminal.line("");
    let shown = terminal.prompt();
    assert!(shown.contains("got"), "{shown}");
    world.assert_clean();
}

#[test]
fn ctrl_backslash_quits() {
    let Some((mut world, mut terminal)) = at_a_terminal("ctrl-backslash") else {
        return;
    };
    terminal.line("$JOBCAGE run -- sh -c 'echo u\"\"p; exec sleep 300'");
    terminal.shows("up\r\n");
    terminal.keys(CTRL_BACKSLASH);
    terminal.prompt();
    assert_eq!(terminal.does("echo code $?"), "code 131\r\n");
    drop(terminal);
    world.assert_nothing_left();
}

#[test]
fn ctrl_c_ends_a_whole_pipeline() {
    let Some((mut world, mut terminal)) = at_a_terminal("ctrl-c-pipe") else {
        return;
    };
    assert_eq!(
        terminal
            .does("seq 1 1000 | $JOBCAGE run -- grep 7 | wc -l")
            .trim(),
        "271"
    );
    terminal.line("sleep 300 | $JOBCAGE run -- sh -c 'echo u\"\"p >&2; cat' | cat");
    terminal.shows("up\r\n");
    terminal.keys(CTRL_C);
    terminal.prompt();
    drop(terminal);
    world.assert_nothing_left();
    world.assert_clean();
}

/// Every process of the world's jobs that is alive, by its state letter.
fn states(world: &World) -> Vec<char> {
    let mut states = Vec::new();
    for cage in world.cages() {
        for dir in cgroup::below(&cage) {
            states.extend(
                cgroup::pids(&dir)
                    .into_iter()
                    .filter_map(stat)
                    .map(|(_, state, _)| state),
            );
        }
    }
    states
}

#[test]
fn ctrl_z_stops_and_fg_goes_on() {
    let Some((world, mut terminal)) = at_a_terminal("ctrl-z") else {
        return;
    };
    terminal.line("$JOBCAGE run -- sh -c 'echo u\"\"p; read a; echo a=$a; read b; echo b=$b; exit 6'");
    terminal.shows("up\r\n");
    for word in ["a", "b"] {
        terminal.keys(CTRL_Z);
        let shown = terminal.prompt();
        assert!(shown.contains("Stopped") && !shown.contains("signal"), "{shown}");
        assert_eq!(states(&world), ['T'], "the command is stopped");
        // The terminal is the shell's meanwhile.
        assert_eq!(terminal.does("echo between"), "between\r\n");
        terminal.line("fg");
        terminal.line(&format!("word-{word}"));
        terminal.shows(&format!("{word}=word-{word}\r\n"));
    }
    terminal.prompt();
    assert_eq!(terminal.does("echo code $?"), "code 6\r\n");
    world.assert_clean();
}

/// The shell wakes the command, too, which may be stopped once more before jobcage has come to itself.
#[test]
fn a_second_ctrl_z_counts_though_jobcage_is_late() {
    let Some((world, mut terminal)) = at_a_terminal("ctrl-z-late") else {
        return;
    };
    terminal.line("$JOBCAGE run -- sh -c 'echo $PPID u\"\"p; read a; echo a=$a; read b; echo b=$b; exit 6'");
    let shown = terminal.shows("up\r\n");
    let jobcage = shown.split_whitespace().last().unwrap().to_owned();
    let aside = &world.outside;
    std::fs::create_dir_all(aside).unwrap();
    std::fs::write(aside.join("cgroup.procs"), jobcage).unwrap();
    let freeze = |word: &str| std::fs::write(aside.join("cgroup.freeze"), word).unwrap();
    terminal.keys(CTRL_Z);
    terminal.prompt();
    freeze("1");
    terminal.line("fg");
    terminal.line("word-a");
    terminal.shows("a=word-a\r\n");
    terminal.keys(CTRL_Z);
    let since = std::time::Instant::now();
    while states(&world) != ['T'] {
        assert!(since.elapsed() < PATIENCE, "{:?}", states(&world));
        std::thread::yield_now();
    }
    freeze("0");
    let shown = terminal.prompt();
    assert!(shown.contains("Stopped"), "{shown}");
    assert_eq!(states(&world), ['T'], "the command is stopped");
    terminal.line("fg");
    terminal.line("word-b");
    terminal.shows("b=word-b\r\n");
    terminal.prompt();
    assert_eq!(terminal.does("echo code $?"), "code 6\r\n");
    world.assert_clean();
}

#[test]
fn a_command_that_ignores_ctrl_z_is_not_stopped() {
    let Some((world, mut terminal)) = at_a_terminal("ctrl-z-ignored") else {
        return;
    };
    for run in ["", "$JOBCAGE run --"] {
        terminal.line(&format!(
            "{run} sh -c 'trap \"\" TSTP; echo u\"\"p; read a; echo first; read b; echo last'"
        ));
        terminal.shows("up\r\n");
        terminal.keys(CTRL_Z);
        terminal.line("");
        terminal.shows("first");
        terminal.line("");
        let shown = terminal.prompt();
        assert!(
            shown.contains("last") && !shown.contains("Stopped"),
            "{run:?}: {shown}"
        );
    }
    world.assert_clean();
}

/// An editor puts the terminal in order before it stops: the shell must not have it before that.
#[test]
fn a_command_that_does_something_before_it_stops_has_the_time() {
    let Some((world, mut terminal)) = at_a_terminal("ctrl-z-handled") else {
        return;
    };
    // The helpers are in sessions of their own, so that Ctrl-Z stops none of them and the shell need not wait.
    let script = "trap \"setsid -w sleep 0.3; echo in order; kill -STOP $$; kill \\$!\" TSTP; \
                  setsid sh -c \"echo up; exec sleep 300\" & wait; wait; echo went on";
    for run in ["", "$JOBCAGE run --"] {
        terminal.line(&format!("{run} sh -c '{script}'"));
        terminal.shows("up\r\n");
        terminal.keys(CTRL_Z);
        let shown = terminal.prompt();
        assert!(
            shown.contains("in order"),
            "the shell came first with {run:?}: {shown}"
        );
        terminal.line("fg");
        let shown = terminal.prompt();
        assert!(shown.contains("went on"), "{run:?}: {shown}");
    }
    world.assert_clean();
}

#[test]
fn a_background_job_that_reads_waits_for_fg() {
    let Some((world, mut terminal)) = at_a_terminal("sigttin") else {
        return;
    };
    terminal.line("$JOBCAGE run -- sh -c 'read line; echo got $line; exit 3' & wait; jobs");
    let shown = terminal.prompt() + &terminal.does("jobs");
    assert!(shown.contains("Stopped"), "{shown}");
    assert_eq!(states(&world), ['T']);
    terminal.line("fg");
    terminal.line("it");
    assert!(terminal.prompt().contains("got it"));
    assert_eq!(terminal.does("echo code $?"), "code 3\r\n");
    // One that does not read runs through.
    terminal.line("$JOBCAGE run -- sh -c 'echo in the background' & wait");
    assert!(terminal.prompt().contains("in the background"));
    world.assert_clean();
}

#[test]
fn a_timeout_holds_while_the_job_is_stopped() {
    let Some((mut world, mut terminal)) = at_a_terminal("ctrl-z-timeout") else {
        return;
    };
    terminal.line("$JOBCAGE run --timeout 700ms --report report.json -- sh -c 'echo u\"\"p; exec sleep 300'");
    terminal.shows("up\r\n");
    terminal.keys(CTRL_Z);
    terminal.prompt();
    let report = world.dir.join("report.json");
    assert!(
        cgroup::wait_change(&world.dir, PATIENCE, || report.exists()),
        "it slept on"
    );
    let report = support::job::read_report(&report);
    assert_eq!((report.exit_code, report.clean), (124, true));
    // It ends in the background, and the shell hears of it.
    let shown = terminal.does("wait %1; echo code $?") + &terminal.does("jobs");
    assert!(shown.contains("124"), "{shown}");
    drop(terminal);
    world.assert_nothing_left();
}

#[test]
fn a_cut_line_ends_the_job() {
    let Some((mut world, mut terminal)) = at_a_terminal("hangup") else {
        return;
    };
    terminal.line("$JOBCAGE run --report report.json -- sh -c 'setsid sleep 300 & echo $!; echo u\"\"p; exec sleep 300'");
    let shown = terminal.shows("up\r\n");
    let left: i32 = shown.split_whitespace().last().unwrap().parse().unwrap();
    let left = Process::open(left);
    let cage = world.cages()[0].clone();
    terminal.hang_up();
    assert!(cgroup::wait_gone(&cage, PATIENCE), "{}", cgroup::tree(&cage));
    assert!(left.has_ended());
    let report = world.dir.join("report.json");
    assert!(cgroup::wait_change(&world.dir, PATIENCE, || report.exists()));
    let report = support::job::read_report(&report);
    assert_eq!((report.exit_code, report.clean), (129, true), "{report:#?}");
    drop(terminal);
    world.assert_nothing_left();
}
