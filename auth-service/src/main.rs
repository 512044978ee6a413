//! The auth service as a process of its own.

use std::{process::ExitCode, sync::Arc};

use carillon_auth::{AuthService, Authority};
use carillon_platform::{
    service::{self, Failure, Process},
    settings::Program,
};

fn main() -> ExitCode {
    service::main(Program::Auth, "Carillon's auth service: verifies and issues tokens, over gRPC", serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let authority = Authority::from_settings(&process.settings).map_err(Failure::settings)?;
    let auth = AuthService::new(Arc::new(authority));
    let listener = service::bind("--listen", process.settings.listen)?;
    let listen = service::local_address(&listener)?;
    let counters = auth.counters();
    let admin = process.serve_admin(|admin| admin.metrics(move || counters.metrics()))?;
    process.readiness.set_started();
    process.announce(Some(listen), admin, "");
    auth.run(listener, process.shutdown).await.map_err(Failure::world)
}
