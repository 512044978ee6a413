//! A publisher: speaks at intended times (or as fast as its window lets it), with a key on each message, and goes on after a lost
//! connection with what was not acked, in the same order and under the same keys.

use std::{collections::HashMap, rc::Rc, sync::atomic::Ordering, time::Duration};

use tokio::time::{sleep, sleep_until};

use crate::{
    args::Swallow,
    fleet::{Local, Shared},
    member::Frame,
    payload::Said,
    socket::{Heard, Socket},
    unanswered::Unanswered,
};

/// What a publisher does.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) number: u32,
    /// Which gateway first.
    pub(crate) turn: usize,
    /// The room of each message, over and over.
    pub(crate) rooms: Vec<u32>,
    /// The first one, among those of others: nanoseconds after all are ready.
    pub(crate) phase_ns: u64,
    /// From one message to the next; 0: whenever there is room in the window.
    pub(crate) period_ns: u64,
    pub(crate) in_flight: usize,
    /// Ends after so many messages …
    pub(crate) count: u64,
    /// … or after so long, if that is said.
    pub(crate) lasts: Option<Duration>,
    /// Quiet after so long, for so long, again and again.
    pub(crate) pauses: Option<(Duration, Duration)>,
    /// A lost connection is nothing unusual here, and every message has a key.
    pub(crate) comes_back: bool,
}

struct Publisher {
    local: Rc<Local>,
    plan: Plan,
    start_ns: u64,
    serial: u64,
    numbers: HashMap<u32, u32>,
    unanswered: Unanswered,
    text: Vec<u8>,
}

const BACKOFF_MS: (u64, u64) = (50, 1_000);
/// How long a refused message waits if the server did not say.
const AGAIN_MS: u64 = 100;
/// Messages that are written at once, before what came in is read.
const BURST: usize = 256;

pub(crate) async fn speak(local: Rc<Local>, plan: Plan) {
    let shared = local.shared.clone();
    shared.ready.cancelled().await;
    let start_ns = shared.clock.now_ns();
    let mut publisher = Publisher {
        local,
        plan,
        start_ns,
        serial: 0,
        numbers: HashMap::new(),
        unanswered: Unanswered::default(),
        text: Vec::new(),
    };
    tokio::select! {
        () = publisher.come_and_speak() => {}
        () = shared.over.cancelled() => {
            let left = publisher.unanswered.len();
            publisher.local.fault(|| format!("{left} messages were never answered"));
        }
    }
    shared.speaking.fetch_sub(1, Ordering::Relaxed);
}

/// Until this time of the load's clock.
async fn until(shared: &Shared, at_ns: u64) {
    /// Timers have milliseconds, and round up.
    const EARLY_NS: u64 = 2_000_000;
    if !shared.spins {
        return sleep_until(shared.clock.at(at_ns)).await;
    }
    if at_ns > shared.clock.now_ns() + EARLY_NS {
        sleep_until(shared.clock.at(at_ns - EARLY_NS)).await;
    }
    while shared.clock.now_ns() < at_ns {
        tokio::task::yield_now().await;
    }
}

impl Publisher {
    async fn come_and_speak(&mut self) {
        let token = self.local.shared.signer.token(&format!("publisher{}", self.plan.number)).into();
        let mut failed = 0;
        loop {
            let shared = self.local.shared.clone();
            let target = &shared.targets[self.plan.turn % shared.targets.len()];
            self.plan.turn += 1;
            let client = format!("publisher{}", self.plan.number);
            match Socket::open(target, &token, &client, None).await {
                Ok(mut socket) => {
                    if self.speak_here(&mut socket).await {
                        return;
                    }
                    failed = 0;
                    if !self.plan.comes_back {
                        self.local.fault(|| "a publisher lost its connection".to_owned());
                        return;
                    }
                }
                Err(error) => {
                    self.local.tally().failed_connects += 1;
                    if !self.plan.comes_back {
                        self.local.fault(|| format!("a publisher can't connect: {error}"));
                        return;
                    }
                }
            }
            let longest = (BACKOFF_MS.0 << failed.min(10)).min(BACKOFF_MS.1);
            failed += 1;
            sleep(Duration::from_millis(fastrand::u64(longest / 2..=longest))).await;
        }
    }

    /// Whether all has been said and acked.
    async fn speak_here(&mut self, socket: &mut Socket) -> bool {
        self.unanswered.on_lost();
        for serial in self.unanswered.serials() {
            self.queue(socket, serial);
        }
        loop {
            let now_ns = self.now_ns();
            while let Some(serial) = self.unanswered.poll_again(now_ns) {
                self.queue(socket, serial);
            }
            let mut burst = 0;
            while !self.is_done(now_ns) && self.has_room() && self.next_ns() <= now_ns && burst < BURST {
                self.say(socket, now_ns);
                burst += 1;
            }
            if socket.flush().await.is_err() {
                return false;
            }
            if self.is_done(now_ns) && self.unanswered.is_empty() {
                return true;
            }
            if burst == BURST && self.plan.in_flight >= BURST * 2 {
                tokio::task::yield_now().await;
            }
            let next_ns = match self.is_done(now_ns) || !self.has_room() {
                true => self.unanswered.again_ns(),
                false => Some(self.next_ns().min(self.unanswered.again_ns().unwrap_or(u64::MAX))),
            };
            let shared = self.local.shared.clone();
            let mut frames = Vec::new();
            let heard = tokio::select! {
                heard = socket.read(|frame| frames.push(frame.to_vec())) => heard,
                () = async {
                    match next_ns {
                        Some(at) => until(&shared, at).await,
                        // The end may come while the window is full.
                        None => sleep(Duration::from_millis(50)).await,
                    }
                } => Heard::Something,
            };
            for frame in frames {
                self.on_frame(&frame);
            }
            if heard != Heard::Something {
                if let Heard::Close(code, _) = heard {
                    *self.local.tally().closes.entry(code).or_default() += 1;
                }
                return false;
            }
        }
    }

    fn is_done(&self, now_ns: u64) -> bool {
        self.serial >= self.plan.count || self.plan.lasts.is_some_and(|lasts| now_ns >= self.start_ns + lasts.as_nanos() as u64)
    }

    fn has_room(&self) -> bool {
        self.unanswered.len() < self.plan.in_flight
    }

    fn next_ns(&self) -> u64 {
        let speaking_ns = self.plan.phase_ns + self.serial * self.plan.period_ns;
        let quiet_ns =
            self.plan.pauses.map_or(0, |(every, pause)| speaking_ns / every.as_nanos() as u64 * pause.as_nanos() as u64);
        self.start_ns + speaking_ns + quiet_ns
    }

    fn say(&mut self, socket: &mut Socket, now_ns: u64) {
        let room = self.plan.rooms[self.serial as usize % self.plan.rooms.len()];
        let number = self.numbers.entry(room).or_default();
        *number += 1;
        let time_ns = if self.plan.period_ns > 0 { self.next_ns() } else { now_ns };
        let said = Said { publisher: self.plan.number, number: self.numbers[&room], time_ns };
        self.serial += 1;
        self.unanswered.on_said(self.serial, said, room);
        if self.local.shared.is_ephemeral {
            self.local.shared.heads[room as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.local.tally().published += 1;
        if self.local.shared.swallows(Swallow::Append, self.serial) {
            let head = self.local.shared.heads[room as usize].load(Ordering::Relaxed);
            return self.on_ack(self.serial, head + 1, false);
        }
        self.queue(socket, self.serial);
    }

    fn queue(&mut self, socket: &mut Socket, serial: u64) {
        let Some(sent) = self.unanswered.get(serial) else { return };
        let shared = &self.local.shared;
        let text = &mut self.text;
        text.clear();
        let door = shared.targets[0].door;
        door.begin_broadcast(serial, &shared.room_name(sent.room), text);
        sent.said.write(shared.payload_bytes, text);
        let rest = match (shared.is_ephemeral, self.plan.comes_back) {
            (true, _) => r#","ephemeral":true"#.to_owned(),
            (false, true) => format!(r#","key":"{serial}""#),
            (false, false) => String::new(),
        };
        door.end_broadcast(&rest, text);
        socket.queue(text);
    }

    fn on_frame(&mut self, text: &[u8]) {
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(text) else { return };
        let Some(serial) = frame.reference else { return };
        match &*frame.kind {
            "ack" => self.on_ack(serial, frame.offset.unwrap_or_default(), frame.duplicate == Some(true)),
            "error" => {
                let code = frame.code.as_deref().unwrap_or_default();
                *self.local.tally().refused.entry(code.to_owned()).or_default() += 1;
                if !matches!(code, "rate_limited" | "unavailable" | "internal") {
                    if self.unanswered.take(serial).is_some() {
                        self.local.fault(|| format!("a message was refused: {}", String::from_utf8_lossy(text)));
                    }
                    return;
                }
                let pause_ms = frame.retry_after_ms.unwrap_or(AGAIN_MS);
                self.unanswered.on_refused(serial, self.now_ns() + pause_ms * 1_000_000);
            }
            _ => {}
        }
    }

    fn on_ack(&mut self, serial: u64, offset: u64, is_duplicate: bool) {
        let Some(sent) = self.unanswered.take(serial) else { return };
        let (shared, now_ns) = (&self.local.shared, self.now_ns());
        shared.live.acked.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.local.tally();
        tally.acked += 1;
        tally.duplicates += u64::from(is_duplicate);
        let us = now_ns.saturating_sub(sent.said.time_ns) / 1000;
        tally.ack_us.saturating_record(us);
        let moment = tally.moment(now_ns);
        moment.acked += 1;
        moment.slowest_ack_us = moment.slowest_ack_us.max(us);
        drop(tally);
        if shared.is_ephemeral {
            return;
        }
        shared.heads[sent.room as usize].fetch_max(offset, Ordering::Relaxed);
        if let Some(book) = &shared.book
            && let Err(wrong) = book.on_acked(sent.room, offset, sent.said, sent.is_repeated)
        {
            self.local.fault(|| wrong);
        }
    }

    fn now_ns(&self) -> u64 {
        self.local.shared.clock.now_ns()
    }
}
