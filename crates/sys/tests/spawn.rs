//! Real children, real kernel.

use jobcage_sys::spawn::{Go, Plan, Stage, spawn, spawn_moved};
use jobcage_sys::wait::{self, Change, Whom};
use jobcage_sys::{Errno, memory};
use std::ffi::CString;

fn plan(program: &str, args: &[&str]) -> Plan<'static> {
    let c = |s: &str| CString::new(s).unwrap();
    Plan {
        programs: vec![c(program)],
        args: args.iter().map(|a| c(a)).collect(),
        ..Plan::default()
    }
}

fn end_of(child: &jobcage_sys::spawn::Child) -> Change {
    wait::block(Whom::Pid(child.pid)).unwrap().1
}

#[test]
fn exit_codes_and_signals_come_back() {
    for start in [spawn, spawn_moved] {
        let child = start(&plan("/bin/sh", &["sh", "-c", "exit 42"])).unwrap();
        assert_eq!(end_of(&child), Change::Exited(42));
        assert_eq!(child.failure(), None);
        let child = start(&plan("/bin/sh", &["sh", "-c", "kill -9 $$"])).unwrap();
        assert_eq!(end_of(&child), Change::Killed(9));
        assert!(!child.died_at_birth());
    }
}

#[test]
fn a_failed_start_names_its_stage() {
    for start in [spawn, spawn_moved] {
        let child = start(&plan("/nonexistent/program", &["program"])).unwrap();
        end_of(&child);
        assert_eq!(child.failure(), Some((Stage::Exec, Errno::ENOENT)));

        let child = start(&Plan {
            dir: Some(c"/nonexistent".into()),
            ..plan("/bin/true", &["true"])
        })
        .unwrap();
        end_of(&child);
        assert_eq!(child.failure(), Some((Stage::Chdir, Errno::ENOENT)));
    }
}

#[test]
fn a_script_without_a_shebang_goes_to_a_shell() {
    let dir = std::env::temp_dir().join(format!("jobcage-sys-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let script = dir.join("script");
    // Written by a process of its own: a child of another test, born while it is open for writing here, would keep it busy.
    let write = format!("echo 'exit $(($1 + 1))' > {0} && chmod +x {0}", script.display());
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &write])
            .status()
            .unwrap()
            .success()
    );
    let child = spawn(&plan(script.to_str().unwrap(), &["script", "6"])).unwrap();
    assert_eq!(end_of(&child), Change::Exited(7));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_child_has_default_signals_and_an_open_mask() {
    // Rust's runtime ignores SIGPIPE in us, and all signals are blocked while a child is born.
    let child = spawn(&plan("/bin/sh", &["sh", "-c", "kill -PIPE $$"])).unwrap();
    assert_eq!(end_of(&child), Change::Killed(13));
}

#[test]
fn sleeps_without_code_and_goes_on() {
    use nix::poll::{PollFd, PollFlags};
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::time::Duration;
    let (read, mut write) = std::io::pipe().unwrap();
    let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
    for _ in 0..3 {
        assert!(
            !memory::sleep_without_code(&mut fds, Some(Duration::from_millis(5))),
            "nothing to read yet"
        );
    }
    write.write_all(b"x").unwrap();
    assert!(memory::sleep_without_code(&mut fds, None));
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLIN));
    let child = spawn(&plan("/bin/true", &["true"])).unwrap();
    assert_eq!(end_of(&child), Change::Exited(0));
}

#[test]
fn a_child_may_be_forgotten_before_its_exec() {
    // Each is dropped while it may still run on the memory that it shares with us; a use after free would crash it.
    let pids: Vec<i32> = (0..200)
        .map(|_| spawn(&plan("/bin/true", &["true"])).unwrap().pid)
        .collect();
    for pid in pids {
        assert_eq!(wait::block(Whom::Pid(pid)).unwrap().1, Change::Exited(0));
    }
}

#[test]
fn a_child_that_waits_for_a_word_does_nothing_without_it() {
    use std::os::fd::AsFd;
    let mark = std::env::temp_dir().join(format!("jobcage-go-{}", std::process::id()));
    let script = format!("echo went > {}; exit 5", mark.display());
    for word in [false, true] {
        let (wait, hold) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let go = Go {
            wait: wait.as_fd(),
            hold: hold.as_fd(),
        };
        let child = spawn(&Plan {
            go: Some(go),
            ..plan("/bin/sh", &["sh", "-c", &script])
        })
        .unwrap();
        if word {
            // A second word is one that nobody reads.
            assert_eq!(nix::unistd::write(&hold, b"gg").unwrap(), 2);
        }
        drop(hold);
        let ended = end_of(&child);
        assert_eq!(mark.exists(), word);
        let failure = (!word).then_some((Stage::Go, Errno::ECANCELED));
        assert_eq!(child.failure(), failure);
        assert_eq!(ended, Change::Exited(if word { 5 } else { 127 }));
    }
    std::fs::remove_file(mark).unwrap();
}

#[test]
fn a_child_that_is_to_die_with_us_does() {
    use std::io::Read;
    use std::os::fd::AsFd;
    for start in [spawn, spawn_moved] {
        // The kernel counts the thread that has started it.
        let starter = std::thread::spawn(move || {
            let (mut said, say) = std::io::pipe().unwrap();
            let child = start(&Plan {
                dies_with_us: true,
                stdio: [None, Some(say.as_fd()), None],
                ..plan("/bin/sh", &["sh", "-c", "echo x; exec sleep 1000"])
            })
            .unwrap();
            said.read_exact(&mut [0]).unwrap();
            child.pid
        });
        let pid = starter.join().unwrap();
        assert_eq!(wait::block(Whom::Pid(pid)).unwrap().1, Change::Killed(9));
    }
}
