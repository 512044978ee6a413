//! Everything in one process, put together. Nothing is decided here but the order: first all that may be refused
//! (settings, keys, the data folder), then the addresses, then the parts from the log outwards; the way back is the reverse.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use carillon_auth::{Authority, Revoker, dev_key};
use carillon_fanout::Fanout;
use carillon_gateway::{Config, Counters, Gateway, Tls};
use carillon_platform::{
    admin,
    auth::Revocations,
    bus::InProcessBus,
    kv::EmbeddedBuckets,
    log::EmbeddedLog,
    service::{self, Failure, Process},
};
use tokio_util::sync::CancellationToken;

use crate::{control::Control, page::PAGES};

/// What the process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To try it: makes a key of its own, lets pages of localhost in, serves the demo page.
    Dev,
    /// To rely on it: what it needs must be set.
    Serve,
}

/// A process's parts, bound and ready to run.
pub struct AllInOne {
    process: Process,
    authority: Arc<Authority>,
    tls: Option<Tls>,
    log: Arc<EmbeddedLog>,
    listener: TcpListener,
    listen: SocketAddr,
    mode: Mode,
}

impl AllInOne {
    /// Checks what was said, opens the data folder, binds the address for clients.
    ///
    /// # Errors
    /// [`Failure::Settings`] before anything was bound or written.
    pub fn start(mode: Mode, mut process: Process) -> Result<Self, Failure> {
        let settings = &mut process.settings;
        if settings.nats.url.is_some() {
            let message = "nats.url is set, but `carillon` keeps everything in its own process; run the services instead";
            return Err(Failure::settings(message));
        }
        let has_key = settings.jwt.secret.is_some() || settings.jwt.private_key.is_some() || !settings.jwt.public_keys.is_empty();
        match mode {
            Mode::Serve if !has_key && settings.jwt.jwks_url.is_none() => {
                let message = "no key: set jwt.secret (32 bytes or more), jwt.public_keys, jwt.private_key or jwt.jwks_url";
                return Err(Failure::settings(message));
            }
            Mode::Serve if settings.origins.is_empty() => {
                let message = "no allowed origins: set `origins` to the pages that browsers may connect from, for example \
                               https://app.example.com";
                return Err(Failure::settings(message));
            }
            Mode::Serve => {}
            Mode::Dev => {
                settings.origins.allow_any_localhost_port();
                if !has_key {
                    settings.jwt.secret = Some(dev_key(&settings.data_dir).map_err(Failure::world)?);
                }
            }
        }
        let authority = Authority::from_settings(settings).map_err(Failure::settings)?;
        let tls = Tls::from_settings(&settings.tls).map_err(Failure::settings)?;
        let log = EmbeddedLog::open(&settings.data_dir).map_err(Failure::world)?;
        let listener = service::bind("--listen", settings.listen)?;
        let listen = service::local_address(&listener)?;
        Ok(Self { process, authority: Arc::new(authority), tls, log: Arc::new(log), listener, listen, mode })
    }

    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Issues tokens with this process's key.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// Runs until the drain is over. `more` is printed behind the `ready` line, once clients are served.
    ///
    /// # Errors
    /// If a part could not be started, or broke.
    pub async fn run(self, more: &str) -> Result<(), Failure> {
        let Process { settings, shutdown, readiness, telemetry } = &self.process;
        let counters = Arc::new(Counters::default());
        let bus = Arc::new(InProcessBus::new());
        let buckets = Arc::new(EmbeddedBuckets::of(self.log.clone()));
        let fanout = Fanout::new(settings, self.log.clone(), bus.clone(), buckets.clone()).map_err(Failure::settings)?;
        let fanout = fanout.sole().traced(telemetry.tracer.clone());
        let revocations = Arc::new(Revocations::default());
        let read_again = Duration::from_millis(settings.gateway.revocations_read_ms);
        let revoker = Arc::new(Revoker::new(settings, buckets.clone(), bus.clone()));
        tokio::spawn(revocations.clone().keep(bus.clone(), buckets.clone(), read_again));
        tokio::spawn(revoker.clone().sweep());
        let keys = self.authority.clone();
        let admin = self.process.serve_admin(|admin| {
            admin
                .figures(counters.clone())
                .figures(fanout.counters.clone())
                .figures(self.authority.clone())
                .figures(revocations.clone())
                .route("/.well-known/jwks.json", move || admin::json("application/jwk-set+json", keys.public_keys()))
        })?;
        tokio::spawn(self.authority.clone().keep_keys());

        let (log_closed, watched) = (self.log.closed(), shutdown.clone());
        tokio::spawn(async move { watched.fail("log", log_closed.await) });

        match Control::open(&settings.data_dir, self.log.clone()) {
            Ok(control) => drop(tokio::spawn(control.serve())),
            Err(error) => tracing::warn!(%error, "no backup can be made while this process runs: data_dir takes no socket"),
        }

        let stop = CancellationToken::new();
        let owners = tokio::spawn(fanout.run(stop.clone(), shutdown.clone()));
        let gateway = Gateway {
            config: Config::new(settings),
            tls: self.tls,
            bus,
            buckets,
            verifier: self.authority.clone(),
            issuer: self.authority.clone(),
            revoker,
            revocations: revocations.clone(),
            pages: if self.mode == Mode::Dev { PAGES } else { &[] },
            counters,
            tracer: telemetry.tracer.clone(),
        };
        self.authority.wait_for_keys(Authority::KEYS_PATIENCE).await;
        revocations.wait_until_known().await;
        readiness.set_started();
        self.process.announce(Some(self.listen), admin, more);
        let served = gateway.run(self.listener, shutdown.clone()).await;
        shutdown.begin();
        stop.cancel();
        let _ = owners.await;
        served.map_err(Failure::world)
    }
}
