//! D1: `run --detach` against the foreground launch, until the job's first byte.

use super::Context;
use crate::Result;
use crate::captured::Place;
use crate::contest::Contestant;
use crate::table::{Table, Target};
use crate::talk::Wire;
use crate::tools::milliseconds;
use std::io::Read;
use std::process::Command;
use std::time::Instant;

/// The record in memory, as that of a foreground run is.
const DETACHED: &str = "run --detach";
/// The record where a user has it. A file system may take long for a new file: ext4 searches past all that were deleted in
/// the last minutes.
const ON_DISK: &str = "run --detach, disk";

/// The first byte, which does not come through any log, and the return of the client.
pub fn detach(context: &Context<'_>) -> Result<Vec<Table>> {
    let (tools, ground) = (context.tools, context.ground);
    let wire = Wire::new(ground, "first")?;
    let job = ["talk", "first", wire.done_path.as_str()];
    let mut floor = tools.floor("run", &[], &job)?;
    let places = [
        (DETACHED, Place::in_memory(tools, ground)),
        (ON_DISK, Place::on_disk(tools, ground)),
    ];
    let mut contestants = vec![Contestant::needed("floor", || foreground(&wire, &mut floor))];
    if tools.has_jobcage() {
        let mut run = tools.jobcage(&[], &job)?;
        let wire = &wire;
        contestants.push(Contestant::needed("run", move || foreground(wire, &mut run)));
        for (name, place) in &places {
            let mut command = place.detach(&job)?;
            contestants.push(Contestant::needed(name, move || {
                detached(wire, place, &mut command)
            }));
        }
    }
    let (measures, notes) = context.hold(&context.rules(60, 2), contestants)?;
    let [first, back] = measures.try_into().map_err(|_| "two measures expected")?;
    Ok(vec![
        Table::new("D1", "launch until the job's first byte", "ms", "run", first)
            .note(&notes)
            .aim(vec![
                Target::ratio("D1", DETACHED, "run", 3.0),
                Target::ratio("D1", ON_DISK, "run", 3.0),
            ]),
        Table::new("D1", "launch until the client is back", "ms", "run", back)
            .note(&["in the foreground with the job's end, detached when its record is written".into()]),
    ])
}

fn foreground(wire: &Wire, command: &mut Command) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut child = command.spawn()?;
    wire.first_byte()?;
    let first = milliseconds(start);
    if !child.wait()?.success() {
        return Err("the job failed".into());
    }
    Ok(vec![first, milliseconds(start)])
}

fn detached(wire: &Wire, place: &Place<'_>, command: &mut Command) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut client = command.spawn()?;
    wire.first_byte()?;
    let first = milliseconds(start);
    client.wait()?;
    let back = milliseconds(start);
    let mut id = String::new();
    client
        .stdout
        .take()
        .ok_or("no standard output")?
        .read_to_string(&mut id)?;
    place.wait(id.trim())?;
    place.clear()?;
    Ok(vec![first, back])
}
