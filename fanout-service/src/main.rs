//! One replica of the owners, as a process of its own. It waits for NATS before it owns anything, and owns its share of the
//! partitions: all of them while it is alone.

use std::{process::ExitCode, sync::Arc};

use carillon_fanout::{Counters, Fanout};
use carillon_platform::{
    log::{JetStreamConfig, JetStreamLog},
    service::{self, ComingNats, Failure, Process},
    settings::Program,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    service::main(Program::Fanout, "Carillon's fanout service: orders and keeps what is published", serve)
}

async fn serve(process: Process) -> Result<(), Failure> {
    let settings = process.settings.clone();
    let nats = ComingNats::begin(&settings, Program::Fanout).await?;
    let counters = Arc::new(Counters::default());
    let admin = process.serve_admin(|admin| admin.figures(counters.clone()).figures(nats.bus.clone()))?;
    let (bus, buckets, shutdown) = (nats.bus.clone(), nats.buckets.clone(), process.shutdown.clone());
    let tracer = process.telemetry.tracer.clone();
    let owners = tokio_util::task::TaskTracker::new();
    let tracked = owners.clone();
    nats.then(&process, async move |nats| {
        let log = JetStreamLog::start(nats, JetStreamConfig::new(&settings)).await.map_err(Failure::world)?;
        let mut fanout = Fanout::new(&settings, Arc::new(log), bus, buckets).map_err(Failure::settings)?.traced(tracer);
        fanout.counters = counters;
        fanout.place = service::place(admin);
        tracked.spawn(fanout.run(shutdown.token(), shutdown));
        Ok(())
    })
    .await;
    process.announce(None, admin, "");
    process.shutdown.draining().await;
    owners.close();
    owners.wait().await;
    Ok(())
}
