//! Project tasks: what CI runs is what a person runs. `cargo xtask test` sets up what the tests need and runs
//! all of them; `cargo xtask ci` checks format, lints, docs and dependency directions first.

use clap::Parser;

mod arrows;
mod bench;
mod chaos;
mod ci;
mod cluster;
mod deny;
mod deploy;
mod instructions;
mod nats;
mod process;
mod rolling;
mod steps;
mod test;
mod tools;
mod wheel;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks")]
enum Command {
    /// Set up what the tests need (NATS server, Node packages, Chromium) and run all of them
    Test,
    /// Everything a change must pass: format, lints, docs, dependency directions, then all tests
    Ci,
    /// Run all services on this machine (NATS, auth, fanout, two gateways) until Ctrl-C: to see the real shape
    Cluster,
    /// Run three NATS nodes, two fanouts, three gateways under load, and kill, stop, restart one after the other: nothing may be lost
    Chaos(chaos::Args),
    /// Have partitions change hands under load (after an idle spell, with a full window of keys, as owners come and go): what it costs
    Owners(chaos::owners::Args),
    /// Measure Carillon beside what it is compared with, and write docs/benchmarks/
    Bench(bench::Args),
    /// Seat a million members in one room, and see one broadcast reach them all
    Million(bench::million::Args),
    /// Seat a large crowd in one room, kill a gateway, and see who is told what of whom
    Presence(bench::presence::Args),
    /// Scrape a cluster under load by a Prometheus with our rules: every query of the dashboard must return data, an alert fire
    Prometheus(bench::prometheus::Args),
    /// Restart one gateway after the other under clients of all doors: nobody may miss or see anything twice
    Rolling(rolling::Args),
    /// Count the instructions of the hot functions by callgrind, against the committed figures
    Instructions(instructions::Args),
    /// Check licences, sources and bans of all dependencies, and advisories where they can be had
    Deny,
    /// Check images, compose files and manifests, as far as that goes without a Docker engine and a cluster
    Deploy,
    /// Print the path of a NATS server for the tests, fetched if there is none: for `cargo test` by hand
    NatsServer,
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let mut steps = steps::Steps::start();
    let result = match command {
        Command::Test => test::run(&mut steps),
        Command::Ci => ci::run(&mut steps),
        Command::Chaos(args) => return chaos::run(&args),
        Command::Owners(args) => return chaos::owners::run(&args),
        Command::Bench(args) => return bench::run(&args),
        Command::Million(args) => return bench::million::run(&args),
        Command::Presence(args) => return bench::presence::run(&args),
        Command::Prometheus(args) => return bench::prometheus::run(&args),
        Command::Rolling(args) => return rolling::run(&args),
        Command::Instructions(args) => return instructions::run(&args),
        Command::Deny => steps.run("deny", deny::check),
        Command::Deploy => steps.run("deploy", deploy::check),
        Command::Cluster => return cluster::run(),
        Command::NatsServer => return nats::find_or_fetch_server().map(|server| println!("{}", server.display())),
    };
    steps.print_summary(result.is_ok());
    result
}
