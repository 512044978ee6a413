//! Project tasks: what CI runs is what a person runs. `cargo xtask test` sets up what the tests need and runs
//! all of them; `cargo xtask ci` checks format, lints, docs and dependency directions first.

use clap::Parser;

mod arrows;
mod ci;
mod steps;
mod test;
mod tools;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks")]
enum Command {
    /// Set up what the tests need (Node packages, Chromium) and run all of them
    Test,
    /// Everything a change must pass: format, lints, docs, dependency directions, then all tests
    Ci,
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let mut steps = steps::Steps::start();
    let result = match command {
        Command::Test => test::run(&mut steps),
        Command::Ci => ci::run(&mut steps),
    };
    steps.print_summary(result.is_ok());
    result
}
