//! What a partition wants done: the driver does it, and brings the answers back.

use bytes::Bytes;
use carillon_proto::{
    ids::{GatewayId, Offset, RoomName},
    link::DownBatch,
};

/// What the driver is to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Append to the log; the outcomes go to [`super::Partition::on_appended`] in the same order.
    Append {
        /// The room.
        room: RoomName,
        /// The offset that the record has in it.
        offset: Offset,
        /// The sequence that the record must get.
        sequence: u64,
        /// Encoded [`carillon_proto::log::Record`].
        record: Bytes,
        /// W3C trace context of the publish, `""` for none.
        traceparent: String,
    },
    /// Find the room's newest record; the answer goes to [`super::Partition::on_head`].
    Head {
        /// The room.
        room: RoomName,
    },
    /// Read part of a room; the answer goes to [`super::Partition::on_part`].
    Read {
        /// Names the answer.
        ticket: u64,
        /// The room.
        room: RoomName,
        /// Which part: above this offset, oldest first …
        after: Option<Offset>,
        /// … or below this one, the newest.
        before: Option<Offset>,
        /// At most so many records …
        limit: usize,
        /// … and so many bytes, one record excepted.
        bytes: usize,
    },
    /// Forget what is below this offset, some time.
    Trim {
        /// The room.
        room: RoomName,
        /// The oldest offset to keep.
        below: Offset,
        /// What is above this sequence was not judged here, and stays.
        through: u64,
    },
    /// Forget all of a room; then tell [`super::Partition::on_emptied`].
    Empty {
        /// The room.
        room: RoomName,
        /// What is above this sequence was not judged here, and stays: another owner may have had it acked meanwhile.
        through: u64,
    },
    /// A gateway has seen more of a room than there is, in the same life of it: the log has lost what it had acked. The
    /// partition must be taken anew, with another incarnation.
    TailLost,
    /// A user came to a room with the first connection, or went with the last one (after the grace).
    Present {
        /// The room.
        room: RoomName,
        /// Who.
        user: Box<str>,
        /// Came, or went.
        is_here: bool,
        /// Users in the room now.
        users: u64,
    },
    /// Who is in the room was not known for a while, and is now: see [`super::Partition::occupancy`].
    Settled {
        /// The room.
        room: RoomName,
    },
    /// Send a batch to a gateway.
    Send {
        /// Which one.
        gateway: GatewayId,
        /// The batch.
        batch: DownBatch,
    },
}
