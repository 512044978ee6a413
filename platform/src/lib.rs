//! The world behind ports. Each port has two shipped adapters (one inside this process, one over the network)
//! and one contract suite that both pass. Beside the ports stands what every binary needs: settings, logging,
//! the admin endpoint, shutdown. Nothing here knows a rule of rooms.

pub mod auth;
pub mod bus;
pub mod kv;
pub mod log;

pub mod admin;
pub mod health;
pub mod logging;
pub mod nats;
pub mod outbound;
pub mod pem;
pub mod service;
pub mod settings;
pub mod shutdown;
mod supervisor;
pub mod telemetry;
