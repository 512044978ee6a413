//! The gateway as a process of its own. It is up before NATS and the auth service are, and tells its clients
//! `unavailable` until then.

use std::{process::ExitCode, sync::Arc, time::Duration};

use carillon_gateway::{Config, Counters, Gateway, Tls};
use carillon_platform::{
    auth::{CachedVerifier, GrpcVerifier, Revocations},
    service::{self, ComingNats, Failure, Process},
    settings::Program,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(Program::Gateway, "Carillon's gateway: holds the connections of clients", serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let settings = &process.settings;
    let auth = Arc::new(GrpcVerifier::from_settings(&settings.auth).map_err(Failure::settings)?);
    let verifier = Arc::new(CachedVerifier::new(auth.clone()));
    let tls = Tls::from_settings(&settings.tls).map_err(Failure::settings)?;
    let nats = ComingNats::begin(settings, Program::Gateway).await?;
    let listener = service::bind("--listen", settings.listen)?;
    let listen = service::local_address(&listener)?;
    let counters = Arc::new(Counters::default());
    let revocations = Arc::new(Revocations::default());
    let read_again = Duration::from_millis(settings.gateway.revocations_read_ms);
    let (mut withdrawals, cache) = (revocations.key_withdrawals(), verifier.clone());
    tokio::spawn(async move {
        while withdrawals.changed().await.is_ok() {
            cache.forget_all();
        }
    });
    tokio::spawn(revocations.clone().keep(nats.bus.clone(), nats.buckets.clone(), read_again));
    let admin = process.serve_admin(|admin| {
        admin
            .figures(counters.clone())
            .figures(verifier.clone())
            .figures(auth.clone())
            .figures(revocations.clone())
            .figures(nats.bus.clone())
    })?;
    let gateway = Gateway {
        config: Config::new(settings),
        tls,
        bus: nats.bus.clone(),
        buckets: nats.buckets.clone(),
        verifier,
        issuer: auth.clone(),
        revoker: auth.clone(),
        revocations: revocations.clone(),
        pages: &[],
        counters,
        tracer: process.telemetry.tracer.clone(),
    };
    let serving = tokio::spawn(gateway.run(listener, process.shutdown.clone()));
    tokio::spawn(async move { auth.wait_until_serving().await });
    let known = async move |_| {
        // Nobody is let in before that.
        revocations.wait_until_known().await;
        Ok(())
    };
    nats.then(&process, known).await;
    process.announce(Some(listen), admin, "");
    serving.await.map_err(Failure::world)?.map_err(Failure::world)
}
