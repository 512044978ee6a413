//! What Carillon is measured against (`cargo xtask bench`): the least that can be done for the same frames. No tokens, no log, no
//! limits, no order across owners; what it shares with a gateway is the kernel.
//!
//! - `tokio`: one thread, connections in a slab, frames encoded once, what happens together leaves together in one `writev`.
//! - `epoll`: the same without a runtime, one write per message: what the kernel's system calls cost.
//! - `collector`: takes OTLP and throws it away.
//! - `nats`: one request and one acked append after the other on JetStream, or many in flight.
//!
//! Of the protocol it knows `join`, `broadcast` (answered by `ack`, delivered as `message`), and close; the load generator can't
//! tell it from a server.

use std::net::SocketAddr;

use clap::Parser;

#[path = "yardstick/collector.rs"]
mod collector;
#[path = "yardstick/dialect.rs"]
mod dialect;
#[path = "yardstick/epoll.rs"]
mod epoll;
#[path = "yardstick/nats.rs"]
mod nats;
#[path = "yardstick/rooms.rs"]
mod rooms;
#[path = "yardstick/runtime.rs"]
mod runtime;

#[derive(Parser)]
enum Yardstick {
    /// A bare server on tokio that coalesces writes
    Tokio {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// A bare server on epoll that writes each message by itself
    Epoll {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// A collector of OTLP that keeps nothing
    Collector {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// What NATS itself needs: a request, and an append that JetStream acks
    Nats(nats::Args),
}

fn main() -> anyhow::Result<()> {
    match Yardstick::parse() {
        Yardstick::Tokio { listen } => runtime::serve(listen),
        Yardstick::Epoll { listen } => epoll::serve(listen),
        Yardstick::Collector { listen } => collector::serve(listen),
        Yardstick::Nats(args) => nats::run(&args),
    }
}
