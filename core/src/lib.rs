//! The rules: what a gateway and an owner do with what arrives. Inputs and the time come in, effects go out; no
//! socket, no clock, no runtime and no chance in here, so that a simulated world can drive the very same code.
//!
//! ```text
//!   client ─▶ session ─▶ rooms ══ link ══▶ partition ─▶ log
//!   client ◀─ outbox  ◀─ rooms ◀══ link ══ partition ◀─ ack
//! ```

pub mod grants;
pub mod lease;
pub mod link;
pub mod outbox;
mod pace;
pub mod partition;
pub mod rate;
pub mod rooms;
pub mod session;
pub mod survey;

/// A moment, as the driver saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a clock that never goes back, from any start.
    pub mono_ms: u64,
    /// Unix milliseconds; may jump.
    pub unix_ms: u64,
}
