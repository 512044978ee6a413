//! What shapes a partition, and where its owner begins.

use carillon_proto::ids::PartitionId;

use super::retention::Retention;

/// What shapes a partition; the same for all of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Appends under way; what comes beyond is refused with `unavailable`.
    pub window: usize,
    /// Bytes of appends under way; likewise.
    pub window_bytes: usize,
    /// Messages per room that are kept at hand.
    pub ring_messages: usize,
    /// Bytes per room that are kept at hand.
    pub ring_bytes: usize,
    /// Bytes of all rooms together that are kept at hand; the rooms that were used least lately give way.
    pub rings_bytes: usize,
    /// Reads of the log under way; what comes beyond waits. Each brings up to a page (256 KiB).
    pub reads: usize,
    /// How long an idempotency key is known, at least two minutes.
    pub key_window_ms: u64,
    /// How much of each room is kept; the first match counts.
    pub retention: Vec<Retention>,
    /// How long a room that nobody is attached to stays in memory.
    pub idle_room_ms: u64,
    /// Whether it is to be told who comes to rooms and goes ([`super::Effect::Present`], [`super::Effect::Settled`]).
    pub tells_presence: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window: 4096,
            window_bytes: 4 * 1024 * 1024,
            ring_messages: 128,
            ring_bytes: 256 * 1024,
            rings_bytes: 16 * 1024 * 1024,
            reads: 64,
            key_window_ms: 150_000,
            retention: Vec::new(),
            idle_room_ms: 60_000,
            tells_presence: false,
        }
    }
}

/// Where the log stood when this owner took the partition.
#[derive(Debug, Clone)]
pub struct Start {
    /// Which partition.
    pub partition: PartitionId,
    /// Counts up with every owner: gateways drop what lower ones say.
    pub generation: u64,
    /// The life of the log, first part of every epoch.
    pub incarnation: String,
    /// The newest sequence in the log.
    pub last_sequence: u64,
    /// Chance for message ids, from the driver.
    pub seed: u128,
}
