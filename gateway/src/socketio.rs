//! The Socket.IO door: Socket.IO 5 (<https://github.com/socketio/socket.io/blob/main/docs/socket.io-protocol/v5-current.md>)
//! over [`crate::engineio`]. Packets and the rules of connecting are for anyone to use; the door itself turns events into
//! native frames and back, and keeps what a client needs to come back.
//!
//! ```text
//!   engineio ─▶ door ─▶ client ─▶ events ─▶ shard
//!   engineio ◀──── seat ◀── hub ◀────────── shard
//! ```

pub mod client;
pub(crate) mod door;
pub mod events;
pub mod packet;
pub mod position;
pub(crate) mod records;
pub(crate) mod seat;
