//! Names in NATS: a stream per partition, a subject per room. A room's name becomes one token of a subject, readable where
//! it can be, so that `nats` tools show what one looks for.

use std::fmt::Write as _;

use carillon_proto::ids::{PartitionId, RoomName};

/// The stream of a partition.
pub(super) fn stream(partition: PartitionId) -> String {
    format!("LOG_{partition}")
}

/// Everything in a partition's stream.
pub(super) fn all(partition: PartitionId) -> String {
    format!("log.{partition}.>")
}

/// Markers, which are no records.
pub(super) fn markers(partition: PartitionId) -> String {
    format!("log.{partition}.m")
}

/// The records of a room. Letters, digits, `-` and `_` stand for themselves, every other byte is `=` and two hexadecimal
/// digits as in quoted-printable (RFC 2045, section 6.7): dots, spaces and wildcards mean something in NATS, `$` and `%`
/// to shells and servers' templates.
pub(super) fn room(partition: PartitionId, room: &RoomName) -> String {
    let mut subject = format!("log.{partition}.r.");
    for byte in room.as_str().bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => subject.push(char::from(byte)),
            _ => write!(subject, "={byte:02X}").expect("text takes everything"),
        }
    }
    subject
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(token: &str) -> Option<RoomName> {
        let mut bytes = Vec::new();
        let mut parts = token.split('=');
        bytes.extend_from_slice(parts.next()?.as_bytes());
        for part in parts {
            bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        RoomName::parse(std::str::from_utf8(&bytes).ok()?).ok()
    }

    #[test]
    fn room_subjects_stay_readable() {
        let subject = |name| room(PartitionId(3), &RoomName::parse(name).unwrap());
        assert_eq!(subject("chat-1_A"), "log.3.r.chat-1_A");
        assert_eq!(subject("user:42"), "log.3.r.user=3A42");
        assert_eq!(subject("a.b c.*.>"), "log.3.r.a=2Eb=20c=2E=2A=2E=3E");
        assert_eq!(subject("ä="), "log.3.r.=C3=A4=3D");
    }

    proptest! {
        #[test]
        fn room_subjects_name_one_room(name in "\\PC{1,40}") {
            if let Ok(name) = RoomName::parse(&name) {
                let subject = room(PartitionId(0), &name);
                let token = subject.strip_prefix("log.0.r.").unwrap();
                prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte)));
                prop_assert_eq!(decode(token), Some(name));
            }
        }
    }
}
