//! Engine.IO 4: a connection that a client holds by HTTP requests, by a WebSocket, or first by one and then by the other
//! (<https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v4-current.md>). Our own transport: the
//! rules are a plain state machine ([`peer`]), the [`Server`] around it carries requests and frames to it. What is said over
//! it is the [`Application`]'s business: the Socket.IO door here, an echo in the examples.

mod bridge;
mod elsewhere;
pub mod packet;
pub mod peer;
pub mod request;
mod server;
mod websocket;

pub use elsewhere::Elsewhere;
pub use server::{Application, Config, Cors, Server, Socket};
