//! `carillon restore`: a log made of a backup, in a data folder that has none. Nothing is overwritten, and a backup that is not whole
//! leaves nothing behind.

use std::{fs::File, io, path::PathBuf, process::ExitCode};

use carillon_platform::{
    log::backup::{self, Backup},
    settings::{Settings, SettingsArgs},
};

use crate::fail;

/// Makes the log of data_dir of a backup; it is a new life of it, and clients are told so (`reason: epoch`).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file that `carillon backup` wrote; - is stdin
    file: PathBuf,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> ExitCode {
    let restored = match args.file.to_str() {
        Some("-") => backup::restore(&settings.data_dir, io::stdin().lock()),
        _ => match File::open(&args.file) {
            Ok(file) => backup::restore(&settings.data_dir, file),
            Err(error) => return fail(format!("{}: {error}", args.file.display())),
        },
    };
    match restored {
        Ok(Backup { messages, .. }) => {
            println!("{messages} messages are in {}", settings.data_dir.display());
            ExitCode::SUCCESS
        }
        Err(error) => fail(format!("{}: {error}", args.file.display())),
    }
}
