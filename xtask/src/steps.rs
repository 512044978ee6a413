//! Named steps with the time each took, and the one way in which they start other programs: from the
//! workspace root, without stdin, and a non-zero exit is an error that shows the command.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(crate) struct Steps {
    started: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), taken: Vec::new() }
    }

    /// Runs one step. Its time is kept, and shown in the summary, also when it fails.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("\n── {name}");
        let started = Instant::now();
        let result = step();
        let took = started.elapsed();
        self.taken.push((name, took));
        eprintln!("── {name}: {} in {}", if result.is_ok() { "ok" } else { "FAILED" }, seconds(took));
        result.with_context(|| format!("step `{name}` failed"))
    }

    pub(crate) fn print_summary(&self, ok: bool) {
        let times: Vec<_> = self.taken.iter().map(|(name, took)| format!("{name} {}", seconds(*took))).collect();
        eprintln!(
            "\n{}: {} · total {}",
            if ok { "passed" } else { "FAILED" },
            times.join(" · "),
            seconds(self.started.elapsed())
        );
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The workspace root, wherever the command was called from.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the manifest of xtask lies one folder below the root")
}

/// The cargo that runs this xtask, so that a `+toolchain` holds for all steps.
pub(crate) fn cargo(args: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), args)
}

pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs to the end with output passed through.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs to the end and returns stdout; stderr is passed through.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("could not start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed something that is not UTF-8"))
}
