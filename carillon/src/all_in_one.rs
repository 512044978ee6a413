//! Everything in one process, put together. Nothing is decided here but the order: first all that may be refused
//! (settings, keys, the data folder), then the addresses, then the parts from the log outwards; the way back is the reverse.

use std::{net::SocketAddr, sync::Arc};

use carillon_auth::{Authority, dev_key};
use carillon_fanout::Fanout;
use carillon_gateway::{Config, Counters, Gateway};
use carillon_platform::{
    admin::{Admin, Readiness},
    bus::InProcessBus,
    log::EmbeddedLog,
    settings::Settings,
    shutdown::Shutdown,
};
use tokio_util::sync::CancellationToken;

use crate::page::PAGES;

/// What the process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To try it: makes a key of its own, lets pages of localhost in, serves the demo page.
    Dev,
    /// To rely on it: what it needs must be set.
    Serve,
}

/// Why it did not start.
#[derive(Debug)]
pub enum StartError {
    /// What the operator said can't be: exit code 64.
    Settings(String),
    /// The world did not let it: exit code 1.
    World(String),
}

/// A process's parts, bound and ready to run.
pub struct AllInOne {
    settings: Settings,
    authority: Arc<Authority>,
    log: Arc<EmbeddedLog>,
    public: std::net::TcpListener,
    admin: tokio::net::TcpListener,
    mode: Mode,
}

impl AllInOne {
    /// Checks what was said, opens the data folder, binds both addresses.
    ///
    /// # Errors
    /// [`StartError::Settings`] before anything was bound or written.
    pub async fn start(mode: Mode, mut settings: Settings) -> Result<Self, StartError> {
        if settings.nats.url.is_some() {
            let message = "nats.url is set, but `carillon` keeps everything in its own process; run the services instead";
            return Err(StartError::Settings(message.to_owned()));
        }
        let has_key = settings.jwt.secret.is_some() || settings.jwt.private_key.is_some() || !settings.jwt.public_keys.is_empty();
        match mode {
            Mode::Serve if !has_key && settings.jwt.jwks_url.is_none() => {
                let message = "no key: set jwt.secret (32 bytes or more), jwt.public_keys or jwt.private_key";
                return Err(StartError::Settings(message.to_owned()));
            }
            Mode::Serve if settings.origins.is_empty() => {
                let message = "no allowed origins: set `origins` to the pages that browsers may connect from, for example \
                               https://app.example.com";
                return Err(StartError::Settings(message.to_owned()));
            }
            Mode::Serve => {}
            Mode::Dev => {
                settings.origins.allow_any_localhost_port();
                if !has_key {
                    settings.jwt.secret = Some(dev_key(&settings.data_dir).map_err(world)?);
                }
            }
        }
        let authority = Authority::from_settings(&settings).map_err(|error| StartError::Settings(error.to_string()))?;
        let log = EmbeddedLog::open(&settings.data_dir).map_err(world)?;
        let public = bind(settings.listen)?;
        let admin = bind(settings.admin_listen)?;
        admin.set_nonblocking(true).map_err(world)?;
        let admin = tokio::net::TcpListener::from_std(admin).map_err(world)?;
        Ok(Self { settings, authority: Arc::new(authority), log: Arc::new(log), public, admin, mode })
    }

    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.public.local_addr().expect("it is bound")
    }

    /// Where operators look.
    pub fn admin_listen(&self) -> SocketAddr {
        self.admin.local_addr().expect("it is bound")
    }

    /// Issues tokens with this process's key.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// Runs until the drain is over. `on_ready` is called once clients are served.
    ///
    /// # Errors
    /// If a part could not be started, or broke.
    pub async fn run(self, shutdown: Shutdown, on_ready: impl FnOnce()) -> std::io::Result<()> {
        let readiness = Readiness::new(shutdown.token());
        let counters = Arc::new(Counters::default());
        let bus = Arc::new(InProcessBus::new());
        let fanout = Fanout::new(&self.settings, self.log.clone(), bus.clone());
        let appends = fanout.counters.clone();
        let gateway_metrics = counters.clone();
        let admin = Admin::new(readiness.clone()).metrics(move || gateway_metrics.metrics()).metrics(move || appends.metrics());
        let admin = tokio::spawn(admin.serve(self.admin));

        let (log_closed, watched) = (self.log.closed(), shutdown.clone());
        tokio::spawn(async move { watched.fail("log", log_closed.await) });

        let stop = CancellationToken::new();
        let owners = tokio::spawn(fanout.run(stop.clone(), shutdown.clone()));
        let gateway = Gateway {
            config: Config::new(&self.settings),
            bus,
            verifier: self.authority.clone(),
            pages: if self.mode == Mode::Dev { PAGES } else { &[] },
            counters,
        };
        readiness.set_started();
        on_ready();
        let served = gateway.run(self.public, shutdown.clone()).await;
        shutdown.begin();
        stop.cancel();
        let _ = owners.await;
        admin.abort();
        served
    }
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    std::net::TcpListener::bind(address).map_err(|error| {
        StartError::World(format!(
            "can't listen on {address}: {error}; is another one running? `--listen` chooses another address"
        ))
    })
}

fn world(error: impl std::fmt::Display) -> StartError {
    StartError::World(error.to_string())
}
