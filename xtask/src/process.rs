//! A process of the product that a task runs: started, waited for until it is up, signalled, ended; none outlives the task.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a process may take to be up, and to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One process.
pub(crate) struct Process {
    pub(crate) name: String,
    command: Command,
    log: PathBuf,
    /// It prints no `ready` line.
    pub(crate) is_silent: bool,
    child: Option<Child>,
    /// What it said when it was up.
    pub(crate) said: String,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn new(name: &str, command: Command, data: &Path) -> Self {
        let log = data.join(format!("{name}.log"));
        Self { name: name.to_owned(), command, log, is_silent: false, child: None, said: String::new(), stdout: None }
    }

    /// One that prints no `ready` line.
    pub(crate) fn silent(name: &str, command: Command, data: &Path) -> Self {
        let mut process = Self::new(name, command, data);
        process.is_silent = true;
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let stdout = if self.is_silent { log.try_clone()?.into() } else { Stdio::piped() };
        // A group of its own: Ctrl-C is for this process, which ends the others in their order.
        self.command.process_group(0).stdin(Stdio::null()).stdout(stdout).stderr(log);
        let mut child = self.command.spawn().with_context(|| format!("could not start {:?}", self.command))?;
        self.stdout = child.stdout.take().map(BufReader::new);
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn wait_until_up(&mut self) -> Result<()> {
        let Some(mut stdout) = self.stdout.take() else { return Ok(()) };
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = tell.send((line, stdout));
        });
        match said.recv_timeout(PATIENCE) {
            Ok((line, stdout)) if line.starts_with("ready ") => {
                self.said = line.trim_end().to_owned();
                self.stdout = Some(stdout);
                Ok(())
            }
            _ => bail!("{} did not come up; its log:\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default()),
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        let Some(child) = &mut self.child else { return true };
        let ended = child.try_wait();
        if let Ok(Some(status)) = &ended {
            println!("{}: {status}", self.name);
            self.child = None;
        }
        self.child.is_none()
    }

    /// Sends a signal, as `TERM` or `STOP`, if it runs.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        }
    }

    /// Asks it to end, and waits until it has, however long that takes.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        self.signal("TERM");
        let mut child = self.child.take().context("it does not run")?;
        Ok(child.wait()?)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
