//! Socket.IO 5 (<https://github.com/socketio/socket.io/blob/main/docs/socket.io-protocol/v5-current.md>), carried by
//! [`crate::engineio`].

pub mod client;
pub mod packet;
