//! The codes that tell a client what went wrong and what to do next. The numbers and words are the contract.

/// The `code` of an `error` frame, an HTTP problem, or a Socket.IO error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The frame could not be understood, or a field is out of range.
    BadRequest,
    /// A frame type that this server does not know.
    UnknownType,
    /// The token does not grant it.
    Forbidden,
    /// Not a room name.
    RoomInvalid,
    /// The connection is not a member of the room.
    NotJoined,
    /// More rooms than one connection may be in.
    TooManyRooms,
    /// Above the size limit (HTTP 413 only).
    PayloadTooLarge,
    /// No, bad or revoked token (HTTP 401 only).
    Unauthorized,
    /// Faster than allowed; `retryAfterMs` tells when to go on.
    RateLimited,
    /// Not now; the same request may work later.
    Unavailable,
    /// Our fault; the same request may work later.
    Internal,
}

impl ErrorCode {
    /// All of them, each in the place of its number.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::UnknownType,
        Self::Forbidden,
        Self::RoomInvalid,
        Self::NotJoined,
        Self::TooManyRooms,
        Self::PayloadTooLarge,
        Self::Unauthorized,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UnknownType => "unknown_type",
            Self::Forbidden => "forbidden",
            Self::RoomInvalid => "room_invalid",
            Self::NotJoined => "not_joined",
            Self::TooManyRooms => "too_many_rooms",
            Self::PayloadTooLarge => "payload_too_large",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// Why the server closes a connection. Clients act on the range, as Pusher's do: 4000–4099 stop, 4100–4199 come
/// back with backoff, 4200–4299 come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// 1000: the client closed, and this echoes it.
    Normal,
    /// 1002: the peer broke RFC 6455.
    WebSocketProtocol,
    /// 1007: a text message that is not UTF-8 (RFC 6455, section 8.1).
    NotUtf8,
    /// 1009: a message over `limits.frame_bytes`.
    TooBig,
    /// 4001: no, bad or revoked token.
    Unauthorized,
    /// 4002: the tenth bad frame within 10 s.
    ProtocolError,
    /// 4003: kicked by an admin.
    Forbidden,
    /// 4004: at the token's `exp` plus leeway.
    TokenExpired,
    /// 4100: no room on this server.
    OverCapacity,
    /// 4100: the user has too many connections.
    TooManyConnections,
    /// 4100: something that this server needs is away.
    Unavailable,
    /// 4101: the client reads more slowly than its rooms speak, and its outbox is full.
    SlowConsumer,
    /// 4102: 10 s of steady excess over the frame rate.
    RateLimited,
    /// 4103: no traffic after a ping.
    HeartbeatTimeout,
    /// 4200: the server leaves; come back after so many milliseconds.
    Draining {
        /// How long to wait.
        retry_ms: u32,
    },
}

impl Close {
    /// The WebSocket status code (RFC 6455, section 7.4).
    pub fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::WebSocketProtocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Unauthorized => 4001,
            Self::ProtocolError => 4002,
            Self::Forbidden => 4003,
            Self::TokenExpired => 4004,
            Self::OverCapacity | Self::TooManyConnections | Self::Unavailable => 4100,
            Self::SlowConsumer => 4101,
            Self::RateLimited => 4102,
            Self::HeartbeatTimeout => 4103,
            Self::Draining { .. } => 4200,
        }
    }

    /// The reason text, below the 123 bytes that a close frame can carry.
    pub fn reason(self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Normal => "".into(),
            Self::WebSocketProtocol => "websocket protocol error".into(),
            Self::NotUtf8 => "text is not UTF-8".into(),
            Self::TooBig => "message too big".into(),
            Self::Unauthorized => "unauthorized".into(),
            Self::ProtocolError => "protocol_error".into(),
            Self::Forbidden => "forbidden".into(),
            Self::TokenExpired => "token_expired".into(),
            Self::OverCapacity => "over_capacity".into(),
            Self::TooManyConnections => "too_many_connections".into(),
            Self::Unavailable => "unavailable".into(),
            Self::SlowConsumer => "slow_consumer".into(),
            Self::RateLimited => "rate_limited".into(),
            Self::HeartbeatTimeout => "heartbeat_timeout".into(),
            Self::Draining { retry_ms } => format!("draining retry_ms={retry_ms}").into(),
        }
    }

    /// The same in one word or a few, for figures: without what differs from one client to the next.
    pub fn name(self) -> &'static str {
        match (self, self.reason()) {
            (Self::Draining { .. }, _) => "draining",
            (Self::Normal, _) => "closed by the client",
            (_, std::borrow::Cow::Borrowed(reason)) => reason,
            (_, std::borrow::Cow::Owned(_)) => unreachable!("only a drain has a number in it"),
        }
    }
}
