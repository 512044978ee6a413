//! The command line: `carillon dev`, `carillon serve`, and what one does with a running one.

mod commands;

use std::process::ExitCode;

use carillon::Mode;
use carillon_platform::{
    service::{self, Failure},
    settings::{Program, Settings, SettingsArgs},
};
use clap::{CommandFactory as _, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Durable real-time rooms.
#[derive(Parser)]
#[command(name = "carillon", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything embedded, a demo page at `/`, a key of its own: to try Carillon.
    Dev {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Everything embedded, for production on one machine.
    Serve {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Asks the one that runs here with these settings whether it is ready: exit code 0 if so, else 1.
    Health {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Prints a token, and nothing else.
    Token(commands::token::Args),
    Publish(commands::publish::Args),
    Tail(commands::tail::Args),
    Rooms(commands::rooms::Args),
    Connections(commands::connections::Args),
    Backup(commands::backup::Args),
    Restore(commands::restore::Args),
    Doctor(commands::doctor::Args),
    /// Puts load on a running server and checks what comes back.
    Load(carillon_loadtest::Args),
    Completions(commands::manual::CompletionsArgs),
    Man(commands::manual::ManArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return service::usage(&error),
    };
    match cli.command {
        Command::Dev { settings } => with(&settings, |settings| commands::serve::run(Mode::Dev, settings)),
        Command::Serve { settings } => with(&settings, |settings| commands::serve::run(Mode::Serve, settings)),
        Command::Health { settings } => with(&settings, |settings| service::health(Program::AllInOne, &settings)),
        Command::Publish(args) => commands::run_client(commands::publish::run(args)),
        Command::Tail(args) => commands::run_client(commands::tail::run(args)),
        Command::Rooms(args) => commands::run_client(commands::rooms::run(args)),
        Command::Connections(args) => commands::run_client(commands::connections::run(args)),
        Command::Backup(args) => with(&args.settings, |settings| commands::backup::run(&args, &settings)),
        Command::Restore(args) => with(&args.settings, |settings| commands::restore::run(&args, &settings)),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions(args) => commands::manual::completions(&args, Cli::command()),
        Command::Man(args) => commands::manual::man(&args, Cli::command()),
        Command::Load(args) => commands::load::run(&args),
        Command::Token(args) => with(&args.settings, |settings| commands::token::run(&args, settings)),
    }
}

fn with(args: &SettingsArgs, run: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
    match Settings::load(Program::AllInOne, args) {
        Ok(settings) => run(settings),
        Err(error) => refuse(error),
    }
}

/// Bad settings or usage, told to whoever started this.
fn refuse(error: impl std::fmt::Display) -> ExitCode {
    Failure::settings(error).exit(Program::AllInOne.name())
}

/// The world did not let it.
fn fail(error: impl std::fmt::Display) -> ExitCode {
    Failure::world(error).exit(Program::AllInOne.name())
}
