//! The frames of the native client wire: reading what clients send, writing what they are sent. JSON text
//! (RFC 8259) in both directions; payloads are kept as the bytes they came in. What is not known is ignored.

mod client;
mod server;

pub use client::{
    BadFrame, ClientFrame, EpochClaim, Incoming, JoinOptions, MAX_KEY_BYTES, Span, exceeds_depth, parse, parse_fields,
    parse_history,
};
pub use server::{HistoryMessage, Limits, Outgoing, Presence, Present, ServerFrame};
