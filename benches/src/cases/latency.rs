//! D4: from the write() of a part of a line to the one who follows.

use super::Context;
use crate::Result;
use crate::contest::Contestant;
use crate::stats::Summary;
use crate::table::{Table, Target};
use crate::talk::{Talk, Way, Wire};
use jobcage_sys::clock::boot_time;
use std::io::Read;
use std::time::Duration;

/// What `talk drip` writes at once, the time first.
const PART: usize = 18;

/// Parts that come often, and parts between which everybody sleeps.
pub fn latency(context: &Context<'_>) -> Result<Vec<Table>> {
    let size = |full, smoke| context.options.size(full, smoke);
    let often = drip(context, 1_000, size(1_000, 50))?;
    let seldom = drip(context, 20_000, size(100, 10))?;
    Ok(often.into_iter().chain(seldom).collect())
}

fn drip(context: &Context<'_>, micros: u32, count: usize) -> Result<[Table; 2]> {
    let wire = Wire::new(context.ground, &format!("drip-{micros}"))?;
    let (apart, number) = (micros.to_string(), count.to_string());
    let job = ["talk", "drip", &wire.go_path, &wire.done_path, &number, &apart];
    let one = |way: Way| -> Result<Vec<f64>> {
        let mut talk = Talk::start(context.tools, context.ground, &wire, way, &job)?;
        wire.go()?;
        let delays = receive(&mut talk, count)?;
        wire.took()?;
        talk.end()?;
        let summary = Summary::of(&delays).ok_or("nothing was received")?;
        Ok(vec![summary.median, summary.p99])
    };
    let ours = context.tools.has_jobcage().then_some(Way::Jobcage);
    let ways = [Way::Direct, Way::Tee].into_iter().chain(ours);
    let contestants = ways.map(|way| Contestant::needed(way.name(), move || one(way)));
    let (measures, notes) = context.hold(&context.rules(15, 2), contestants.collect())?;
    let [p50, p99] = measures.try_into().map_err(|_| "two measures expected")?;
    let title = |of: &str| {
        format!(
            "part of a line every {} ms, write to reader: {of}",
            micros / 1_000
        )
    };
    Ok([
        Table::new("D4", &title("median of a round"), "us", "direct", p50)
            .note(&notes)
            .aim(vec![Target::ratio("D4", "jobcage", "direct", 2.0)]),
        Table::new("D4", &title("99th percentile of a round"), "us", "direct", p99)
            .aim(vec![Target::ratio("D4", "jobcage", "direct", 1.5)]),
    ])
}

/// Microseconds from write to read of each part.
fn receive(talk: &mut Talk<'_>, count: usize) -> Result<Vec<f64>> {
    let mut delays = Vec::with_capacity(count);
    let (mut buffer, mut filled) = ([0; 64 * PART], 0);
    while delays.len() < count {
        let n = talk.output().read(&mut buffer[filled..])?;
        if n == 0 {
            return Err(format!("the output ended after {} parts", delays.len()).into());
        }
        filled += n;
        let now = boot_time();
        let whole = filled / PART * PART;
        for part in buffer[..whole].chunks_exact(PART) {
            let written = u64::from_le_bytes(part[..8].try_into()?);
            let delay = now.saturating_sub(Duration::from_nanos(written));
            delays.push(delay.as_secs_f64() * 1e6);
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
    Ok(delays)
}
