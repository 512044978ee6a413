//! The end of a process: what asks for it, and who hears of it. How long a drain takes and what it does is for those who
//! drain.
//!
//! ```text
//!   SIGTERM, SIGINT, begin() ──▶ draining ──▶ everything has ended ──▶ exit 0
//!   a second signal ───────────────────────────────────────────────▶ exit 1, at once
//!   fail() ────────────────────▶ draining, failed ──▶ ended, or FATAL_GRACE is over ──▶ exit 1
//! ```

use std::{
    fmt, io,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// How long a process with a fatal error may still take to tell its clients to go elsewhere.
pub const FATAL_GRACE: Duration = Duration::from_secs(5);

/// One process's end, shared by all its components.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    failed: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Shutdown {
    /// One that only [`begin`](Self::begin) and [`fail`](Self::fail) start, for tests and for commands.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that listens to signals and keeps the promises above about exit codes. Call it before anything is bound: until
    /// then, a signal ends the process as the system pleases.
    pub fn on_signals() -> io::Result<Self> {
        end_on_panic();
        let mut signals = Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        let shutdown = Self::new();
        let heard = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                name = signals.next() => tracing::info!(signal = name, "draining; a second signal ends the process at once"),
                () = heard.draining() => {}
            }
            heard.begin();
            tokio::select! {
                name = signals.next() => tracing::warn!(signal = name, "ended by a second signal"),
                () = heard.fatal_grace() => tracing::error!("ended without drain: it took longer than {FATAL_GRACE:?}"),
            }
            std::process::exit(1);
        });
        Ok(shutdown)
    }

    /// Starts the drain. Again, it does nothing.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Reports an error after which the process must end, and starts the drain. The first report counts.
    pub fn fail(&self, component: &str, error: impl fmt::Display) {
        tracing::error!(component, %error, "fatal: the process ends");
        let _ = self.failure.set(format!("{component}: {error}"));
        self.failed.cancel();
        self.begin();
    }

    /// Resolves when the drain starts.
    pub fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.draining.cancelled()
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// For those who keep a token of their own: cancelled when the drain starts. Cancelling it starts the drain.
    pub fn token(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Resolves when something has failed: whoever drains then takes no time for it.
    pub fn failed(&self) -> WaitForCancellationFuture<'_> {
        self.failed.cancelled()
    }

    /// The first failure that was reported.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// What `main` returns once everything has ended.
    pub fn exit_code(&self) -> ExitCode {
        if self.failure().is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    async fn fatal_grace(&self) {
        self.failed().await;
        tokio::time::sleep(FATAL_GRACE).await;
    }
}

/// A part that has panicked can't be relied on, and a process without it would look sound while it serves nobody. What was
/// acked is in the log; the next start goes on from there.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a panic: the process ends");
        report(panic);
        std::process::exit(1);
    }));
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;

    #[test]
    fn first_failure_is_kept() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_draining());
        shutdown.fail("log", "disk full");
        shutdown.fail("bus", "later");
        assert!(shutdown.is_draining());
        assert_eq!(shutdown.failure(), Some("log: disk full"));
        assert_eq!(shutdown.exit_code(), ExitCode::FAILURE);
    }

    #[tokio::test]
    async fn every_clone_hears_the_drain() {
        let shutdown = Shutdown::new();
        let (clone, token) = (shutdown.clone(), shutdown.token());
        let waiting = tokio::spawn(async move { clone.draining().await });
        shutdown.begin();
        waiting.await.unwrap();
        assert!(token.is_cancelled());
        assert_eq!(shutdown.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn one_signal_drains() {
        for signal in ["TERM", "INT"] {
            let mut process = process("drains");
            kill(&process, signal);
            assert_eq!(process.wait().unwrap().code(), Some(0), "SIG{signal}");
        }
    }

    #[test]
    fn second_signal_ends_at_once() {
        let mut process = process("hangs");
        kill(&process, "TERM");
        expect_line(&mut process, "draining");
        kill(&process, "INT");
        assert_eq!(process.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn fatal_error_ends_with_failure() {
        assert_eq!(process("fails").wait().unwrap().code(), Some(1));
    }

    #[test]
    fn panic_of_any_task_ends_the_process() {
        let mut process = process("panics");
        // Otherwise it would look sound for ever.
        let started = std::time::Instant::now();
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > Duration::from_secs(20) {
                kill(&process, "KILL");
                panic!("it goes on");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(1));
    }

    /// Signals and exit codes belong to a whole process: this test binary runs itself, as the process of `BEHAVIOUR`.
    fn process(behaviour: &str) -> Child {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown::tests::child_process", "--nocapture", "--quiet"])
            .env(BEHAVIOUR, behaviour)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        expect_line(&mut process, "ready");
        process
    }

    const BEHAVIOUR: &str = "SHUTDOWN_TEST_BEHAVIOUR";

    fn expect_line(process: &mut Child, expected: &str) {
        // Read without read-ahead beyond this line being lost: the child writes nothing until it is signalled.
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == expected), "the child never said {expected}");
    }

    fn kill(process: &Child, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn child_process() {
        let Ok(behaviour) = std::env::var(BEHAVIOUR) else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let code = runtime.block_on(async {
            let shutdown = Shutdown::on_signals().unwrap();
            println!("\nready");
            if behaviour == "fails" {
                shutdown.fail("test", "broken");
            }
            if behaviour == "panics" {
                drop(tokio::spawn(async { panic!("a task breaks") }));
            }
            shutdown.draining().await;
            println!("draining");
            if behaviour == "hangs" {
                std::future::pending::<()>().await;
            }
            i32::from(shutdown.failure().is_some())
        });
        std::process::exit(code);
    }
}
