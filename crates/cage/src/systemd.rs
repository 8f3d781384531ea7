//! Asking systemd for a delegated scope (org.freedesktop.systemd1(5), `StartTransientUnit`).
//!
//! systemd is the single writer of its tree: a directory made behind its back may vanish, so the root of all cages is a
//! scope with `Delegate=yes` that holds a process of ours.

use crate::error::{CageError, Result};
use zbus::blocking::{Connection, Proxy, connection::Builder};
use zbus::zvariant::{OwnedObjectPath, Value};

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

fn manager(connection: &Connection) -> zbus::Result<Proxy<'_>> {
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
