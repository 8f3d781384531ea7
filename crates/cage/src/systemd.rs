//! Asking systemd for a delegated scope (org.freedesktop.systemd1(5), `StartTransientUnit`).
//!
//! systemd is the single writer of its tree: a directory made behind its back may vanish, so the root of all cages is a
//! scope with `Delegate=yes` that holds a process of ours.

use crate::error::{CageError, Result};
use crate::root::{host_scope, remove_forgotten_scope};
use std::sync::mpsc;
use std::time::Duration;
use zbus::blocking::proxy::SignalIterator;
use zbus::blocking::{Connection, Proxy, connection::Builder};
use zbus::zvariant::{OwnedObjectPath, Value};

/// How long systemd may take to end a scope in which nothing lives any more. It takes milliseconds.
const ENDING: Duration = Duration::from_secs(30);

/// Which manager to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The system's.
    System,
    /// The user's own, below `XDG_RUNTIME_DIR`.
    User,
}

/// Whether the unit that a process is in is delegated already, as this manager says. `false` where it knows of none.
///
/// Starts a thread of the D-Bus library, so it belongs into a process of its own.
#[must_use]
pub fn is_in_delegated_unit(bus: Bus, pid: u32) -> bool {
    let delegate = || -> zbus::Result<bool> {
        let connection = connect(bus)?;
        let unit: OwnedObjectPath = manager(&connection)?.call("GetUnitByPID", &(pid))?;
        let property = |interface: &'static str| -> zbus::Result<bool> {
            let destination = "org.freedesktop.systemd1";
            Proxy::new(&connection, destination, &unit, interface)?.get_property("Delegate")
        };
        // Only these two kinds of unit hold processes that are not the manager's own.
        property("org.freedesktop.systemd1.Scope").or_else(|_| property("org.freedesktop.systemd1.Service"))
    };
    delegate().unwrap_or(false)
}

/// Puts a process into a new delegated scope and waits until systemd has done it.
///
/// Starts a thread of the D-Bus library, so it belongs into a process of its own.
///
/// # Errors
/// systemd's own words.
pub fn start_scope(bus: Bus, unit: &str, slice: &str, pid: u32) -> Result<()> {
    request(bus, unit, slice, pid).map_err(|error| CageError::Systemd {
        unit: unit.into(),
        why: match bus {
            Bus::System => error.to_string(),
            Bus::User => format!(
                "{error} (the user manager has to run and XDG_RUNTIME_DIR to be set: \"loginctl enable-linger\", or log in)"
            ),
        },
    })
}

fn connect(bus: Bus) -> zbus::Result<Connection> {
    match bus {
        Bus::System => Connection::system(),
        Bus::User => {
            let dir = std::env::var("XDG_RUNTIME_DIR")
                .map_err(|_| zbus::Error::Address("XDG_RUNTIME_DIR is not set".into()))?;
            Builder::address(format!("unix:path={dir}/bus").as_str())?.build()
        }
    }
}

fn manager(connection: &Connection) -> zbus::Result<Proxy<'static>> {
    Proxy::new(
        connection,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    )
}

fn request(bus: Bus, unit: &str, slice: &str, pid: u32) -> zbus::Result<()> {
    let connection = connect(bus)?;
    let manager = manager(&connection)?;
    manager.call::<_, _, ()>("Subscribe", &())?;
    if bus == Bus::System {
        make_way(&manager, unit)?;
    }
    // Listen first: the job may be done before the call returns.
    let ended = manager.receive_signal("JobRemoved")?;
    let mut properties: Vec<(&str, Value<'_>)> = vec![
        ("PIDs", Value::from(vec![pid])),
        ("Slice", Value::from(slice)),
        ("Delegate", Value::from(true)),
        // The default is 15 % of what the host allows, and all jobs would share it.
        ("TasksMax", Value::from(u64::MAX)),
        ("Description", Value::from("Cages of jobcage")),
        // A job's end is ours to bring about; systemd's own stop of the scope must not take a held root with it slowly.
        ("CollectMode", Value::from("inactive-or-failed")),
    ];
    if bus == Bus::System {
        // Turned around at a shutdown: the service that ends all jobs is stopped first. Said here and not there, since systemd
        // starts no second scope of a name that the file of another unit refers to.
        properties.push(("Before", Value::from(vec!["jobcage-jobs.service"])));
    }
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let job: OwnedObjectPath = manager.call("StartTransientUnit", &(unit, "fail", properties, auxiliary))?;
    for signal in ended {
        let (_, path, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize()?;
        if path == job {
            return if result == "done" {
                Ok(())
            } else {
                Err(zbus::Error::Failure(format!("the start ended as {result:?}")))
            };
        }
    }
    Err(zbus::Error::Failure("the bus closed the connection".into()))
}

/// Waits for the end of the unit's former self. systemd removes a scope a moment after its last process has ended, but once:
/// what it cannot remove then, since somebody has come, it forgets.
fn make_way(manager: &Proxy<'static>, unit: &str) -> zbus::Result<()> {
    // Listen first: it may be gone before the call returns.
    let removed = manager.receive_signal("UnitRemoved")?;
    let lives = is_active(manager, unit);
    if host_scope().is_ok_and(|scope| scope.is_some()) {
        // Somebody holds it, and systemd says what there is to say.
        return Ok(());
    }
    if lives {
        // One that lives on, too, is systemd's to tell of.
        let _ = is_told(removed, unit.to_owned());
    }
    remove_forgotten_scope().map_err(|error| zbus::Error::Failure(error.to_string()))
}

/// Whether a unit is not over. One that is may still be known, since another one refers to it.
fn is_active(manager: &Proxy<'static>, unit: &str) -> bool {
    let state = || -> zbus::Result<String> {
        let unit: OwnedObjectPath = manager.call("GetUnit", &(unit))?;
        let destination = manager.destination().to_owned();
        Proxy::new(
            manager.connection(),
            destination,
            unit,
            "org.freedesktop.systemd1.Unit",
        )?
        .get_property("ActiveState")
    };
    state().is_ok_and(|state| state != "inactive" && state != "failed")
}

/// Whether the removal of a unit is told in time. The library's calls know no time.
fn is_told(removed: SignalIterator<'static>, unit: String) -> bool {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let is_its = |signal: zbus::Message| {
            let body: zbus::Result<(String, OwnedObjectPath)> = signal.body().deserialize();
            body.is_ok_and(|(name, _)| name == unit)
        };
        let _ = tell.send({ removed }.any(is_its));
    });
    told.recv_timeout(ENDING).unwrap_or(false)
}
