//! One Engine.IO client as the server sees it, whichever transport it is on: what waits for it, whether it may still ask,
//! when it is pinged, and how it ends. Knows no socket, no request and no clock: time comes in as milliseconds.
//!
//! ```text
//!   polling ──▶ probe ("2probe", "3probe") ──▶ upgrade ("5") ──▶ WebSocket
//!      ╰───────────────── ends: close, lost, silent, violation ◀─────╯
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use super::packet::{Outgoing, Packet, SEPARATOR, take_payload};

/// When what is due.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From a pong to the next ping.
    pub ping_interval_ms: u64,
    /// From a ping to its pong, at the latest.
    pub ping_timeout_ms: u64,
    /// What a WebSocket that probes may take to take over.
    pub upgrade_ms: u64,
    /// How long what is left for a polling client waits for its next request, after the server has ended it.
    pub goodbye_ms: u64,
}

/// A payload ends behind the packet that reaches this; what is more comes with the next one.
pub const PAYLOAD_BYTES: usize = 256 * 1024;

/// A ping that is this late is the machine's fault, and the client gets its whole time to answer.
const LATE_MS: u64 = 100;

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The client said so.
    ByClient,
    /// This server said so: what waits is still sent.
    ByServer,
    /// The transport broke, or the client gave up a request.
    Lost,
    /// No pong in time.
    Silent,
    /// The client did what the protocol forbids.
    Violation,
}

/// How a request for packets fares.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// It is answered as soon as [`Peer::take_answer`] has something.
    Waits,
    /// There is nothing to have here.
    Refused,
}

/// What a WebSocket that probes is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Probed {
    /// Answer `3probe`.
    Answer,
    /// It is the transport now.
    Upgraded,
    /// Close it; the peer stays where it is.
    Refused,
}

/// See the top.
#[derive(Debug)]
pub struct Peer {
    times: Times,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    is_on_websocket: bool,
    probe: Option<Probe>,
    /// A GET waits.
    is_polled: bool,
    /// A POST is being read.
    is_posted: bool,
    beat: Beat,
    over: Option<Over>,
    forget_at_ms: u64,
}

#[derive(Debug)]
struct Probe {
    until_ms: u64,
    is_answered: bool,
}

#[derive(Debug, Clone, Copy)]
enum Beat {
    PingAt(u64),
    PongBy(u64),
}

impl Peer {
    /// One that has just been let in.
    pub fn new(times: Times, is_on_websocket: bool, now_ms: u64) -> Self {
        Self {
            times,
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_on_websocket,
            probe: None,
            is_polled: false,
            is_posted: false,
            beat: Beat::PingAt(now_ms + times.ping_interval_ms),
            over: None,
            forget_at_ms: u64::MAX,
        }
    }

    /// Queues a packet.
    pub fn push(&mut self, packet: Outgoing) {
        if self.over.is_none() {
            self.queued_bytes += packet.len();
            self.queue.push_back(packet);
        }
    }

    /// Bytes that wait here.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether and why it is over.
    pub fn over(&self) -> Option<Over> {
        self.over
    }

    /// Whether a WebSocket carries it.
    pub fn is_on_websocket(&self) -> bool {
        self.is_on_websocket
    }

    /// A GET came in.
    pub fn on_poll(&mut self, now_ms: u64) -> Polled {
        if self.is_on_websocket || self.over.is_some_and(|over| over != Over::ByServer) {
            return Polled::Refused;
        }
        if self.is_polled {
            // To ensure packet ordering, a client must not have more than one (protocol, "Receiving data").
            self.end(Over::Violation, now_ms);
            return Polled::Refused;
        }
        self.is_polled = true;
        Polled::Waits
    }

    /// The waiting GET was given up by the client.
    pub fn on_poll_gone(&mut self, now_ms: u64) {
        if std::mem::take(&mut self.is_polled) && !self.is_on_websocket {
            self.end(Over::Lost, now_ms);
        }
    }

    /// The payload that answers the waiting GET, if there is one and something to say.
    pub fn take_answer(&mut self) -> Option<Bytes> {
        if !self.is_polled {
            return None;
        }
        if self.is_on_websocket && self.over.is_none() {
            // It waited while the upgrade went through: messages are the WebSocket's from here on.
            self.is_polled = false;
            return Some(Bytes::from_static(b"6"));
        }
        let last = match self.over {
            None if self.probe.as_ref().is_some_and(|probe| probe.is_answered) && self.queue.is_empty() => Some(b'6'),
            None => None,
            Some(Over::ByClient) => Some(b'6'),
            Some(_) => Some(b'1'),
        };
        if last.is_none() && self.queue.is_empty() {
            return None;
        }
        self.is_polled = false;
        let mut payload = take_payload(&mut self.queue, PAYLOAD_BYTES);
        self.queued_bytes = self.queue.iter().map(Outgoing::len).sum();
        if let Some(last) = last.filter(|_| self.queue.is_empty()) {
            if !payload.is_empty() {
                payload.push(SEPARATOR);
            }
            payload.push(last);
            if self.over.is_some() {
                self.forget_at_ms = 0;
            }
        }
        Some(payload.into())
    }

    /// A POST came in, its body not read yet; false if it is to be refused.
    pub fn on_post(&mut self, now_ms: u64) -> bool {
        if self.is_on_websocket || self.over.is_some() {
            return false;
        }
        if std::mem::replace(&mut self.is_posted, true) {
            // As with GET (protocol, "Sending data").
            self.end(Over::Violation, now_ms);
            return false;
        }
        true
    }

    /// The body of the POST is here, or will never be.
    pub fn on_posted(&mut self) {
        self.is_posted = false;
    }

    /// A packet came in, over the transport that is in charge. The message in it, if it is one.
    pub fn on_packet<'a>(&mut self, packet: Packet<'a>, now_ms: u64) -> Option<&'a str> {
        if self.over.is_some() {
            return None;
        }
        match packet {
            Packet::Message(text) => return Some(text),
            Packet::Pong(_) => {
                if let Beat::PongBy(_) = self.beat {
                    self.beat = Beat::PingAt(now_ms + self.times.ping_interval_ms);
                }
            }
            // Since version 4 the server pings.
            Packet::Ping(_) => self.end(Over::Violation, now_ms),
            Packet::Close => self.end(Over::ByClient, now_ms),
            Packet::Open | Packet::Upgrade | Packet::Noop => {}
        }
        None
    }

    /// A WebSocket with the id of this peer; false if it is to be closed: a peer has one at most.
    pub fn on_probe(&mut self, now_ms: u64) -> bool {
        if self.is_on_websocket || self.probe.is_some() || self.over.is_some() {
            return false;
        }
        self.probe = Some(Probe { until_ms: now_ms + self.times.upgrade_ms, is_answered: false });
        true
    }

    /// A packet on the WebSocket that probes.
    pub fn on_probe_packet(&mut self, packet: Packet<'_>) -> Probed {
        match (&mut self.probe, packet) {
            // Once: answers to a client that does not read them would pile up.
            (Some(probe), Packet::Ping("probe")) if !probe.is_answered => {
                probe.is_answered = true;
                Probed::Answer
            }
            (Some(probe), Packet::Upgrade) if probe.is_answered => {
                self.probe = None;
                self.is_on_websocket = true;
                Probed::Upgraded
            }
            _ => Probed::Refused,
        }
    }

    /// Whether the WebSocket that probes may go on.
    pub fn is_probed(&self) -> bool {
        self.probe.is_some()
    }

    /// The WebSocket that probed is gone.
    pub fn on_probe_gone(&mut self) {
        self.probe = None;
    }

    /// The next packet for the WebSocket.
    pub fn poll_packet(&mut self) -> Option<Outgoing> {
        if !self.is_on_websocket {
            return None;
        }
        let packet = self.queue.pop_front()?;
        self.queued_bytes -= packet.len();
        Some(packet)
    }

    /// As many packets for the WebSocket as one payload carries.
    pub fn poll_payload(&mut self) -> Option<Bytes> {
        if !self.is_on_websocket || self.queue.is_empty() {
            return None;
        }
        let payload = take_payload(&mut self.queue, PAYLOAD_BYTES);
        self.queued_bytes = self.queue.iter().map(Outgoing::len).sum();
        Some(payload.into())
    }

    /// Time passed.
    pub fn on_time(&mut self, now_ms: u64) {
        if self.probe.as_ref().is_some_and(|probe| probe.until_ms <= now_ms) {
            self.probe = None;
        }
        if self.over.is_some() {
            return;
        }
        if let Beat::PingAt(at_ms) = self.beat
            && at_ms <= now_ms
        {
            let from_ms = if now_ms - at_ms < LATE_MS { at_ms } else { now_ms };
            self.beat = Beat::PongBy(from_ms + self.times.ping_timeout_ms);
            self.push(Outgoing::fixed("2"));
        }
        if let Beat::PongBy(by_ms) = self.beat
            && by_ms <= now_ms
        {
            self.end(Over::Silent, now_ms);
        }
    }

    /// When [`Self::on_time`] is due next.
    pub fn next_ms(&self) -> u64 {
        if self.over.is_some() {
            // A request that waits is about to be answered, and nothing else is due before that.
            return if self.is_polled { u64::MAX } else { self.forget_at_ms };
        }
        let (Beat::PingAt(beat_ms) | Beat::PongBy(beat_ms)) = self.beat;
        self.probe.as_ref().map_or(beat_ms, |probe| probe.until_ms.min(beat_ms))
    }

    /// It is over; the first reason counts.
    pub fn end(&mut self, why: Over, now_ms: u64) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(why);
        self.probe = None;
        self.forget_at_ms = now_ms;
        if why == Over::ByServer {
            self.forget_at_ms += self.times.goodbye_ms;
        } else {
            self.queue = VecDeque::new();
            self.queued_bytes = 0;
        }
    }

    /// Gives up what was not sent.
    pub fn drop_unsent(&mut self) {
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
    }

    /// Whether nothing can come of it any more.
    pub fn is_forgotten(&self, now_ms: u64) -> bool {
        self.over.is_some() && !self.is_polled && self.forget_at_ms <= now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { ping_interval_ms: 300, ping_timeout_ms: 200, upgrade_ms: 1000, goodbye_ms: 500 };

    fn polling() -> Peer {
        Peer::new(TIMES, false, 0)
    }

    fn say(peer: &mut Peer, text: &'static str) {
        peer.push(Outgoing::fixed(text));
    }

    fn answer(peer: &mut Peer) -> String {
        String::from_utf8(peer.take_answer().expect("an answer").to_vec()).unwrap()
    }

    #[test]
    fn a_poll_waits_until_there_is_something() {
        let mut peer = polling();
        assert_eq!(peer.on_poll(1), Polled::Waits);
        assert_eq!(peer.take_answer(), None);
        say(&mut peer, "4a");
        say(&mut peer, "4b");
        assert_eq!(answer(&mut peer), "4a\x1e4b");
        assert_eq!(peer.queued_bytes(), 0);
        say(&mut peer, "4c");
        assert_eq!(peer.take_answer(), None, "nobody asks");
        assert_eq!(peer.on_poll(2), Polled::Waits);
        assert_eq!(answer(&mut peer), "4c");
    }

    #[test]
    fn second_poll_ends_it() {
        let mut peer = polling();
        assert_eq!(peer.on_poll(1), Polled::Waits);
        assert_eq!(peer.on_poll(2), Polled::Refused);
        assert_eq!(answer(&mut peer), "1");
        assert_eq!(peer.on_poll(3), Polled::Refused);
        assert!(peer.is_forgotten(3));
    }

    #[test]
    fn second_post_ends_it() {
        let mut peer = polling();
        assert!(peer.on_post(1));
        assert!(!peer.on_post(2));
        assert_eq!(peer.over(), Some(Over::Violation));
        let mut peer = polling();
        assert!(peer.on_post(1));
        peer.on_posted();
        assert!(peer.on_post(2));
    }

    #[test]
    fn a_poll_given_up_ends_it() {
        let mut peer = polling();
        peer.on_poll(1);
        peer.on_poll_gone(2);
        assert_eq!(peer.over(), Some(Over::Lost));
    }

    #[test]
    fn client_that_closes_is_answered_noop() {
        let mut peer = polling();
        peer.on_poll(1);
        peer.on_packet(Packet::Close, 2);
        assert_eq!(answer(&mut peer), "6");
        assert_eq!(peer.on_poll(3), Polled::Refused);
    }

    #[test]
    fn nothing_is_due_while_the_last_answer_is_on_its_way() {
        for why in [Over::ByClient, Over::ByServer, Over::Silent] {
            let mut peer = polling();
            peer.on_poll(1);
            peer.end(why, 2);
            assert_eq!(peer.next_ms(), u64::MAX);
            answer(&mut peer);
            assert!(peer.is_forgotten(2));
        }
    }

    #[test]
    fn server_that_closes_says_what_is_left() {
        let mut peer = polling();
        say(&mut peer, "41");
        peer.end(Over::ByServer, 10);
        assert!(!peer.is_forgotten(509));
        assert_eq!(peer.on_poll(20), Polled::Waits);
        assert_eq!(answer(&mut peer), "41\x1e1");
        assert!(peer.is_forgotten(20));
        let mut silent = polling();
        silent.end(Over::ByServer, 10);
        assert!(silent.is_forgotten(510));
    }

    #[test]
    fn pings_go_out_and_pongs_count() {
        let mut peer = polling();
        peer.on_time(299);
        assert_eq!(peer.queued_bytes(), 0);
        peer.on_time(310);
        peer.on_poll(311);
        assert_eq!(answer(&mut peer), "2");
        assert_eq!(peer.next_ms(), 500, "a tick's delay is not the client's");
        peer.on_packet(Packet::Pong(""), 400);
        assert_eq!(peer.next_ms(), 700);
        peer.on_time(700);
        peer.on_time(899);
        assert_eq!(peer.over(), None);
        peer.on_time(900);
        assert_eq!(peer.over(), Some(Over::Silent));
    }

    #[test]
    fn a_late_ping_leaves_its_whole_time() {
        let mut peer = polling();
        peer.on_time(5000);
        assert_eq!((peer.over(), peer.next_ms()), (None, 5200));
    }

    #[test]
    fn a_client_does_not_ping() {
        let mut peer = polling();
        assert_eq!(peer.on_packet(Packet::Ping(""), 1), None);
        assert_eq!(peer.over(), Some(Over::Violation));
    }

    #[test]
    fn upgrade_takes_what_waits_along() {
        let mut peer = polling();
        peer.on_poll(1);
        assert!(peer.on_probe(2));
        assert_eq!(peer.take_answer(), None, "a WebSocket alone changes nothing");
        assert_eq!(peer.on_probe_packet(Packet::Ping("probe")), Probed::Answer);
        assert_eq!(answer(&mut peer), "6");
        say(&mut peer, "4a");
        assert_eq!(peer.poll_packet(), None);
        assert_eq!(peer.on_probe_packet(Packet::Upgrade), Probed::Upgraded);
        assert_eq!(peer.poll_packet(), Some(Outgoing::fixed("4a")));
        assert_eq!(peer.on_poll(3), Polled::Refused);
        assert!(!peer.on_post(3));
        assert!(!peer.on_probe(3));
        assert_eq!(peer.over(), None);
    }

    #[test]
    fn upgrade_at_once_answers_the_waiting_get() {
        let mut peer = polling();
        peer.on_poll(1);
        assert!(peer.on_probe(2));
        peer.on_probe_packet(Packet::Ping("probe"));
        assert_eq!(peer.on_probe_packet(Packet::Upgrade), Probed::Upgraded);
        say(&mut peer, "4a");
        assert_eq!(answer(&mut peer), "6");
        assert_eq!(peer.poll_packet(), Some(Outgoing::fixed("4a")));
        peer.on_poll_gone(3);
        assert_eq!(peer.over(), None);
    }

    #[test]
    fn a_probe_asks_once() {
        let mut peer = polling();
        assert!(peer.on_probe(1));
        assert_eq!(peer.on_probe_packet(Packet::Ping("probe")), Probed::Answer);
        assert_eq!(peer.on_probe_packet(Packet::Ping("probe")), Probed::Refused);
    }

    #[test]
    fn upgrade_needs_a_probe() {
        for packet in [Packet::Upgrade, Packet::Ping(""), Packet::Message("hi"), Packet::Pong("probe")] {
            let mut peer = polling();
            assert!(peer.on_probe(1));
            assert_eq!(peer.on_probe_packet(packet), Probed::Refused);
        }
    }

    #[test]
    fn one_probe_at_a_time() {
        let mut peer = polling();
        assert!(peer.on_probe(1));
        assert!(!peer.on_probe(2));
        peer.on_probe_gone();
        assert!(peer.on_probe(3));
    }

    #[test]
    fn a_probe_that_never_ends_is_given_up() {
        let mut peer = polling();
        peer.on_probe(1);
        peer.on_probe_packet(Packet::Ping("probe"));
        for step in 1..=4 {
            peer.on_time(step * 300);
            peer.on_packet(Packet::Pong(""), step * 300);
        }
        assert!(!peer.is_probed());
        peer.drop_unsent();
        peer.on_poll(1201);
        assert_eq!(peer.take_answer(), None, "polling goes on as before");
    }
}
