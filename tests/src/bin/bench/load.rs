//! What every capture call waits for before it is forwarded: libpcap in its child process, then
//! the guard's programs and maps. Nothing compares to it, so there is no plain side.

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use capwarden::{
    filter::{Compiler, LinkType, Origin, SocketForm, translate},
    kernel::Guard,
};

use crate::{
    Bench, guard,
    measure::{Measurement, Target, Unit},
};

const SAMPLES: usize = 15;
const EXPRESSION: &str = "net 10.0.0.0/8 and not port 22";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let compiler = bench.compiler();
    let chain = |form| {
        let program = compiler.compile_for(EXPRESSION, form, Origin::Request)?;
        anyhow::Ok(translate(&program.context("an empty filter")?)?)
    };
    let raw = chain(SocketForm::Raw(LinkType::EN10MB))?;
    let cooked = chain(SocketForm::Cooked)?;
    let both = {
        let mut plan = guard::plan(raw.clone(), 1);
        plan.cooked = Some(cooked);
        plan
    };
    let mut headers = both.clone();
    headers.terms.payload = 0;
    let mut neither = both.clone();
    neither.raw = None;
    neither.cooked = None;

    let load = |plan| {
        let start = Instant::now();
        let guard = Guard::load(plan)?;
        let took = start.elapsed().as_secs_f64();
        drop(guard);
        anyhow::Ok(took)
    };
    let several = |plan| {
        load(plan)?; // warm-up
        (0..SAMPLES).map(|_| load(plan)).collect::<Result<Vec<_>>>()
    };
    let compile = || {
        let start = Instant::now();
        chain(SocketForm::Raw(LinkType::EN10MB))?;
        anyhow::Ok(start.elapsed().as_secs_f64())
    };
    let row = |what: &str, guarded| Measurement {
        what: what.to_owned(),
        unit: Unit::Time,
        plain: Vec::new(),
        guarded,
        target: Target::None,
    };
    Ok(vec![
        row("load a guard: the process's first", vec![load(&both)?]),
        row("load a guard: raw and cooked", several(&both)?),
        row("load a guard: the same, headers only", several(&headers)?),
        row("load a guard: maps alone", several(&neither)?),
        row(
            "compile a filter",
            (0..SAMPLES).map(|_| compile()).collect::<Result<_>>()?,
        ),
        long_list(&compiler)?,
    ])
}

/// A thousand hosts, against libpcap alone, unoptimised: its optimizer takes minutes.
fn long_list(compiler: &Compiler) -> Result<Measurement> {
    let hosts = guard::scattered_hosts(1000);
    let start = Instant::now();
    let chain = Command::new("tcpdump")
        .args(["-O", "-y", "EN10MB", "-ddd", &hosts])
        .output()
        .context("cannot run tcpdump")?;
    ensure!(chain.status.success(), "tcpdump compiles no thousand hosts");
    let plain = vec![start.elapsed().as_secs_f64()];
    let compile = |_| {
        let start = Instant::now();
        compiler.compile(&hosts, LinkType::EN10MB, Origin::Request)?;
        anyhow::Ok(start.elapsed().as_secs_f64())
    };
    Ok(Measurement {
        what: "compile 1,000 hosts".to_owned(),
        unit: Unit::Time,
        plain,
        guarded: (0..SAMPLES).map(compile).collect::<Result<_>>()?,
        target: Target::Most(1.0),
    })
}
