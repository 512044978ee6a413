//! Names and numbers that mean something. Each parses once, at the edge, or is refused; inside, a value of the
//! type is the proof. Cloning one is a reference count, so that a name is stored once per process.

use std::{fmt, sync::Arc};

/// Partitions that rooms are spread over: `fnv1a32(room) mod PARTITIONS`.
///
/// Stored logs depend on it: changing it is a migration.
pub const PARTITIONS: u8 = 16;

/// Offsets stay below 2^53, so that every JSON reader holds them exactly (RFC 8259, section 6).
pub const MAX_OFFSET: u64 = (1 << 53) - 1;

/// A message's position in its room: 1, 2, 3, … without holes. 0 stands for "before the first".
pub type Offset = u64;

/// Why a name was refused; the text is for the client that sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A control character (Unicode category Cc).
    #[error("has a control character")]
    Control,
    /// A space at an end, where nobody would see it.
    #[error("has a leading or trailing space")]
    OuterSpace,
    /// Outside `A-Za-z0-9_-`.
    #[error("has a character outside A-Z a-z 0-9 _ -")]
    Alphabet,
}

fn plain_text(text: &str, max: usize) -> Result<Arc<str>, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong(max));
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(NameError::OuterSpace);
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A room: 1–128 bytes of UTF-8, no control characters, no leading or trailing space.
    RoomName
}

impl RoomName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 128;
    const PERSONAL: &str = "user:";

    /// Takes a name as a client wrote it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        plain_text(text, Self::MAX_BYTES).map(Self)
    }

    /// The room that every connection of `user` is in from the start.
    pub fn personal(user: &UserId) -> Self {
        Self(format!("{}{}", Self::PERSONAL, user.as_str()).into())
    }

    /// Whose personal room this is, if it is one.
    pub fn owner(&self) -> Option<&str> {
        self.0.strip_prefix(Self::PERSONAL)
    }

    /// The partition that orders this room.
    pub fn partition(&self) -> PartitionId {
        PartitionId((fnv1a32(self.0.as_bytes()) % u32::from(PARTITIONS)) as u8)
    }
}

name! {
    /// A user, a token's `sub`: 1–123 bytes, otherwise like a room name, so that `user:<id>` is one.
    UserId
}

impl UserId {
    /// The longest user id, in bytes.
    pub const MAX_BYTES: usize = RoomName::MAX_BYTES - RoomName::PERSONAL.len();

    /// Takes an id as a token wrote it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        plain_text(text, Self::MAX_BYTES).map(Self)
    }
}

name! {
    /// One app instance of a user across its reconnects: 1–64 of `A-Za-z0-9_-`.
    ClientId
}

impl ClientId {
    /// The longest client id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Takes an id as a client wrote it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong(Self::MAX_BYTES));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(NameError::Alphabet);
        }
        Ok(Self(text.into()))
    }
}

/// One life of a room's log, `<incarnation>.<sequence of offset 1>`; `""` while the room is empty.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Epoch(Option<Arc<str>>);

impl Epoch {
    /// The epoch of an empty room. Most personal rooms are empty, so it owns no memory.
    pub fn none() -> Self {
        Self(None)
    }

    /// The epoch of a room whose offset 1 has `sequence` in a log of this incarnation.
    pub fn new(incarnation: &str, sequence: u64) -> Self {
        Self(Some(format!("{incarnation}.{sequence}").into()))
    }

    /// An epoch that came from a peer or a client; compared, never interpreted.
    pub fn from_wire(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }

    /// Whether the room is empty.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// One of the [`PARTITIONS`] that order rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub u8);

impl PartitionId {
    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// As an index into an array of [`PARTITIONS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of one gateway shard: random, so that a restarted process is another gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub [u8; 16]);

impl GatewayId {
    /// From the 16 bytes of the wire.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message's id: UUID version 7 (RFC 9562, section 5.7), sortable by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// An id of this moment (`ts` in Unix milliseconds) with the given 74 bits of `random`.
    pub fn new(ts: u64, random: u128) -> Self {
        let random = random.to_be_bytes();
        let mut counter_and_random = [0; 10];
        counter_and_random.copy_from_slice(&random[6..]);
        Self(uuid::Builder::from_unix_timestamp_millis(ts, &counter_and_random).into_uuid().into_bytes())
    }

    /// From the 16 bytes of the wire.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

/// FNV-1a, 32 bits (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>).
pub const fn fnv1a32(bytes: &[u8]) -> u32 {
    let (mut hash, mut at) = (0x811c_9dc5_u32, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_names_parse_or_are_refused() {
        assert!(RoomName::parse("chat:1").is_ok());
        assert!(RoomName::parse("räume 1").is_ok());
        assert!(RoomName::parse(&"x".repeat(128)).is_ok());
        assert_eq!(RoomName::parse(""), Err(NameError::Empty));
        assert_eq!(RoomName::parse(&"x".repeat(129)), Err(NameError::TooLong(128)));
        assert_eq!(RoomName::parse("a\nb"), Err(NameError::Control));
        assert_eq!(RoomName::parse("a\u{85}b"), Err(NameError::Control));
        assert_eq!(RoomName::parse(" a"), Err(NameError::OuterSpace));
        assert_eq!(RoomName::parse("a "), Err(NameError::OuterSpace));
    }

    #[test]
    fn longest_user_has_a_personal_room() {
        let user = UserId::parse(&"u".repeat(UserId::MAX_BYTES)).unwrap();
        let room = RoomName::personal(&user);
        assert_eq!(RoomName::parse(room.as_str()), Ok(room.clone()));
        assert_eq!(room.owner(), Some(user.as_str()));
        assert!(UserId::parse(&"u".repeat(UserId::MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn client_ids_have_a_small_alphabet() {
        assert!(ClientId::parse("a-Z_0").is_ok());
        assert_eq!(ClientId::parse("a b"), Err(NameError::Alphabet));
        assert_eq!(ClientId::parse(&"x".repeat(65)), Err(NameError::TooLong(64)));
    }

    #[test]
    fn fnv_matches_published_values() {
        assert_eq!(fnv1a32(b""), 0x811c_9dc5);
        assert_eq!(fnv1a32(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a32(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn message_ids_are_uuid_v7() {
        let id = MessageId::new(0x0192_3456_789a, u128::MAX).to_string();
        assert!(id.starts_with("01923456-789a-7"), "{id}");
        assert_eq!(id.len(), 36);
    }
}
