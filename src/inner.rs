//! The words by which jobcage starts itself for a part that needs a process of its own. They are no interface: the
//! starter and the started are the same file.

use jobcage_cage::{Bus, is_in_delegated_unit, start_scope};
use jobcage_ledger::Places;
use jobcage_supervisor::{gc, host, keeper, kept, watcher};
use std::ffi::OsString;
use std::fmt::Display;

/// Does one of them; `None`: the words are a person's.
pub fn perform(words: &[OsString]) -> Option<Result<u8, Box<dyn Display>>> {
    let word = |i: usize| words.get(i).and_then(|word| word.to_str());
    let places = || Places {
        runtime: words.get(2).cloned().unwrap_or_default().into(),
        state: words.get(3).cloned().unwrap_or_default().into(),
    };
    Some(match word(1)? {
        "__watch" if word(4) == Some("detach") => done(watcher::detach(&places())),
        "__watch" => done(watcher::watch(&places(), word(4) == Some("scope"))),
        "__close" => close(&places(), word(4).unwrap_or_default()),
        "__keep" => keep(&places(), word(4).unwrap_or_default()),
        "__supervise" => done(kept::supervise()),
        "__scope" => scope(word(2) == Some("system")),
        "__leader" => leader(),
        "__remote" => done(crate::verbs::serve(word(2).unwrap_or_default())),
        "__pack" => done(crate::verbs::pack_here(words.get(2)?)),
        "__unpack" => done(crate::verbs::unpack_here(words.get(2)?)),
        "__close-remotes" => done(crate::verbs::close_remotes()),
        "__protocols" => protocols(),
        _ => return None,
    })
}

/// Has systemd move our parent into a scope, unless a user's parent is in a delegated unit already.
fn scope(of_system: bool) -> Result<u8, Box<dyn Display>> {
    let pid = std::os::unix::process::parent_id();
    if of_system {
        return done(start_scope(
            Bus::System,
            "jobcage-root.scope",
            "jobcage.slice",
            pid,
        ));
    }
    if is_in_delegated_unit(Bus::User, pid) {
        return Ok(host::DELEGATED);
    }
    done(start_scope(
        Bus::User,
        &format!("jobcage-{pid}.scope"),
        "app.slice",
        pid,
    ))
}

fn done<E: Display + 'static>(result: Result<(), E>) -> Result<u8, Box<dyn Display>> {
    result
        .map(|()| 0)
        .map_err(|error| Box::new(error) as Box<dyn Display>)
}

fn close(places: &Places, id: &str) -> Result<u8, Box<dyn Display>> {
    let id = id.parse().map_err(|error| Box::new(error) as Box<dyn Display>)?;
    done(gc::close_if_orphaned(places, &id, gc::Role::Staying).map(drop))
}

fn keep(places: &Places, id: &str) -> Result<u8, Box<dyn Display>> {
    let id = id.parse().map_err(|error| Box::new(error) as Box<dyn Display>)?;
    done(keeper::keep(places, &id))
}

/// The versions of what goes over a line that this program speaks, each between blanks.
fn protocols() -> Result<u8, Box<dyn Display>> {
    let numbers: String = jobcage_remote::PROTOCOLS
        .iter()
        .map(|number| format!("{number} "))
        .collect();
    let printed = crate::verbs::pages::print(format!("jobcage  {numbers}\n").as_bytes());
    printed.map_err(|error| Box::new(error) as Box<dyn Display>)
}

/// For doctor's self-test: a process whose main thread has exited while another lives.
fn leader() -> ! {
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    jobcage_sys::spawn::exit_thread()
}
