//! A record as a message of a stream: the record is the payload, its place in the room stands in headers.

use async_nats::jetstream::message::StreamMessage;
use carillon_proto::ids::Offset;

use super::trail::Trail;
use crate::log::Stored;

/// The record's offset in its room.
pub(super) const OFFSET_HEADER: &str = "Carillon-Offset";

/// Where the records before it are (see `trail`).
pub(super) const BACK_HEADER: &str = "Carillon-Back";

/// Which open of the partition it came after, markers and records alike.
pub(super) const WRITER_HEADER: &str = "Carillon-Writer";

/// A record that was read.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) offset: Offset,
    /// The room up to the record before this one.
    pub(super) trail: Trail,
    pub(super) stored: Stored,
}

impl Found {
    /// `None` for a message that no `JetStreamLog` wrote.
    pub(super) fn parse(message: StreamMessage) -> Option<Self> {
        let offset = message.headers.get(OFFSET_HEADER)?.as_str().parse().ok()?;
        let trail = Trail::decode(offset, message.sequence, message.headers.get(BACK_HEADER)?.as_str())?;
        Some(Self { offset, trail, stored: Stored { sequence: message.sequence, record: message.payload } })
    }

    /// The room up to and with this record.
    pub(super) fn trail_with_it(&self) -> Trail {
        let mut trail = self.trail.clone();
        trail.push(self.stored.sequence);
        trail
    }
}
