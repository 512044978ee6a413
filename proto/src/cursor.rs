//! Where a client stands in several rooms, as one opaque text: the `id` of Server-Sent Events. A resume with it is a join with `since` and an epoch, room by room (docs/decisions/0006).
//!
//! ```text
//!   version 1 │ room: 3 bytes, epoch: 4 bytes, offset: 1–8 bytes │ … │ checksum: 4 bytes        base64url, no padding
//! ```
//!
//! Rooms and epochs are hashes, big-endian; an offset is a varint (LEB128, shortest form); the checksum is FNV-1a of all before
//! it, against texts that were cut or mixed up, not against malice: whoever forges a cursor could as well join with any `since`.
//!
//! **Size.** 1 KiB of text are 768 bytes; without version and checksum 763. 64 rooms with offsets below 2^28 take
//! 64 × (3 + 4 + 4) = 704. With five bytes of offset, below 2^35, 63 of the 64 rooms still fit.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    frame::{EpochClaim, JoinOptions},
    ids::{MAX_OFFSET, Offset, RoomName, fnv1a32},
};

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// FNV-1a of nothing: the epoch of a room that is empty, or one that is not known.
const NO_EPOCH: u32 = 0x811c_9dc5;

/// A room, as a cursor names it: 24 bits. Among 64 rooms two share one with a chance of 1 to 8000; then their order tells them
/// apart, see [`Cursor::find`]; unless the rooms are others now, see [`Cursor::is_ambiguous`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomMark(u32);

impl RoomMark {
    /// The mark of a room.
    pub fn of(room: &RoomName) -> Self {
        Self(fnv1a32(room.as_str().as_bytes()) & 0x00FF_FFFF)
    }
}

/// How far a room was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    offset: Offset,
    /// FNV-1a of the epoch.
    epoch: u32,
}

impl Position {
    /// Not known yet: the client was let go before the room had said where it stands. No room says this itself, since nothing
    /// was seen in it, and yet it names an epoch. Whoever comes back with it may have missed something.
    pub const UNKNOWN: Self = Self { offset: 0, epoch: 0 };

    /// At this offset of this life of the room.
    pub fn new(offset: Offset, epoch: &str) -> Self {
        Self { offset, epoch: fnv1a32(epoch.as_bytes()) }
    }

    /// The newest offset that was seen.
    pub fn offset(self) -> Offset {
        self.offset
    }

    /// A message was seen. `epoch`: where it is known, as it is for a `message`, not for an `own`.
    pub fn advance(&mut self, offset: Offset, epoch: Option<&str>) {
        self.offset = offset;
        if offset == 1 || self.epoch == NO_EPOCH {
            self.epoch = epoch.map_or(NO_EPOCH, |epoch| fnv1a32(epoch.as_bytes()));
        }
    }

    /// The join that goes on from here.
    pub fn resume(self) -> JoinOptions {
        let epoch = (self.epoch != NO_EPOCH).then_some(EpochClaim::Hashed(self.epoch));
        JoinOptions { since: Some(self.offset), epoch, ..JoinOptions::default() }
    }
}

/// The positions in several rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(Vec<(RoomMark, Position)>);

/// Why a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl Cursor {
    /// The longest text of an event's `id`, bytes.
    pub const MAX_ID_BYTES: usize = 1024;

    /// Reads a cursor. `max_bytes` bounds the text; of what a client sent nothing longer is looked at.
    ///
    /// # Errors
    /// [`Unreadable`] for whatever [`encode`] did not make: too long, cut, of another version, with a bit turned.
    pub fn parse(text: &str, max_bytes: usize) -> Result<Self, Unreadable> {
        if text.len() > max_bytes {
            return Err(Unreadable);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Unreadable)?;
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Unreadable)?;
        if fnv1a32(body) != u32::from_be_bytes(*checksum) {
            return Err(Unreadable);
        }
        let Some((&VERSION, mut rest)) = body.split_first() else { return Err(Unreadable) };
        let mut places = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<7>() {
            let [a, b, c, epoch @ ..] = *head;
            let (offset, behind) = varint(behind).ok_or(Unreadable)?;
            places.push((RoomMark(u32::from_be_bytes([0, a, b, c])), Position { offset, epoch: u32::from_be_bytes(epoch) }));
            rest = behind;
        }
        if rest.is_empty() { Ok(Self(places)) } else { Err(Unreadable) }
    }

    /// Whether nobody can tell which of several positions under one mark is whose: where another number of rooms has it now than when it
    /// was written. One that has none is new in the request.
    pub fn is_ambiguous(&self, room: RoomMark, asked: usize) -> bool {
        let named = self.0.iter().filter(|(mark, _)| *mark == room).count();
        named > 0 && named != asked
    }

    /// The position of a room. `earlier`: how many rooms with the same mark stand before it in the order of the names, in which
    /// cursors are written.
    pub fn find(&self, room: RoomMark, earlier: usize) -> Option<Position> {
        self.0.iter().filter(|(mark, _)| *mark == room).nth(earlier).map(|(_, position)| *position)
    }
}

/// Writes a cursor. The rooms come in the order of their names.
pub fn encode(places: impl Iterator<Item = (RoomMark, Position)>) -> String {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(VERSION);
    for (room, position) in places {
        bytes.extend_from_slice(&room.0.to_be_bytes()[1..]);
        bytes.extend_from_slice(&position.epoch.to_be_bytes());
        let mut offset = position.offset;
        while offset >= 0x80 {
            bytes.push(offset as u8 | 0x80);
            offset >>= 7;
        }
        bytes.push(offset as u8);
    }
    let checksum = fnv1a32(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An offset in its shortest form, and what follows it.
fn varint(bytes: &[u8]) -> Option<(Offset, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let (digits, rest) = bytes.split_at(length);
    if length > 8 || length > 1 && digits[length - 1] == 0 {
        return None;
    }
    let offset = digits.iter().rev().fold(0, |offset: u64, byte| offset << 7 | u64::from(byte & 0x7F));
    (offset <= MAX_OFFSET).then_some((offset, rest))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn mark(name: &str) -> RoomMark {
        RoomMark::of(&RoomName::parse(name).unwrap())
    }

    fn parse(text: &str) -> Result<Cursor, Unreadable> {
        Cursor::parse(text, Cursor::MAX_ID_BYTES)
    }

    #[test]
    fn positions_are_found_again() {
        let (a, b) = (Position::new(7, "i.1"), Position::new(0, ""));
        let cursor = parse(&encode([(mark("a"), a), (mark("b"), b)].into_iter())).unwrap();
        assert_eq!((cursor.find(mark("a"), 0), cursor.find(mark("b"), 0), cursor.find(mark("c"), 0)), (Some(a), Some(b), None));
        assert_eq!(a.resume().epoch, Some(EpochClaim::Hashed(fnv1a32(b"i.1"))));
        // Nothing seen, so there is nothing to check.
        assert_eq!((b.resume().since, b.resume().epoch), (Some(0), None));
    }

    #[test]
    fn rooms_with_one_mark_keep_their_order() {
        let (first, second) = (Position::new(1, "i.1"), Position::new(2, "i.2"));
        let cursor = parse(&encode([(mark("a"), first), (mark("a"), second)].into_iter())).unwrap();
        assert_eq!((cursor.find(mark("a"), 0), cursor.find(mark("a"), 1)), (Some(first), Some(second)));
    }

    #[test]
    fn epoch_follows_the_room_into_its_next_life() {
        let mut position = Position::new(0, "");
        position.advance(1, Some("i.5"));
        assert_eq!(position, Position::new(1, "i.5"));
        position.advance(2, Some("i.5"));
        assert_eq!(position, Position::new(2, "i.5"));
        position.advance(1, Some("i.9"));
        assert_eq!(position, Position::new(1, "i.9"));
        // Its own message began the life: which one, the next one says.
        position.advance(1, None);
        assert_eq!(position.resume().epoch, None);
        position.advance(2, Some("i.20"));
        assert_eq!(position, Position::new(2, "i.20"));
    }

    #[test]
    fn sixty_four_rooms_fit_an_id() {
        let place = |offset| (mark("a"), Position::new(offset, "i.1"));
        assert!(encode((0..64).map(|_| place((1 << 28) - 1))).len() <= Cursor::MAX_ID_BYTES);
        let mostly = (0..64).map(|number| place(if number < 59 { (1 << 35) - 1 } else { (1 << 28) - 1 }));
        assert!(encode(mostly).len() <= Cursor::MAX_ID_BYTES);
        let longest = encode((0..64).map(|_| place(MAX_OFFSET)));
        assert!(longest.len() > Cursor::MAX_ID_BYTES);
        assert_eq!(parse(&longest), Err(Unreadable));
    }

    #[test]
    fn anything_else_is_unreadable() {
        let good = encode([(mark("a"), Position::new(300, "i.1"))].into_iter());
        assert!(parse(&good).is_ok());
        for text in
            ["", "x", "=", "AQ", "not a cursor", &good[1..], &good[..good.len() - 1], &format!("{good}="), &format!("{good}A")]
        {
            assert_eq!(parse(text), Err(Unreadable), "{text}");
        }
        let seal = |body: &[u8]| URL_SAFE_NO_PAD.encode([body, &fnv1a32(body).to_be_bytes()].concat());
        for body in [
            &[][..],
            &[2],
            &[1, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            // Not the shortest form, not an offset, without an end.
            &[1, 0, 0, 0, 0, 0, 0, 0, 0x80, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF],
        ] {
            assert_eq!(parse(&seal(body)), Err(Unreadable), "{body:?}");
        }
        assert!(parse(&seal(&[1])).is_ok());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(places in vec((0..1u32 << 24, any::<u32>(), 0..=MAX_OFFSET), 0..40)) {
            let places: Vec<_> =
                places.into_iter().map(|(room, epoch, offset)| (RoomMark(room), Position { offset, epoch })).collect();
            let text = encode(places.iter().copied());
            prop_assert_eq!(parse(&text), Ok(Cursor(places)));
        }

        #[test]
        fn no_text_panics_and_each_cursor_has_one(text in "[A-Za-z0-9_-]{0,80}|.{0,20}") {
            if let Ok(Cursor(places)) = parse(&text) {
                prop_assert_eq!(encode(places.into_iter()), text);
            }
        }

        #[test]
        fn turned_bits_are_seen(offset in 0..=MAX_OFFSET, at in 0..20usize, bit in 0..8u32) {
            let text = encode([(mark("a"), Position::new(offset, "i.1"))].into_iter());
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let index = at % bytes.len();
            bytes[index] ^= 1 << bit;
            prop_assert_eq!(parse(&URL_SAFE_NO_PAD.encode(bytes)), Err(Unreadable));
        }
    }
}
