//! A member: joins its rooms, listens, checks, and comes back with its cursor whenever it lost its connection, as a good client
//! does (proto/PROTOCOL.md, closing).

use std::{borrow::Cow, net::Ipv4Addr, rc::Rc, sync::atomic::Ordering, time::Duration};

use serde::Deserialize;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Swallow,
    check::{Follows, Seat},
    fleet::Local,
    payload::Said,
    socket::{Heard, Socket},
};

/// What a member does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) user: String,
    pub(crate) client: String,
    /// Which gateway first.
    pub(crate) turn: usize,
    pub(crate) rooms: Vec<u32>,
    /// Reads each room from its first message on.
    pub(crate) reads_all: bool,
    /// Drops its connection after about so long, again and again; 0: never.
    pub(crate) drop_every_ms: u64,
    /// Stops reading for so long, from this moment on.
    pub(crate) stalls: Option<(CancellationToken, Duration)>,
    /// Goes at the first one, comes back at the second.
    pub(crate) leaves: Option<(CancellationToken, CancellationToken)>,
}

/// The fields of all frames that a load looks at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<u64>,
    pub(crate) offset: Option<u64>,
    #[serde(borrow)]
    pub(crate) epoch: Option<Cow<'a, str>>,
    pub(crate) recovered: Option<bool>,
    #[serde(borrow)]
    pub(crate) reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) code: Option<Cow<'a, str>>,
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) duplicate: Option<bool>,
}

/// How a stay ended.
enum Left {
    /// It has all it came for.
    Settled,
    /// It was its own wish to go; it is back after this.
    Dropped,
    /// The server ended it, and said after how many milliseconds to come back, if it did.
    Closed(u16, Option<u64>),
}

struct Member {
    local: Rc<Local>,
    plan: Plan,
    token: Rc<str>,
    seats: Vec<Seat>,
    seated: usize,
    is_counted: bool,
    /// When this connection began, until it is welcomed.
    began_ns: Option<u64>,
    /// When the last connection was lost, and how long was waited on purpose since.
    lost: Option<(u64, u64)>,
    told_ms: Option<u64>,
    /// A join was refused for now: when to come again.
    again_ms: Option<u64>,
}

/// The first pause after a failed connect, doubling with each, and the longest.
const BACKOFF_MS: (u64, u64) = (100, 5_000);

pub(crate) async fn attend(local: Rc<Local>, plan: Plan) {
    let seats = plan.rooms.iter().map(|room| Seat { room: *room, is_known: plan.reads_all, ..Seat::default() }).collect();
    let token = local.shared.signer.token(&plan.user).into();
    let mut member = Member {
        local,
        plan,
        token,
        seats,
        seated: 0,
        is_counted: false,
        began_ns: None,
        lost: None,
        told_ms: None,
        again_ms: None,
    };
    let over = member.local.shared.over.clone();
    tokio::select! {
        () = member.come_and_go() => {}
        () = over.cancelled() => member.say_what_is_missing(),
    }
}

impl Member {
    async fn come_and_go(&mut self) {
        let mut failed = 0;
        loop {
            let opened = {
                let local = self.local.clone();
                let _permit = local.opening.acquire().await.expect("never closed");
                self.began_ns = Some(self.now_ns());
                self.open().await
            };
            self.plan.turn += 1;
            let Ok(mut socket) = opened else {
                self.local.tally().failed_connects += 1;
                let longest = (BACKOFF_MS.0 << failed.min(10)).min(BACKOFF_MS.1);
                failed += 1;
                self.pause(fastrand::u64(longest / 2..=longest)).await;
                continue;
            };
            let left = self.stay(&mut socket).await;
            self.seated = 0;
            self.seats.iter_mut().for_each(|seat| seat.is_seated = false);
            match left {
                Left::Settled => return,
                Left::Dropped => {
                    drop(socket);
                    failed = 0;
                    self.lost = Some((self.now_ns(), 0));
                    if let Some((_, back)) = self.plan.leaves.take() {
                        back.cancelled().await;
                        self.lost = Some((self.now_ns(), 0));
                    }
                }
                Left::Closed(code, told_ms) => {
                    let now_ns = self.now_ns();
                    self.lost = Some((now_ns, 0));
                    self.local.tally().on_close(code, now_ns);
                    if matches!(code, 4001..=4099) {
                        return self.local.fault(|| format!("{} was closed for good, with {code}", self.plan.user));
                    }
                    let longest = (BACKOFF_MS.0 << failed.min(10)).min(BACKOFF_MS.1);
                    failed += 1;
                    self.pause(told_ms.unwrap_or_else(|| fastrand::u64(0..=longest))).await;
                }
            }
        }
    }

    async fn pause(&mut self, ms: u64) {
        sleep(Duration::from_millis(ms)).await;
        if let Some((_, waited_ms)) = &mut self.lost {
            *waited_ms += ms;
        }
    }

    async fn open(&mut self) -> std::io::Result<Socket> {
        let shared = &self.local.shared;
        let target = &shared.targets[self.plan.turn % shared.targets.len()];
        let number = shared.next_address.fetch_add(1, Ordering::Relaxed);
        // Beyond some 28,000 connections to one address, another local one brings fresh ports.
        let from = (number >= 20_000 && target.address.ip().is_loopback())
            .then(|| Ipv4Addr::new(127, 0, (1 + number / 20_000 / 200) as u8, (2 + number / 20_000 % 200) as u8));
        let mut socket = Socket::open(target, &self.token, &self.plan.client, from).await?;
        for (index, seat) in self.seats.iter().enumerate() {
            let room = shared.room_name(seat.room);
            let since = match seat.is_known {
                true => format!(r#","since":{},"epoch":"{}""#, seat.last, seat.epoch),
                false => String::new(),
            };
            socket.queue(target.door.join(index as u64, &room, &since).as_bytes());
        }
        socket.flush().await?;
        Ok(socket)
    }

    async fn stay(&mut self, socket: &mut Socket) -> Left {
        self.told_ms = None;
        let drop_at = match self.plan.drop_every_ms {
            0 => None,
            ms => Some(tokio::time::Instant::now() + Duration::from_millis(fastrand::u64(ms / 4..=ms * 7 / 4))),
        };
        let shared = self.local.shared.clone();
        loop {
            let is_sealed = shared.sealed.is_cancelled();
            if is_sealed && self.has_all() {
                return Left::Settled;
            }
            let drops = async {
                match drop_at {
                    Some(at) if !is_sealed => sleep_until(at).await,
                    _ => std::future::pending().await,
                }
            };
            let leaves = async {
                match &self.plan.leaves {
                    Some((leave, _)) => leave.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let stalls = async {
                match &self.plan.stalls {
                    Some((from, _)) => from.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let heard = {
                let phase = shared.phase.load(Ordering::Relaxed);
                tokio::select! {
                    heard = Self::read(socket, &self.local, &mut self.seats, phase) => Some(heard),
                    () = shared.sealed.cancelled(), if !is_sealed => None,
                    () = drops => return Left::Dropped,
                    () = leaves => return Left::Dropped,
                    () = stalls => {
                        let (_, how_long) = self.plan.stalls.take().expect("it was there");
                        sleep(how_long).await;
                        None
                    }
                }
            };
            let Some((heard, others)) = heard else { continue };
            for frame in others {
                self.on_frame(&frame);
            }
            if let Some(ms) = self.again_ms.take() {
                sleep(Duration::from_millis(ms)).await;
                return Left::Dropped;
            }
            match heard {
                Heard::Something => {}
                Heard::Close(code, reason) => {
                    let retry_ms = reason.strip_prefix("draining retry_ms=").and_then(|ms| ms.parse().ok());
                    return Left::Closed(code, self.told_ms.or(retry_ms));
                }
                Heard::Gone => return Left::Closed(1006, None),
            }
        }
    }

    /// Reads once; messages are checked in place, other frames come back.
    async fn read(socket: &mut Socket, local: &Local, seats: &mut [Seat], phase: usize) -> (Heard, Vec<Vec<u8>>) {
        let mut others = Vec::new();
        let mut batch = Batch { local, now_ns: 0, delivered: 0, slowest_us: 0, phase };
        let heard = socket.read(|frame| match frame.starts_with(MESSAGE) {
            // Only once nothing else is waiting to be read first: a room's `joined` comes before its messages.
            true if others.is_empty() => batch.on_message(seats, frame),
            _ => others.push(frame.to_vec()),
        });
        let heard = heard.await;
        batch.finish();
        (heard, others)
    }

    fn on_frame(&mut self, text: &[u8]) {
        if text.starts_with(MESSAGE) {
            let phase = self.local.shared.phase.load(Ordering::Relaxed);
            let mut batch = Batch { local: &self.local, now_ns: 0, delivered: 0, slowest_us: 0, phase };
            batch.on_message(&mut self.seats, text);
            return batch.finish();
        }
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(text) else {
            return self.local.fault(|| format!("a frame that can't be read: {}", String::from_utf8_lossy(text)));
        };
        match &*frame.kind {
            "connected" => {
                let now_ns = self.now_ns();
                let began_ns = self.began_ns.take().unwrap_or(now_ns);
                let mut tally = self.local.tally();
                tally.connects += 1;
                tally.moment(now_ns).connects += 1;
                tally.connect_us.saturating_record((now_ns - began_ns) / 1000);
                drop(tally);
                if self.seats.is_empty() {
                    self.on_all_seated();
                }
            }
            "joined" => self.on_joined(&frame),
            "draining" => self.told_ms = frame.retry_after_ms,
            "error" => {
                let code = frame.code.as_deref().unwrap_or_default().to_owned();
                *self.local.tally().refused.entry(code).or_default() += 1;
                if let (Some("unavailable" | "rate_limited"), Some(ms)) = (frame.code.as_deref(), frame.retry_after_ms) {
                    // An owner may be away for a while: nothing is lost by it, and a good client tries again.
                    self.again_ms = Some(ms);
                } else if let Some(index) = frame.reference {
                    self.local.fault(|| {
                        format!("{} may not join room {index} of its own: {}", self.plan.user, String::from_utf8_lossy(text))
                    });
                }
            }
            _ => {}
        }
    }

    fn on_joined(&mut self, frame: &Frame<'_>) {
        let Some(seat) = frame.reference.and_then(|index| self.seats.get_mut(index as usize)) else { return };
        let head = frame.offset.unwrap_or_default();
        if seat.is_known && frame.recovered != Some(true) {
            let (room, last, reason) = (seat.room, seat.last, frame.reason.clone().unwrap_or_default());
            self.local.fault(|| format!("room {room} could not be resumed at {last}: {reason}; its head is {head}"));
        }
        if !seat.is_known || frame.recovered != Some(true) {
            seat.last = head;
        }
        seat.is_known = true;
        seat.numbers.clear();
        seat.epoch = frame.epoch.as_deref().unwrap_or_default().to_owned();
        if !std::mem::replace(&mut seat.is_seated, true) {
            self.seated += 1;
            if self.seated == self.seats.len() {
                self.on_all_seated();
            }
        }
    }

    fn on_all_seated(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.local.shared.live.seated.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((lost_ns, waited_ms)) = self.lost.take() {
            let away_us = (self.now_ns() - lost_ns) / 1000;
            self.local.tally().away_us.saturating_record(away_us.saturating_sub(waited_ms * 1000));
        }
    }

    fn has_all(&self) -> bool {
        let shared = &self.local.shared;
        self.seats.iter().all(|seat| {
            let head = shared.heads[seat.room as usize].load(Ordering::Relaxed);
            match shared.is_ephemeral {
                true => seat.numbers.iter().map(|(_, number)| u64::from(*number)).sum::<u64>() >= head,
                false => seat.last >= head.max(shared.book.as_ref().map_or(0, |book| book.head(seat.room))),
            }
        })
    }

    fn say_what_is_missing(&self) {
        let shared = &self.local.shared;
        if self.has_all() {
            return;
        }
        for seat in &self.seats {
            let head = shared.heads[seat.room as usize].load(Ordering::Relaxed);
            if seat.last < head || shared.is_ephemeral {
                let (user, room, last, seated) = (&self.plan.user, seat.room, seat.last, seat.is_seated);
                self.local.fault(|| {
                    format!("{user} never got all of room {room}: {last} of {head}, {:?}, seated: {seated}", seat.numbers)
                });
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.local.shared.clock.now_ns()
    }
}

/// How every `message` frame of ours begins.
const MESSAGE: &[u8] = br#"{"type":"message","room":""#;

/// The messages of one read: they came at the same time.
struct Batch<'a> {
    local: &'a Local,
    now_ns: u64,
    delivered: u64,
    slowest_us: u64,
    phase: usize,
}

impl Batch<'_> {
    fn on_message(&mut self, seats: &mut [Seat], frame: &[u8]) {
        let shared = &self.local.shared;
        if self.now_ns == 0 {
            self.now_ns = shared.clock.now_ns();
        }
        let room = number_at(frame, MESSAGE.len() + shared.prefix.len());
        let said = Said::find(frame);
        let (Some(room), Some((said, end))) = (room, said) else {
            return self.local.fault(|| format!("an unknown message: {}", String::from_utf8_lossy(frame)));
        };
        let Some(seat) = seats.iter_mut().find(|seat| u64::from(seat.room) == room) else {
            return self.local.fault(|| format!("a message of room {room}, which was not joined"));
        };
        if shared.swallows(Swallow::Delivery, seat.last) {
            return;
        }
        self.delivered += 1;
        let us = self.now_ns.saturating_sub(said.time_ns) / 1000;
        self.slowest_us = self.slowest_us.max(us);
        self.local.tally().delivery_us[self.phase].saturating_record(us);
        let offset = memchr::memmem::find(&frame[end..], br#""offset":"#).and_then(|at| number_at(frame, end + at + 9));
        let follows = match offset {
            Some(offset) => seat.on_stored(offset),
            None => seat.on_ephemeral(said.publisher, said.number),
        };
        match follows {
            Follows::Next => {}
            Follows::Gap(count) => self.local.fault(|| format!("{count} missing before {offset:?} in room {room}: {said:?}")),
            Follows::Repeat => self.local.fault(|| format!("{offset:?} came again in room {room}: {said:?}")),
        }
        if let (Some(book), Some(offset)) = (&shared.book, offset)
            && let Err(wrong) = book.on_seen(seat.room, offset, said)
        {
            self.local.fault(|| wrong);
        }
    }

    fn finish(self) {
        if self.delivered > 0 {
            self.local.shared.live.delivered.fetch_add(self.delivered, Ordering::Relaxed);
            let mut tally = self.local.tally();
            tally.delivered += self.delivered;
            let moment = tally.moment(self.now_ns);
            moment.delivered += self.delivered;
            moment.slowest_delivery_us = moment.slowest_delivery_us.max(self.slowest_us);
        }
    }
}

/// The decimal number at this place.
fn number_at(text: &[u8], at: usize) -> Option<u64> {
    let digits = text.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
    let mut number = None;
    for digit in digits {
        number = Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0'));
    }
    number
}
