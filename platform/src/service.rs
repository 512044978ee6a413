//! What every process does around its own work, the same for all: flags and settings before anything else, then the log,
//! the threads and the signals; addresses, the admin port and the `ready` line; the exit code. Knows no service.
//!
//! ```text
//!   parse ─▶ settings ─▶ log, threads, signals ─▶ work: bind ─▶ serve_admin ─▶ announce ─▶ … drain ─▶ exit code
//!   └──── 64 if wrong ────────────────────────────┘                                        0 drained, 1 failed
//! ```

use std::{
    fmt,
    future::Future,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clap::{Args as _, FromArgMatches as _};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, poll_immediate},
};
use sha2::Digest as _;

use tokio::task::JoinHandle;

use crate::{
    admin::{Admin, Readiness},
    bus::AwaitedBus,
    health,
    kv::NatsBuckets,
    logging,
    nats::{ConnectError, Nats},
    settings::{Program, Settings, SettingsArgs},
    shutdown::Shutdown,
    supervisor,
    telemetry::Telemetry,
};

/// Exit code of bad settings or usage (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// How long the end waits for threads that are busy with something that can't be interrupted, such as a name look-up.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// Why a process could not start, or not go on. The text is for whoever started it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What the operator said can't be: exit code 64.
    #[error("{0}")]
    Settings(String),
    /// The world did not let it: exit code 1.
    #[error("{0}")]
    World(String),
}

impl Failure {
    /// For `map_err`.
    pub fn settings(error: impl fmt::Display) -> Self {
        Self::Settings(error.to_string())
    }

    /// For `map_err`.
    pub fn world(error: impl fmt::Display) -> Self {
        Self::World(error.to_string())
    }

    /// Tells it on stderr, under the name of the program, and gives its exit code.
    pub fn exit(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {self}");
        match self {
            Self::Settings(_) => ExitCode::from(USAGE),
            Self::World(_) => ExitCode::FAILURE,
        }
    }
}

/// Says what clap found, which may be the help that was asked for, and gives the exit code.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// The whole `main` of a binary that takes settings and nothing else.
pub fn main<F>(program: Program, about: &'static str, work: impl FnOnce(Process) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    let command = clap::Command::new(program.name()).version(env!("CARGO_PKG_VERSION")).about(about).arg(
        clap::Arg::new(HEALTH)
            .long(HEALTH)
            .action(clap::ArgAction::SetTrue)
            .help("Ask the one that runs here with these settings whether it is ready, and end: 0 if so, else 1"),
    );
    let parsed = SettingsArgs::augment_args(command)
        .try_get_matches()
        .and_then(|found| Ok((found.get_flag(HEALTH), SettingsArgs::from_arg_matches(&found)?)));
    match parsed.map(|(asks, args)| (asks, Settings::load(program, &args))) {
        Ok((true, Ok(settings))) => health(program, &settings),
        Ok((false, Ok(settings))) => run(program, settings, work),
        Ok((_, Err(error))) => Failure::settings(error).exit(program.name()),
        Err(error) => usage(&error),
    }
}

/// The flag of the services that asks instead of starting.
const HEALTH: &str = "health";

/// Asks the process that runs here with the same settings whether it is ready, says so, and gives the exit code of a health
/// check.
pub fn health(program: Program, settings: &Settings) -> ExitCode {
    match health::ask(settings.admin_listen) {
        Ok(()) => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Err(problem) => Failure::World(problem).exit(program.name()),
    }
}

/// Starts log, threads and signals, does the work, and tells how it ended.
pub fn run<F>(program: Program, settings: Settings, work: impl FnOnce(Process) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    // A second start in one process happens in tests only, and the first log is as good.
    let _ = logging::start(&settings.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::World(format!("can't start threads: {error}")).exit(program.name()),
    };
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(|error| Failure::World(format!("can't listen to signals: {error}")))?;
        let readiness = Readiness::new(shutdown.token());
        let draining = shutdown.clone();
        tokio::spawn(async move {
            draining.draining().await;
            supervisor::stopping();
        });
        let telemetry = Arc::new(Telemetry::start(&settings.otel, program).map_err(Failure::Settings)?);
        let worked = work(Process { settings, shutdown: shutdown.clone(), readiness, telemetry: telemetry.clone() }).await;
        telemetry.flush().await;
        worked?;
        Ok(shutdown.exit_code())
    });
    runtime.shutdown_timeout(LAST_GRACE);
    ended.unwrap_or_else(|failure: Failure| failure.exit(program.name()))
}

/// How long a process that is up waits for NATS before it says so all the same. Where NATS is there already, whoever waits
/// for the `ready` line finds the process at work then.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// NATS on its way to a process that doesn't wait for it.
pub struct ComingNats {
    /// What the gateway or the owners are given meanwhile.
    pub bus: Arc<AwaitedBus>,
    /// Where several processes agree on things; opening a bucket waits for NATS.
    pub buckets: Arc<NatsBuckets>,
    connecting: BoxFuture<'static, Result<Nats, ConnectError>>,
}

impl ComingNats {
    /// Begins to connect.
    ///
    /// # Errors
    /// If the settings of NATS can't be used.
    pub async fn begin(settings: &Settings, program: Program) -> Result<Self, Failure> {
        let bus = Arc::new(AwaitedBus::default());
        let buckets = Arc::new(NatsBuckets::coming(settings.nats.replicas));
        let (connected, arrived) = (bus.clone().connect(settings.nats.clone(), program.name()), buckets.clone());
        let mut connecting = async move {
            let nats = connected.await?;
            arrived.arrive(nats.clone());
            Ok(nats)
        }
        .boxed();
        match poll_immediate(&mut connecting).await {
            Some(Err(error)) => Err(Failure::settings(error)),
            Some(Ok(nats)) => Ok(Self { bus, buckets, connecting: std::future::ready(Ok(nats)).boxed() }),
            None => Ok(Self { bus, buckets, connecting }),
        }
    }

    /// Goes on in the background, and calls `start` once NATS is there: the first start is done when that is. A NATS that
    /// can't be used ends the process. Returns when the start is done, or has taken a moment too long.
    pub async fn then<F>(self, process: &Process, start: impl FnOnce(Nats) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Failure>> + Send,
    {
        let _ = tokio::time::timeout(START_PATIENCE, self.spawn(process, start)).await;
    }

    /// As [`Self::then`], for a process that is at work without NATS: waits for nothing.
    pub fn in_background(self, process: &Process) {
        drop(self.spawn(process, async |_| Ok(())));
    }

    fn spawn<F>(self, process: &Process, start: impl FnOnce(Nats) -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = Result<(), Failure>> + Send,
    {
        let (readiness, shutdown) = (process.readiness.clone(), process.shutdown.clone());
        let starting = async move {
            let nats = self.connecting.await.map_err(Failure::world)?;
            start(nats).await?;
            readiness.set_started();
            Ok::<_, Failure>(())
        };
        tokio::spawn(async move {
            tokio::select! {
                started = starting => if let Err(failure) = started {
                    shutdown.fail("start", failure);
                },
                () = shutdown.draining() => {}
            }
        })
    }
}

/// A started process, before and during its work.
pub struct Process {
    /// What it is told.
    pub settings: Settings,
    /// Its end.
    pub shutdown: Shutdown,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What it tells beside its admin port.
    pub telemetry: Arc<Telemetry>,
}

impl Process {
    /// Serves the admin port until the process ends, and tells where it is. `parts` adds metrics and routes.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn serve_admin(&self, parts: impl FnOnce(Admin) -> Admin) -> Result<SocketAddr, Failure> {
        let listener = bind("--admin-listen", self.settings.admin_listen)?;
        let address = local_address(&listener)?;
        listener.set_nonblocking(true).map_err(Failure::world)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::world)?;
        let admin = parts(Admin::new(self.readiness.clone()).figures(self.telemetry.figures()));
        self.telemetry.tell(admin.all_figures());
        tokio::spawn(admin.serve(listener));
        Ok(address)
    }

    /// Tells whoever started the process (in one line on stdout, and a supervisor in its own way) that it is up and where; `more` follows it. A process
    /// that ends already says nothing.
    pub fn announce(&self, listen: Option<SocketAddr>, admin: SocketAddr, more: &str) {
        if self.shutdown.is_draining() {
            return;
        }
        let listen = listen.map(|address| format!("listen={address} ")).unwrap_or_default();
        // Whoever reads this line may have gone: that ends nothing.
        let _ = write!(std::io::stdout(), "ready {listen}admin={admin}\n{more}");
        let _ = std::io::stdout().flush();
        supervisor::ready();
    }
}

/// Listens on an address; `flag` is what chooses another one.
///
/// # Errors
/// If the address can't be had.
pub fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        Failure::World(format!("can't listen on {address}: {error}; is another one running? `{flag}` chooses another address"))
    })
}

/// Where a listener listens, the port that the system chose included.
///
/// # Errors
/// If the system does not say.
pub fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(Failure::world)
}

/// Names where this process is, so that no other one can be there as long as it listens on `address`: this boot of this
/// machine, this network, this port. Empty where the system does not tell.
pub fn place(address: SocketAddr) -> Bytes {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let network = std::fs::read_link("/proc/self/ns/net");
    match (boot, network) {
        (Ok(boot), Ok(network)) => {
            let place = format!("{} {} {address}", boot.trim(), network.display());
            Bytes::copy_from_slice(&sha2::Sha256::digest(place)[..16])
        }
        _ => Bytes::new(),
    }
}
