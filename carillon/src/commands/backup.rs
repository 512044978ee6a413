//! `carillon backup`: the embedded log as one file, checked as it is written. A process that serves goes on meanwhile, and is asked for
//! the copy; where none does, the folder is read by this one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use carillon::control;
use carillon_platform::{
    log::{
        EmbeddedLog,
        backup::{self, Backup},
    },
    settings::{Settings, SettingsArgs},
};

use crate::{fail, refuse};

/// Writes all that the log of data_dir holds into one file, also while `carillon serve` runs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file, which must not be there yet; - is stdout
    file: PathBuf,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

pub(crate) fn run(args: &Args, settings: &Settings) -> ExitCode {
    let data_dir = &settings.data_dir;
    let copied = match args.file.to_str() {
        Some("-") => copy(data_dir, io::stdout().lock()),
        _ if args.file.exists() => return refuse(format!("{} is there already: name another file", args.file.display())),
        _ => to_file(data_dir, &args.file),
    };
    match copied {
        // What is said of a backup must not get into it.
        Ok(Backup { messages, .. }) => {
            eprintln!("{messages} messages are in {}", args.file.display());
            ExitCode::SUCCESS
        }
        Err(error) => fail(format!("no backup of {}: {error}", data_dir.display())),
    }
}

/// Under another name first, so that what is called so is whole, and on the disk.
fn to_file(data_dir: &Path, path: &Path) -> Result<Backup, String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let disk = |error: io::Error| format!("{}: {error}", partial.display());
    // There are payloads in it.
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(disk)?;
    let written = copy(data_dir, &mut file).and_then(|done| {
        file.sync_all().map_err(disk)?;
        fs::rename(&partial, path).map_err(disk)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk)?;
        Ok(done)
    });
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn copy(data_dir: &Path, to: impl Write) -> Result<Backup, String> {
    match control::ask_for_backup(data_dir).map_err(|error| error.to_string())? {
        Some(from) => backup::check(Tee { from, to }).map_err(|error| error.to_string()),
        None if !data_dir.join("log").is_dir() => Err("there is no log in it; set data_dir as the server has it".to_owned()),
        None => {
            let log = EmbeddedLog::open(data_dir).map_err(|error| error.to_string())?;
            log.back_up(to).map_err(|error| error.to_string())
        }
    }
}

/// Writes what is read.
struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}
