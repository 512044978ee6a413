//! The bus of a process that is up before NATS is: until the first connection, what is published is lost, as on any bus,
//! and subscriptions wait. After it, this is the bus on NATS, which heals by itself.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::SetOnce;

use super::{Bus, BusError, NatsBus, Subscription};
use crate::{
    nats::{ConnectError, Nats},
    settings,
    telemetry::{Figures, Reading, Unit},
};

/// See the module.
#[derive(Default)]
pub struct AwaitedBus {
    arrived: SetOnce<Arrived>,
    too_early: AtomicU64,
}

struct Arrived {
    nats: Nats,
    bus: NatsBus,
}

impl AwaitedBus {
    /// Waits for NATS as long as it takes; from then on this bus carries. Mistakes in the settings end it at the first
    /// poll.
    pub fn connect(
        self: Arc<Self>,
        settings: settings::Nats,
        name: &'static str,
    ) -> BoxFuture<'static, Result<Nats, ConnectError>> {
        async move {
            let nats = Nats::connect(&settings, name).await?;
            let _ = self.arrived.set(Arrived { nats: nats.clone(), bus: NatsBus::new(nats.clone()) });
            Ok(nats)
        }
        .boxed()
    }
}

impl Figures for AwaitedBus {
    fn read(&self, to: &mut Reading) {
        let arrived = self.arrived.get();
        let is_up = arrived.is_some_and(|arrived| arrived.nats.is_up());
        let unsent = self.too_early.load(Relaxed) + arrived.map_or(0, |arrived| arrived.bus.unsent());
        let unheard = arrived.map_or(0, |arrived| arrived.bus.unheard());
        let (overruns, breaks) = arrived.map_or((0, 0), |arrived| (arrived.nats.overruns(), arrived.nats.breaks()));
        to.gauge("carillon.nats.up", "Whether NATS is there.", Unit::Count, f64::from(u8::from(is_up)));
        to.counter("carillon.nats.breaks", "Times that the connection to NATS broke.", breaks);
        to.counter("carillon.bus.unsent", "Batches that were not sent: NATS away, queue full, too large.", unsent);
        to.counter("carillon.bus.unheard", "Batches lost before their reader here.", unheard);
        to.counter("carillon.nats.overruns", "Messages that the NATS client had no room for.", overruns);
    }
}

impl Bus for AwaitedBus {
    fn publish(&self, subject: &str, batch: Bytes) {
        match self.arrived.get() {
            Some(arrived) => arrived.bus.publish(subject, batch),
            None => {
                self.too_early.fetch_add(1, Relaxed);
            }
        }
    }

    fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>> {
        let subject = subject.to_owned();
        async move { self.arrived.wait().await.bus.subscribe(&subject).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_immediate;

    use super::*;

    #[tokio::test]
    async fn subscriptions_wait_for_nats() {
        let bus = AwaitedBus::default();
        assert!(poll_immediate(bus.subscribe("pub.0")).await.is_none());
        bus.publish("pub.0", Bytes::from_static(b"early"));
        let text = Reading::of([&bus as &dyn Figures]).to_string();
        assert!(text.contains("carillon_bus_unsent_total 1\n") && text.contains("carillon_nats_up 0\n"));
    }

    #[tokio::test]
    async fn bad_settings_end_it_at_once() {
        let settings = settings::Nats { url: None, ..settings::Nats::default() };
        let connecting = Arc::new(AwaitedBus::default()).connect(settings, "test");
        assert!(matches!(poll_immediate(connecting).await, Some(Err(ConnectError::NoUrl))));
    }
}
