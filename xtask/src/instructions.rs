//! `cargo xtask instructions`: how many instructions the hot functions take, counted by callgrind, against the committed figures. Unlike
//! times they are the same on a busy machine, so a change that makes them slower shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::steps::{self, cargo, command, root};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the counts into the committed file, instead of holding them against it
    #[arg(long)]
    bless: bool,
}

/// More than this times the committed count is a regression.
const MOST: f64 = 1.05;
/// What is counted is the difference of a long run and a short one: without start and end.
const SHORT: u64 = 1_000;
const LONG: u64 = 11_000;

pub(crate) fn run(args: &Args) -> Result<()> {
    steps::output(&mut command("valgrind", &["--version"]))
        .context("no valgrind on the PATH (Debian: `apt-get install valgrind`)")?;
    steps::run(&mut cargo(&["build", "--release", "--locked", "--package", "carillon-gateway", "--example", "hot"]))?;
    let hot = root().join("target/release/examples/hot").display().to_string();
    let names = steps::output(&mut command(&hot, &[]))?;
    let mut counts = BTreeMap::new();
    for (which, name) in names.lines().enumerate() {
        let per_turn = (count(&hot, which, LONG)? - count(&hot, which, SHORT)?) as f64 / (LONG - SHORT) as f64;
        counts.insert(name.to_owned(), per_turn.round() as u64);
    }
    if args.bless {
        fs::write(file(), serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    let committed = fs::read(file()).with_context(|| format!("no {}: make it with --bless", file().display()))?;
    let committed: BTreeMap<String, u64> = serde_json::from_slice(&committed)?;
    let mut is_slower = false;
    for (name, count) in &counts {
        let Some(before) = committed.get(name) else { bail!("no committed count of {name}: make it with --bless") };
        let ratio = *count as f64 / *before as f64;
        is_slower |= ratio > MOST;
        println!("{count:>8} instructions, {ratio:>5.2} × the committed {before:>8}  {name}");
    }
    if is_slower {
        bail!("more than {MOST} × the committed count: make it faster, or say why and commit the new one with --bless");
    }
    Ok(())
}

fn file() -> PathBuf {
    root().join("docs/benchmarks/instructions.json")
}

/// Instructions of so many turns, start and end included.
fn count(hot: &str, which: usize, turns: u64) -> Result<u64> {
    let mut valgrind = command("valgrind", &["--tool=callgrind", "--callgrind-out-file=/dev/null", hot]);
    let told = valgrind.arg(which.to_string()).arg(turns.to_string()).output().context("valgrind could not be run")?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let collected = told.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    collected.with_context(|| format!("callgrind told no count:\n{told}"))
}
