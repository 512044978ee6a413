//! The contract (`proto/PROTOCOL.md`), held against the whole product: real processes, real sockets, frames as text. One
//! suite for every shape that the product is run in, see [`server::Shape`]; a file per subject.

mod client;
mod listener;
mod load;
mod server;

mod start;

mod forged;
mod handshake;
mod polling;
mod revocation;
mod rotation;
mod tokens;

mod membership;
mod personal_room;
mod presence;

mod broadcast;
mod exclusion;
mod idempotency;
mod order;
mod owners;
mod payloads;

mod erasing;
mod history;
mod resume;
mod retention;

mod engineio;
mod events;
mod http;
mod recovery;

mod bad_frames;
mod crowd;
mod edges;
mod heartbeat;
mod limits;
mod slow_reader;
mod unread;

mod admin;
mod backup;
mod commands;
mod doctor;
mod hooks;
mod load_tool;

mod telemetry;

mod cluster;
mod crash;
mod drain;
mod strangers;
mod tls;

mod endurance;
mod faults;
mod fuzz;
mod hostile;
