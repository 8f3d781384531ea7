//! D2: what a captured job costs that waits: its keeper and its supervisor, alone and among many.

use super::Context;
use super::memory::{end_all, weigh, weighing};
use crate::Result;
use crate::captured::Place;
use crate::contest::Contestant;
use crate::peers::{Bundle, View};
use crate::table::{Table, Target};
use crate::tools::Tools;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const JOB: [&str; 1] = ["idle"];

/// Alone, and among 50.
pub fn memory(context: &Context<'_>) -> Result<Vec<Table>> {
    if !context.tools.has_jobcage() {
        return Ok(Vec::new());
    }
    let many = context.options.size(50, 3);
    let mut tables = Vec::new();
    let mut bundle = Err("not made yet".to_string());
    for (count, limit) in [(1, 600.0), (many, 160.0)] {
        let view = View::open(context.ground).map_err(|why| why.to_string());
        let contestants = vec![
            Contestant::needed("run", {
                let run = context.tools.jobcage(&[], &JOB);
                weighing(context, count, run, Signal::SIGTERM)
            }),
            Contestant::needed("run --detach", move || detached(context, count)),
            conmon(context, count, &view, &mut bundle),
        ];
        let (measures, notes) = context.hold(&context.rules(5, 2), contestants)?;
        let [pss, idle] = measures.try_into().map_err(|_| "two measures expected")?;
        let title = format!(
            "memory (PSS) per job of idle keeper and supervisor, {count} at once, the job not counted"
        );
        tables.push(Table::new("D2", &title, "KiB", "run", pss).note(&notes).aim(vec![
            Target::value("D2", "run --detach", limit),
            Target::beside("D2", "run --detach", "conmon"),
        ]));
        if count == 1 {
            let title = "context switches of idle keeper and supervisor in a second";
            let targets = vec![Target::value("D2", "run --detach", 0.0)];
            tables.push(Table::new("D2", title, "switches", "run", idle).aim(targets));
        }
    }
    Ok(tables)
}

fn detached(context: &Context<'_>, count: usize) -> Result<Vec<f64>> {
    let place = Place::in_memory(context.tools, context.ground);
    let mut launch = place.detach(&JOB)?;
    let ids: Vec<_> = (0..count)
        .map(|_| place.launch(&mut launch))
        .collect::<Result<_>>()?;
    let weighed = weigh(context, count);
    for id in &ids {
        context.tools.time(&mut place.verb("stop", id)?)?;
    }
    place.alone()?;
    place.clear()?;
    weighed
}

fn conmon<'a>(
    context: &'a Context<'a>,
    count: usize,
    view: &'a std::result::Result<View, String>,
    bundle: &'a mut std::result::Result<Bundle, String>,
) -> Contestant<'a> {
    Contestant::peer("conmon", move || {
        let view = view.as_ref().map_err(String::clone)?;
        if bundle.is_err() {
            let made = Bundle::make(context.ground, context.tools, "crun", &JOB);
            *bundle = made.map_err(|why| why.to_string());
        }
        let bundle = bundle.as_mut().map_err(|why| why.clone())?;
        let started = (0..count).try_for_each(|_| one(context.tools, view, bundle));
        let weighed = started.and_then(|()| weigh(context, count));
        end_all(context, Vec::new(), Signal::SIGKILL)?;
        weighed
    })
}

fn one(tools: &Tools, view: &View, bundle: &mut Bundle) -> Result<()> {
    let (command, name) = bundle.conmon(tools)?;
    let status = view.spawn(command)?.wait()?;
    if !status.success() {
        return Err(format!("conmon: {status}{}", tools.last_error()).into());
    }
    // It is back before its runtime has made the container, and tells that only those who have given it a pipe to do so.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !view.spawn(bundle.start(tools, &name)?)?.wait()?.success() {
        if Instant::now() > deadline {
            return Err(format!("conmon has made no container{}", tools.last_error()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
