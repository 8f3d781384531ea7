//! D3: what a log and a follower cost a job that writes much.

use super::Context;
use crate::Result;
use crate::contest::Contestant;
use crate::table::{Table, Target};
use crate::talk::{Talk, Way, Wire};
use std::time::Instant;

/// What a reader is like that holds everybody up, in bytes a second.
const SLOW: f64 = 20e6;

/// Big pieces, and lines.
pub fn output(context: &Context<'_>) -> Result<Vec<Table>> {
    let size = |full, smoke| context.options.size(full, smoke) as u64;
    let bulk = flood(context, "big pieces of 64 KiB", 65_536, size(512 << 20, 4 << 20))?;
    let lines = flood(context, "lines of 100 bytes", 100, size(64 << 20, 1 << 20))?;
    let goals = [
        vec![Target::ratio("D3", "jobcage", "direct", 0.6).at_least()],
        vec![
            Target::ratio("D3", "jobcage", "direct", 2.8).at_least(),
            Target::ratio("D3", "jobcage", "tee", 1.2).at_least(),
        ],
    ];
    let with_goals = |([speed, cost], goals): ([Table; 2], _)| {
        let least = vec![Target::ratio("D3", "jobcage", "tee", 1.0)];
        [speed.aim(goals), cost.aim(least)]
    };
    Ok([bulk, lines]
        .into_iter()
        .zip(goals)
        .flat_map(with_goals)
        .collect())
}

fn ways(context: &Context<'_>) -> Vec<Way> {
    let ours = context.tools.has_jobcage().then_some(Way::Jobcage);
    [Way::Direct, Way::Tee].into_iter().chain(ours).collect()
}

/// Throughput and processor time of one kind of output.
fn flood(context: &Context<'_>, what: &str, piece: usize, total: u64) -> Result<[Table; 2]> {
    let wire = Wire::new(context.ground, &format!("flood-{piece}"))?;
    let (piece, bytes) = (piece.to_string(), total.to_string());
    let job = ["talk", "flood", &wire.go_path, &wire.done_path, &piece, &bytes];
    let one = |way: Way| -> Result<Vec<f64>> {
        let mut talk = Talk::start(context.tools, context.ground, &wire, way, &job)?;
        let used = talk.processor_time()?;
        let start = Instant::now();
        wire.go()?;
        talk.drain(total)?;
        let seconds = start.elapsed().as_secs_f64();
        let used = talk.processor_time()? - used;
        wire.took()?;
        talk.end()?;
        Ok(vec![total as f64 / 1e6 / seconds, used / (total as f64 / 1e9)])
    };
    let contestants = ways(context)
        .into_iter()
        .map(|way| Contestant::needed(way.name(), move || one(way)));
    let (measures, notes) = context.hold(&context.rules(15, 2), contestants.collect())?;
    let [speed, cost] = measures.try_into().map_err(|_| "two measures expected")?;
    let title = |of: &str| format!("{what}, {} MB: {of}", total / 1_000_000);
    Ok([
        Table::new("D3", &title("throughput to the reader"), "MB/s", "direct", speed).note(&notes),
        Table::new(
            "D3",
            &title("processor time between job and reader"),
            "s/GB",
            "tee",
            cost,
        ),
    ])
}

/// How fast a job can write whose reader is slow: a log that stalls nobody.
pub fn slow_reader(context: &Context<'_>) -> Result<Vec<Table>> {
    let wire = Wire::new(context.ground, "slow")?;
    let one = |way: Way| -> Result<Vec<f64>> {
        // Held up, 8 MB take as long as a gigabyte that is not.
        let full = if way == Way::Jobcage { 256 << 20 } else { 8 << 20 };
        let total = context.options.size(full, 1 << 20);
        let bytes = total.to_string();
        let job = ["talk", "flood", &wire.go_path, &wire.done_path, "65536", &bytes];
        let mut talk = Talk::start(context.tools, context.ground, &wire, way, &job)?;
        wire.go()?;
        let read = talk.sip(SLOW)?;
        let seconds = wire.took()?;
        talk.drain(total as u64 - read)?;
        talk.end()?;
        Ok(vec![total as f64 / seconds / SLOW])
    };
    let contestants = ways(context)
        .into_iter()
        .map(|way| Contestant::needed(way.name(), move || one(way)));
    let (measures, notes) = context.hold(&context.rules(10, 1), contestants.collect())?;
    let title = "speed of a job whose reader takes 20 MB/s, in units of that";
    let table = |speed| {
        Table::new("D3", title, "times", "direct", speed)
            .note(&notes)
            .aim(vec![Target::value("D3", "jobcage", 50.0).at_least()])
    };
    Ok(measures.into_iter().map(table).collect())
}
