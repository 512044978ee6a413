//! What is kept on NATS keeps the contracts too, and what only NATS can do to it.

#[path = "../contract"]
mod contract {
    pub(crate) mod bus;
    pub(crate) mod kv;
    pub(crate) mod log;
}

mod away;
mod creds;
mod fence;
mod history;
mod server;
mod streams;
mod tls;
mod versions;

mod bus {
    use std::sync::Arc;

    use bytes::Bytes;
    use carillon_platform::bus::{Bus, BusError, NatsBus, Subscription};
    use futures_util::future::BoxFuture;

    use crate::server::NatsServer;

    /// A bus whose server lives as long as it.
    struct Served {
        bus: NatsBus,
        _server: NatsServer,
    }

    impl Bus for Served {
        fn publish(&self, subject: &str, batch: Bytes) {
            self.bus.publish(subject, batch);
        }

        fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>> {
            self.bus.subscribe(subject)
        }
    }

    async fn served() -> Arc<dyn Bus> {
        let server = NatsServer::start();
        Arc::new(Served { bus: NatsBus::new(server.connect().await), _server: server })
    }

    crate::contract::bus::bus_contract!(served().await);
}

mod log {
    use std::sync::Arc;

    use carillon_platform::log::Log;
    use futures_util::{FutureExt, future::BoxFuture};

    use crate::{contract::log::World, server::NatsServer};

    impl World for NatsServer {
        fn open(&self) -> BoxFuture<'_, Arc<dyn Log>> {
            async { Arc::new(self.log().await) as Arc<dyn Log> }.boxed()
        }
    }

    crate::contract::log::log_contract!(NatsServer::start());
}

mod kv {
    use std::sync::Arc;

    use carillon_platform::kv::{Buckets, NatsBuckets};
    use futures_util::{FutureExt, future::BoxFuture};

    use crate::{contract::kv::World, server::NatsServer};

    impl World for NatsServer {
        fn buckets(&self) -> BoxFuture<'_, Arc<dyn Buckets>> {
            async {
                let buckets = NatsBuckets::coming(1);
                buckets.arrive(self.connect().await);
                Arc::new(buckets) as Arc<dyn Buckets>
            }
            .boxed()
        }
    }

    crate::contract::kv::kv_contract!(NatsServer::start());
}
