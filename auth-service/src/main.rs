//! The auth service as a process of its own.

use std::{process::ExitCode, sync::Arc};

use carillon_auth::{AuthService, Authority, Revoker};
use carillon_platform::{
    admin,
    service::{self, ComingNats, Failure, Process},
    settings::Program,
};

fn main() -> ExitCode {
    service::main(Program::Auth, "Carillon's auth service: verifies, issues and revokes tokens, over gRPC", serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let authority = Authority::from_settings(&process.settings).map_err(Failure::settings)?;
    let authority = Arc::new(authority);
    let nats = ComingNats::begin(&process.settings, Program::Auth).await?;
    let revoker = Arc::new(Revoker::new(&process.settings, nats.buckets.clone(), nats.bus.clone()));
    tokio::spawn(revoker.clone().sweep());
    let auth =
        AuthService::new(authority.clone()).revoking(revoker).with_tls(&process.settings.grpc).map_err(Failure::settings)?;
    let auth = auth.traced(process.telemetry.tracer.clone());
    let listener = service::bind("--listen", process.settings.listen)?;
    let listen = service::local_address(&listener)?;
    let counters = auth.counters();
    let (keys, figures) = (authority.clone(), authority.clone());
    let bus = nats.bus.clone();
    let admin = process.serve_admin(|admin| {
        admin
            .figures(counters)
            .figures(figures)
            .figures(bus)
            .route("/.well-known/jwks.json", move || admin::json("application/jwk-set+json", keys.public_keys()))
    })?;
    tokio::spawn(authority.tell_withdrawals(nats.bus.clone()));
    tokio::spawn(authority.clone().keep_keys());
    authority.wait_for_keys(Authority::KEYS_PATIENCE).await;
    // Tokens are checked without NATS; only taking them back needs it.
    process.readiness.set_started();
    nats.in_background(&process);
    process.announce(Some(listen), admin, "");
    auth.run(listener, process.shutdown).await.map_err(Failure::world)
}
