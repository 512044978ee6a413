//! Sockets: accepts clients, holds their connections, fans messages out to them. A gateway is one or more shards, each a
//! thread that owns its connections and its rooms outright, so that nothing on a message's way takes a lock. What a
//! client may do and what a room sends to whom is decided in `carillon-core`; here is only how it gets there.
//!
//! ```text
//!   accept ─▶ http ─┬▶ websocket ─▶ connection ─▶ shard ─▶ bus
//!                   ├▶ events ───▶     ┆
//!                   ╰▶ request ──▶     ┆
//!                      door ◀─ hub ◀───┴───────── shard ◀─ bus
//! ```

pub mod asked;
mod config;
mod connection;
mod counters;
mod desk;
mod door;
pub mod engineio;
mod events;
mod http;
mod hub;
mod publishes;
mod shard;
pub mod socketio;
mod tls;
pub mod upload;
pub mod websocket;
mod wheel;
mod wire;

use std::{io, net::TcpListener, sync::Arc};

use carillon_platform::{
    auth::{KeptKeys, Revocations, TokenIssuer, TokenRevoker, TokenVerifier, Unrevoked},
    bus::Bus,
    kv::Buckets,
    shutdown::Shutdown,
    telemetry::Tracer,
};

pub use config::Config;
pub use counters::Counters;
pub use tls::Tls;

/// What a gateway needs of the world.
#[derive(Clone)]
pub struct Gateway {
    /// Its limits and times.
    pub config: Config,
    /// Who takes clients that speak TLS; without it, they speak in the open.
    pub tls: Option<Tls>,
    /// The way to the owners.
    pub bus: Arc<dyn Bus>,
    /// Where what outlives a gateway is kept, and is no message.
    pub buckets: Arc<dyn Buckets>,
    /// Who says what a token is worth.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Who issues tokens.
    pub issuer: Arc<dyn TokenIssuer>,
    /// Who takes them back.
    pub revoker: Arc<dyn TokenRevoker>,
    /// Which were taken back; somebody has to keep it.
    pub revocations: Arc<Revocations>,
    /// Pages served beside the doors, if any.
    pub pages: &'static [Page],
    /// What happened, for `/metrics`.
    pub counters: Arc<Counters>,
    /// Who hears of sampled publishes.
    pub tracer: Tracer,
}

/// A page that is part of the binary.
#[derive(Debug)]
pub struct Page {
    /// Where it is, `/` first.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: &'static [u8],
}

impl Gateway {
    /// Serves `listener` until the drain has let every client go.
    ///
    /// # Errors
    /// If the listener can't be shared between the shards, or a thread can't be started.
    pub async fn run(mut self, listener: TcpListener, shutdown: Shutdown) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        // Nobody gets past this one, whichever door comes and whatever a cache says.
        self.verifier = Arc::new(Unrevoked::new(self.verifier, self.revocations.clone()));
        if let Some(tls) = self.tls.clone() {
            let looking = tls.keep();
            let draining = shutdown.token();
            tokio::spawn(async move { draining.run_until_cancelled_owned(looking).await });
        }
        let rates = Arc::new(http::Rates::new(self.config.session.frames));
        let answers = Arc::new(http::Answers::new(self.config.answers_user_bytes, self.config.answers_total_bytes));
        let known = Arc::new(http::KnownSockets::new(self.config.http_sockets_per_user));
        let keys = Arc::new(KeptKeys::new(self.issuer.clone()));
        let kept = keys.clone();
        let _keeping = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { kept.keep().await }));
        let forgetting = socketio::records::Forgetting::default();
        let desk = desk::Desk::new(self.counters.clone(), self.config.shards, self.bus.clone());
        let _telling = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(desk.clone().keep()));
        let mut shards = Vec::new();
        for number in 0..self.config.shards {
            let (gateway, listener, shutdown) = (self.clone(), listener.try_clone()?, shutdown.clone());
            let shared = http::Shared {
                rates: rates.clone(),
                answers: answers.clone(),
                known: known.clone(),
                keys: keys.clone(),
                forgetting: forgetting.clone(),
                desk: desk.clone(),
            };
            let (ended, end) = tokio::sync::oneshot::channel();
            std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
                let _ = ended.send(shard::run(gateway, shared, listener, shutdown));
            })?;
            shards.push(end);
        }
        drop(listener);
        for end in shards {
            end.await.map_err(|_| io::Error::other("a shard ended by a panic"))??;
        }
        Ok(())
    }
}
