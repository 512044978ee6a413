//! The contract (`proto/PROTOCOL.md`), held against the whole product: real processes, real sockets, frames as text. One
//! suite for every shape that the product is run in, see [`server::Shape`]; a file per subject.

mod client;
mod server;

mod start;

mod handshake;
mod tokens;

mod membership;
mod personal_room;

mod broadcast;
mod exclusion;
mod idempotency;
mod order;
mod payloads;

mod history;
mod resume;

mod bad_frames;
mod heartbeat;
mod limits;
mod slow_reader;

mod crash;
mod drain;

mod fuzz;
