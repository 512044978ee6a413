//! The WebSocket door (RFC 6455): the handshake, and the frames of both directions. Our own codec, since a server's
//! frames are unmasked: one encoded frame serves every member of a room, and an idle connection owns no buffer.

pub mod codec;
pub mod handshake;
pub(crate) mod socket;
pub(crate) mod upgrade;
