//! One client's life on a gateway: what its frames ask for, whether it may, whether it speaks too fast or too badly,
//! and when its token ends. What a frame leads to is an [`Act`], for the driver to carry to the rooms.

use std::sync::Arc;

use carillon_proto::{
    codes::{Close, ErrorCode},
    frame::{self, BadFrame, ClientFrame, Incoming, JoinOptions, Span},
    ids::{ClientId, RoomName, UserId},
};

use crate::{
    grants::{Grants, MayErase, MayJoin, MayPublish, MayRead, MayWatch},
    rate::{Bucket, Excess, Rate},
    rooms::Publishing,
};

/// The limits that a session keeps, all of them settings.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    /// Frames of any other type.
    pub frames: Rate,
    /// `join` and `leave`, which come in crowds after a reconnect.
    pub joins: Rate,
    /// How deep a payload may nest.
    pub json_depth: usize,
}

/// So many bad frames within [`BAD_WINDOW_MS`] close the connection.
pub const BAD_FRAMES: usize = 10;
/// See [`BAD_FRAMES`].
pub const BAD_WINDOW_MS: u32 = 10_000;

/// How fast a client has spoken so far.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    frames: Bucket,
    joins: Bucket,
    excess: Excess,
}

impl Pace {
    /// Takes a frame's worth for beginning once more; false if there is none.
    pub fn begin_again(&mut self, limits: &SessionLimits, now_ms: u64) -> bool {
        self.frames.take(limits.frames, now_ms).is_ok()
    }
}

/// The rules of one connection.
#[derive(Debug)]
pub struct Session {
    client: ClientId,
    grants: Arc<Grants>,
    /// Unix milliseconds, leeway not counted.
    expires_at_ms: u64,
    frames: Bucket,
    joins: Bucket,
    excess: Excess,
    /// When the latest bad frames came, as a ring; most connections never send one.
    bad: Option<Box<BadFrames>>,
}

#[derive(Debug, Default)]
struct BadFrames {
    at_ms: [u32; BAD_FRAMES],
    count: usize,
}

/// What a frame leads to. References are the client's `ref` as JSON text.
#[derive(Debug)]
#[allow(missing_docs)] // Each variant is the frame of the same name, permitted.
pub enum Act<'a> {
    Join { permit: MayJoin, options: JoinOptions, reference: Option<&'a str> },
    Leave { room: RoomName, reference: Option<&'a str> },
    Publish { permit: MayPublish, said: Publishing<'a> },
    History { permit: MayRead, span: Span, limit: u32, reference: Option<&'a str> },
    Presence { permit: MayWatch, reference: Option<&'a str> },
    Erase { permit: MayErase, reference: Option<&'a str> },
    Refresh { token: &'a str, reference: Option<&'a str> },
    Pong { reference: Option<&'a str> },
    Refuse(Refusal),
    Close(Close),
}

/// An `error` frame to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of mistake.
    pub code: ErrorCode,
    /// For the client's developer.
    pub message: std::borrow::Cow<'static, str>,
    /// `ref` as JSON text.
    pub reference: Option<Box<str>>,
    /// The room that it is about.
    pub room: Option<RoomName>,
    /// When to try again.
    pub retry_after_ms: Option<u32>,
}

/// Why a new token does not go on with a session.
#[derive(Debug, PartialEq, Eq)]
pub struct AnotherUser;

impl Session {
    /// A session of a verified token. `expires_at_ms`: Unix milliseconds.
    pub fn new(client: ClientId, grants: Arc<Grants>, expires_at_ms: u64, limits: &SessionLimits, now_ms: u64) -> Self {
        Self {
            client,
            grants,
            expires_at_ms,
            frames: Bucket::full(limits.frames, now_ms),
            joins: Bucket::full(limits.joins, now_ms),
            excess: Excess::default(),
            bad: None,
        }
    }

    /// For the next session of the same client, which has no right to be faster for being another one.
    pub fn pace(&self) -> Pace {
        Pace { frames: self.frames, joins: self.joins, excess: self.excess }
    }

    /// Goes on as fast as the session before.
    pub fn go_on_at(&mut self, pace: Pace) {
        Pace { frames: self.frames, joins: self.joins, excess: self.excess } = pace;
    }

    /// Whose session it is.
    pub fn user(&self) -> &UserId {
        self.grants.user()
    }

    /// Which app instance of the user.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// What it may do.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// When its token ends, Unix milliseconds.
    pub fn expires_at_ms(&self) -> u64 {
        self.expires_at_ms
    }

    /// A text frame came in. `scratch` keeps what had to be unescaped for as long as the act needs it.
    pub fn on_text<'a>(&mut self, text: &'a str, scratch: &'a mut Scratch, limits: &SessionLimits, now_ms: u64) -> Act<'a> {
        self.on_frame(frame::parse(text, limits.json_depth), scratch, limits, now_ms)
    }

    /// A frame came in, by whatever door: as it was read, or why it could not be.
    pub fn on_frame<'a>(
        &mut self,
        parsed: Result<Incoming<'a>, BadFrame>,
        scratch: &'a mut Scratch,
        limits: &SessionLimits,
        now_ms: u64,
    ) -> Act<'a> {
        let (bucket, rate) = match &parsed {
            Ok(Incoming { frame: ClientFrame::Join { .. } | ClientFrame::Leave { .. }, .. }) => (&mut self.joins, limits.joins),
            _ => (&mut self.frames, limits.frames),
        };
        if let Err(retry_after_ms) = bucket.take(rate, now_ms) {
            return self.on_too_fast(&parsed, retry_after_ms, now_ms);
        }
        match parsed {
            Err(bad) => self.on_bad(bad, now_ms),
            Ok(Incoming { reference, frame }) => self.permit(frame, reference, scratch),
        }
    }

    /// A binary frame came in: this wire has none.
    pub fn on_binary(&mut self, limits: &SessionLimits, now_ms: u64) -> Act<'static> {
        if let Err(retry_after_ms) = self.frames.take(limits.frames, now_ms) {
            let bad = Err(BadFrame { code: ErrorCode::BadRequest, message: "".into(), reference: None });
            return self.on_too_fast(&bad, retry_after_ms, now_ms);
        }
        let message = "frames are JSON text, not binary".into();
        self.on_bad(BadFrame { code: ErrorCode::BadRequest, message, reference: None }, now_ms)
    }

    /// A WebSocket ping came in: whether it is answered. Each costs an answer, so they count as frames.
    pub fn on_ping(&mut self, limits: &SessionLimits, now_ms: u64) -> Result<bool, Close> {
        match self.frames.take(limits.frames, now_ms) {
            Ok(()) => Ok(true),
            Err(_) if self.excess.on_refused(now_ms) => Err(Close::RateLimited),
            Err(_) => Ok(false),
        }
    }

    /// A newer token of the same user takes over.
    pub fn on_refreshed(&mut self, grants: Arc<Grants>, expires_at_ms: u64) -> Result<(), AnotherUser> {
        if grants.user() != self.grants.user() {
            return Err(AnotherUser);
        }
        self.grants = grants;
        self.expires_at_ms = expires_at_ms;
        Ok(())
    }

    fn permit<'a>(&self, frame: ClientFrame<'a>, reference: Option<&'a str>, scratch: &'a mut Scratch) -> Act<'a> {
        let refused = |room: RoomName| {
            Act::Refuse(Refusal {
                code: ErrorCode::Forbidden,
                message: "the token does not allow this".into(),
                reference: reference.map(Box::from),
                room: Some(room),
                retry_after_ms: None,
            })
        };
        match frame {
            // Who wants to be told who is there needs leave for that too.
            ClientFrame::Join { room, options } if options.presence && self.grants.watch(room.clone()).is_none() => refused(room),
            ClientFrame::Join { room, options } => match self.grants.join(room.clone()) {
                Some(permit) => Act::Join { permit, options, reference },
                None => refused(room),
            },
            // The personal room is the connection's own for as long as it lives.
            ClientFrame::Leave { room } if room.owner() == Some(self.user().as_str()) => refused(room),
            ClientFrame::Leave { room } => Act::Leave { room, reference },
            ClientFrame::Broadcast { room, payload, key, echo, ephemeral } => match self.grants.publish(room.clone()) {
                Some(permit) => {
                    let key = key.map(|key| scratch.keep(key));
                    Act::Publish { permit, said: Publishing { payload, key, echo, ephemeral, reference, traceparent: "" } }
                }
                None => refused(room),
            },
            ClientFrame::History { room, span, limit } => match self.grants.read(room.clone()) {
                Some(permit) => Act::History { permit, span, limit, reference },
                None => refused(room),
            },
            ClientFrame::Presence { room } => match self.grants.watch(room.clone()) {
                Some(permit) => Act::Presence { permit, reference },
                None => refused(room),
            },
            ClientFrame::Erase { room } => match self.grants.erase(room.clone()) {
                Some(permit) => Act::Erase { permit, reference },
                None => refused(room),
            },
            ClientFrame::Refresh { token } => Act::Refresh { token: scratch.keep(token), reference },
            ClientFrame::Ping => Act::Pong { reference },
        }
    }

    fn on_too_fast<'a>(&mut self, parsed: &Result<Incoming<'_>, BadFrame>, retry_after_ms: u32, now_ms: u64) -> Act<'a> {
        if self.excess.on_refused(now_ms) {
            return Act::Close(Close::RateLimited);
        }
        let (reference, room) = match parsed {
            Ok(Incoming { reference, frame }) => (reference.map(Box::from), room_of(frame)),
            Err(bad) => (bad.reference.clone(), None),
        };
        let message = "too many frames".into();
        Act::Refuse(Refusal { code: ErrorCode::RateLimited, message, reference, room, retry_after_ms: Some(retry_after_ms) })
    }

    fn on_bad<'a>(&mut self, bad: BadFrame, now_ms: u64) -> Act<'a> {
        // The frame is well, and a name is what a person typed.
        if bad.code != ErrorCode::RoomInvalid && self.is_tenth_bad(now_ms) {
            return Act::Close(Close::ProtocolError);
        }
        let BadFrame { code, message, reference } = bad;
        Act::Refuse(Refusal { code, message, reference, room: None, retry_after_ms: None })
    }

    fn is_tenth_bad(&mut self, now_ms: u64) -> bool {
        let now = now_ms as u32;
        let seen = self.bad.get_or_insert_default();
        seen.at_ms[seen.count % BAD_FRAMES] = now;
        seen.count += 1;
        // The place that the next one will take holds the oldest of the last ten.
        let tenth_last = seen.at_ms[seen.count % BAD_FRAMES];
        seen.count >= BAD_FRAMES && now.wrapping_sub(tenth_last) < BAD_WINDOW_MS
    }
}

/// Keeps one unescaped text alive while its frame is acted on.
#[derive(Debug, Default)]
pub struct Scratch(String);

impl Scratch {
    fn keep<'a>(&'a mut self, text: std::borrow::Cow<'a, str>) -> &'a str {
        match text {
            std::borrow::Cow::Borrowed(text) => text,
            std::borrow::Cow::Owned(text) => {
                self.0 = text;
                &self.0
            }
        }
    }
}

fn room_of(frame: &ClientFrame<'_>) -> Option<RoomName> {
    match frame {
        ClientFrame::Join { room, .. }
        | ClientFrame::Leave { room }
        | ClientFrame::Broadcast { room, .. }
        | ClientFrame::History { room, .. }
        | ClientFrame::Presence { room }
        | ClientFrame::Erase { room } => Some(room.clone()),
        ClientFrame::Refresh { .. } | ClientFrame::Ping => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        frames: Rate { per_second: 50, burst: 100 },
        joins: Rate { per_second: 256, burst: 256 },
        json_depth: 64,
    };

    fn session() -> Session {
        let grants = Grants::new(UserId::parse("ada").unwrap(), None);
        Session::new(ClientId::parse("c").unwrap(), Arc::new(grants), 1_000, &LIMITS, 0)
    }

    fn code(session: &mut Session, text: &str, now_ms: u64) -> String {
        match session.on_text(text, &mut Scratch::default(), &LIMITS, now_ms) {
            Act::Refuse(refusal) => refusal.code.as_str().to_owned(),
            Act::Close(close) => close.code().to_string(),
            _ => "ok".to_owned(),
        }
    }

    #[test]
    fn permits_come_from_grants() {
        let mut ada = session();
        assert_eq!(code(&mut ada, r#"{"type":"join","room":"chat"}"#, 0), "ok");
        assert_eq!(code(&mut ada, r#"{"type":"join","room":"user:bob"}"#, 0), "forbidden");
        assert_eq!(code(&mut ada, r#"{"type":"broadcast","room":"user:bob","payload":1}"#, 0), "forbidden");
        assert_eq!(code(&mut ada, r#"{"type":"history","room":"user:bob"}"#, 0), "forbidden");
        assert_eq!(code(&mut ada, r#"{"type":"leave","room":"user:ada"}"#, 0), "forbidden");
    }

    #[test]
    fn tenth_bad_frame_closes() {
        let mut ada = session();
        for _ in 0..9 {
            assert_eq!(code(&mut ada, "nonsense", 5), "bad_request");
        }
        assert_eq!(code(&mut ada, "nonsense", 10_004), "4002");
    }

    #[test]
    fn wrong_names_never_close() {
        let mut ada = session();
        for _ in 0..50 {
            assert_eq!(code(&mut ada, r#"{"type":"join","room":" "}"#, 5), "room_invalid");
        }
        for _ in 0..9 {
            assert_eq!(code(&mut ada, r#"{"type":"nope"}"#, 5), "unknown_type");
        }
        assert_eq!(code(&mut ada, r#"{"type":"nope"}"#, 5), "4002");
    }

    #[test]
    fn slow_bad_frames_are_forgiven() {
        let mut ada = session();
        for step in 0..40 {
            assert_eq!(code(&mut ada, "nonsense", step * 1_200), "bad_request", "{step}");
        }
    }

    #[test]
    fn joins_have_their_own_bucket() {
        let mut ada = session();
        for _ in 0..100 {
            assert_eq!(code(&mut ada, r#"{"type":"ping"}"#, 0), "ok");
        }
        assert_eq!(code(&mut ada, r#"{"type":"ping"}"#, 0), "rate_limited");
        assert_eq!(code(&mut ada, r#"{"type":"join","room":"a"}"#, 0), "ok");
    }

    #[test]
    fn steady_excess_closes() {
        let mut ada = session();
        let closed = (0..3000).find(|step| code(&mut ada, r#"{"type":"ping"}"#, step * 5) == "4102");
        let ms = closed.expect("closed") * 5;
        assert!((10_000..12_000).contains(&ms), "{ms}");
    }

    #[test]
    fn next_session_is_no_faster() {
        let mut ada = session();
        for _ in 0..99 {
            assert_eq!(code(&mut ada, r#"{"type":"ping"}"#, 0), "ok");
        }
        let mut pace = ada.pace();
        assert!(pace.begin_again(&LIMITS, 0));
        let mut again = session();
        again.go_on_at(pace);
        assert_eq!(code(&mut again, r#"{"type":"ping"}"#, 0), "rate_limited");
        assert!(!pace.begin_again(&LIMITS, 0));
    }

    #[test]
    fn refresh_keeps_the_user() {
        let mut ada = session();
        let grants = |name| Arc::new(Grants::new(UserId::parse(name).unwrap(), None));
        assert_eq!(ada.on_refreshed(grants("ada"), 5), Ok(()));
        assert_eq!(ada.expires_at_ms(), 5);
        assert_eq!(ada.on_refreshed(grants("bob"), 9), Err(AnotherUser));
    }
}
