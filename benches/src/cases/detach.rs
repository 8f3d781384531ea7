//! D1: `run --detach` against the foreground launch, until the job's first byte.

use super::Context;
use crate::Result;
use crate::captured::Place;
use crate::contest::Contestant;
use crate::table::{Table, Target};
use crate::talk::Wire;
use crate::tools::milliseconds;
use std::process::Command;
use std::time::Instant;

/// The first byte, which does not come through any log, and the return of the client.
pub fn detach(context: &Context<'_>) -> Result<Vec<Table>> {
    let (tools, ground) = (context.tools, context.ground);
    let wire = Wire::new(ground, "first")?;
    let job = ["talk", "first", wire.done_path.as_str()];
    let mut floor = tools.floor("run", &[], &job)?;
    let place = Place::on_disk(tools, ground);
    let mut contestants = vec![Contestant::needed("floor", || foreground(&wire, &mut floor))];
    if tools.has_jobcage() {
        let mut run = tools.jobcage(&[], &job)?;
        let wire = &wire;
        contestants.push(Contestant::needed("run", move || foreground(wire, &mut run)));
        let mut detach = place.detach(&job)?;
        let place = &place;
        contestants.push(Contestant::needed("run --detach", move || {
            let start = Instant::now();
            let mut client = detach.spawn()?;
            wire.first_byte()?;
            let first = milliseconds(start);
            client.wait()?;
            let back = milliseconds(start);
            let mut id = String::new();
            std::io::Read::read_to_string(&mut client.stdout.take().ok_or("no standard output")?, &mut id)?;
            place.wait(id.trim())?;
            place.clear()?;
            Ok(vec![first, back])
        }));
    }
    let (measures, notes) = context.hold(&context.rules(60, 2), contestants)?;
    let [first, back] = measures.try_into().map_err(|_| "two measures expected")?;
    Ok(vec![
        Table::new("D1", "launch until the job's first byte", "ms", "run", first)
            .note(&notes)
            .aim(vec![Target::ratio("D1", "run --detach", "run", 3.0)]),
        Table::new("D1", "launch until the client is back", "ms", "run", back)
            .note(&["in the foreground with the job's end, detached with its record on the disk".into()]),
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
