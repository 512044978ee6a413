//! `cargo xtask bench`: Carillon beside what it is measured against, in one run on one machine. Servers have one core, the load
//! the other; contenders take turns, so that what the machine does meanwhile meets all of them; the median of the rounds counts.
//! Every figure is from a load whose members checked order and count. Writes `docs/benchmarks/`.

mod contender;
mod plot;
mod report;
mod rows;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::steps::{self, cargo, root};
use crate::{nats, tools};
use contender::Place;
use rows::{ROWS, Row};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows of the table to measure; without it all of them
    #[arg(long, value_delimiter = ',')]
    rows: Vec<u8>,
    /// How often each contender runs
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load per run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections of rows about connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Write the page (`README.md`) and its plots into this folder
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
}

/// What a row came to.
pub(crate) struct Measured {
    row: &'static Row,
    /// By contender, each with the figure of every round.
    figures: Vec<(&'static str, Vec<f64>)>,
}

/// Peers from npm.
const YARDSTICKS: &str = "loadtest/yardsticks";

pub(crate) fn run(args: &Args) -> Result<()> {
    let rows: Vec<&'static Row> = ROWS.iter().filter(|row| args.rows.is_empty() || args.rows.contains(&row.number)).collect();
    if rows.is_empty() {
        bail!("--rows: there are {}", ROWS.iter().map(|row| row.number.to_string()).collect::<Vec<_>>().join(", "));
    }
    steps::run(&mut cargo(&["build", "--release", "--locked", "--bins"]))?;
    steps::run(&mut cargo(&["build", "--release", "--locked", "-p", "carillon-loadtest", "--example", "yardstick"]))?;
    tools::check_node()?;
    tools::install_node_packages(YARDSTICKS)?;
    let place = Place::new(nats::find_or_fetch_server()?, args.seconds, args.connections)?;
    let mut measured = Vec::new();
    for row in rows {
        println!("{}. {}", row.number, row.what);
        let mut figures: Vec<(&'static str, Vec<f64>)> = row.contenders.iter().map(|(name, _)| (*name, Vec::new())).collect();
        for _ in 0..args.rounds.max(1) {
            for ((name, measure), (_, kept)) in row.contenders.iter().zip(&mut figures) {
                let figure = measure(&place).with_context(|| format!("row {}, {name}", row.number))?;
                println!("   {name:<34}{figure:>14.1} {}", row.unit);
                kept.push(figure);
            }
        }
        measured.push(Measured { row, figures });
    }
    let out = root().join(&args.out);
    report::write(&measured, args.rounds.max(1), &out)?;
    println!("written: {}", out.display());
    Ok(())
}
