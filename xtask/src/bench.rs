//! `cargo xtask bench`: Carillon beside what it is measured against, in one run on one machine. Servers have one core, the load
//! the other; contenders take turns, so that what the machine does meanwhile meets all of them; the median of the rounds counts.
//! Every figure is from a load whose members checked order and count. Writes `docs/benchmarks/`.

mod contender;
mod crowd;
pub(crate) mod million;
mod plot;
pub(crate) mod presence;
pub(crate) mod prometheus;
mod report;
mod rows;
mod watcher;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::{self, cargo, root};
use crate::{nats, test, tools};
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
    /// All is built and installed, and the network is the one to measure in
    #[arg(long, hide = true)]
    prepared: bool,
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
    if !args.prepared {
        prepare()?;
        if let Some(mut quiet) = in_a_network_of_its_own()? {
            return steps::run(quiet.args(std::env::args_os().skip(1)).arg("--prepared"));
        }
        eprintln!("No network namespace can be made (`unshare --net`): this machine's connection tracking is measured, too");
    }
    let place = Place::new(nats::find_or_fetch_server()?, args.seconds, args.connections)?;
    let (mut measured, mut failed) = (Vec::new(), 0);
    for row in rows {
        println!("{}. {}", row.number, row.what);
        match measure(row, &place, args.rounds.max(1)) {
            Ok(row) => measured.push(row),
            // The other rows' figures are not to be lost with it.
            Err(error) => {
                failed += 1;
                eprintln!("   NO FIGURES: {error:#}");
            }
        }
    }
    let out = root().join(&args.out);
    report::write(&measured, args.rounds.max(1), &out)?;
    println!("written: {}", out.display());
    if failed > 0 {
        bail!("{failed} rows could not be measured");
    }
    Ok(())
}

/// All contenders of one row, by turns.
fn measure(row: &'static Row, place: &Place, rounds: usize) -> Result<Measured> {
    let mut figures: Vec<(&'static str, Vec<f64>)> = row.contenders.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for _ in 0..rounds {
        for ((name, measure), (_, kept)) in row.contenders.iter().zip(&mut figures) {
            let figure = measure(place).with_context(|| (*name).to_owned())?;
            println!("   {name:<34}{figure:>14.1} {}", row.unit);
            kept.push(figure);
        }
    }
    Ok(Measured { row, figures })
}

/// All that needs the compiler or the net.
fn prepare() -> Result<()> {
    // Each by name: cargo alone would leave the services as they were.
    steps::run(test::build_binaries().arg("--release"))?;
    steps::run(&mut cargo(&["build", "--release", "--locked", "-p", "carillon-loadtest", "--example", "yardstick"]))?;
    tools::check_node()?;
    tools::install_node_packages(YARDSTICKS)?;
    nats::find_or_fetch_server().map(drop)
}

/// This program in a network with nothing but a loopback, where nobody tracks connections: their table would overflow, and
/// looking into it costs as much as some servers do. None where the machine does not let us.
fn in_a_network_of_its_own() -> Result<Option<Command>> {
    const UP: &str = "ip link set lo up";
    let may = Command::new("unshare").args(["--net", "sh", "-c", UP]).status().is_ok_and(|status| status.success());
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &format!(r#"{UP} && exec "$@""#), "sh"]).arg(std::env::current_exe()?);
    Ok(may.then_some(command))
}
