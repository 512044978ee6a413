//! The string that every replayable event ends in, and that a client hands back when it returns: where it stands in each room
//! that it is in. Rooms are numbered in the client's record, so that a position costs a few bytes; opaque to clients.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use carillon_proto::ids::Offset;

/// Where a client stands in one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The room's number in the record.
    pub number: u32,
    /// The newest offset that it was sent.
    pub offset: Offset,
    /// Hash of that offset's epoch.
    pub epoch: u32,
}

/// The format; others are not understood.
const VERSION: u8 = 1;

/// Writes positions as text.
pub fn write(positions: impl Iterator<Item = Position>) -> String {
    let mut bytes = vec![VERSION];
    for Position { number, offset, epoch } in positions {
        varint(&mut bytes, u64::from(number));
        varint(&mut bytes, offset);
        bytes.extend_from_slice(&epoch.to_be_bytes());
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`write()`] wrote; `None` for anything else.
pub fn read(text: &str) -> Option<Vec<Position>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (version, mut rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let mut positions = Vec::new();
    while !rest.is_empty() {
        let number = take_varint(&mut rest)?.try_into().ok()?;
        let offset = take_varint(&mut rest)?;
        let (epoch, behind) = rest.split_first_chunk()?;
        rest = behind;
        positions.push(Position { number, offset, epoch: u32::from_be_bytes(*epoch) });
    }
    Some(positions)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back() {
        let positions = [
            Position { number: 0, offset: 0, epoch: 0 },
            Position { number: 1, offset: 127, epoch: 7 },
            Position { number: 300, offset: (1 << 53) - 1, epoch: u32::MAX },
        ];
        let text = write(positions.into_iter());
        assert!(text.len() < 50, "{text}");
        assert_eq!(read(&text).unwrap(), positions);
        assert_eq!(read(&write(std::iter::empty())), Some(Vec::new()));
    }

    #[test]
    fn anything_else_is_nothing() {
        let cut = write([Position { number: 5, offset: 5, epoch: 5 }].into_iter());
        for text in ["", "!", "AA", "Ag", "ünïcode", &cut[..cut.len() - 1], "AYCAgICAgICAgICAgIA"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
