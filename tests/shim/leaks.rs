//! What such a runner leaves behind without the shim, so that the other tests prove something (contract, B2).

use crate::runner::{Host, WAYS, Way, three_that_answer};
use crate::support::PATIENCE;
use crate::support::captured::wait_written;
use crate::support::leaks::five_without_output;
use crate::support::process::{Process, connected_to};
use nix::sys::signal::Signal;

fn end(left: Vec<Process>) {
    for process in left {
        process.signal(Signal::SIGKILL);
        assert!(process.wait_end(PATIENCE));
    }
}

#[test]
fn a_stage_that_succeeds_leaves_all_five() {
    let Some(mut host) = Host::new("shim-leak") else {
        return;
    };
    for way in WAYS {
        let ended = host.start_job(way, false, &five_without_output()).end();
        assert_eq!(ended.code, 0, "{way:?}: {}", ended.log);
        let left = host.left();
        assert!(
            left.len() == 5 && left.iter().all(|process| !process.has_ended()),
            "{way:?}"
        );
        end(left);
    }
    host.world.assert_nothing_left();
}

/// Behind su nobody hears of a cancel, not even those who would with a plain shell: su has a session of its own for them.
#[test]
fn a_cancel_behind_su_reaches_nobody() {
    let Some(mut host) = Host::new("shim-leak-cancel") else {
        return;
    };
    for (way, heard) in [(Way::Bash, "plain\n"), (Way::Su, "")] {
        let script = format!("{}\necho up\nsleep 300 > /dev/null 2>&1", three_that_answer());
        let mut stage = host.start_job(way, false, &script);
        stage.wait_line("up");
        stage.signal(Signal::SIGTERM);
        stage.end_of_process();
        assert!(
            wait_written(&host.project(), || host.read("asked") == heard),
            "{way:?}"
        );
        let left = host.left();
        let alive = left.iter().filter(|process| !process.has_ended()).count();
        assert!(alive >= if heard.is_empty() { 3 } else { 2 }, "{way:?}: {alive}");
        end(left);
        // Whoever was waited for by them, or has been started meanwhile.
        while let rest = everybody(&host)
            && !rest.is_empty()
        {
            end(rest);
        }
    }
    host.world.assert_nothing_left();
}

/// What runs in the world now.
fn everybody(host: &Host) -> Vec<Process> {
    connected_to(&host.world.dir)
        .into_iter()
        .map(Process::open)
        .collect()
}
