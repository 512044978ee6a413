//! The writer of one partition: a task that sends appends in order, many at once, each chained to the one before it, and
//! resolves them in order as the acks come.
//!
//! ```text
//!   open:    a marker of 512 messages, all of them or none; the ack tells the sequence s of its last one
//!   append:  only if the last sequence is s
//!   append:  only if the last sequence is s + 1
//! ```
//! Sequences alone are no fence against one foreign message: it would move the rest of a pipeline by one, and the server would take
//! the next append that expects that number. So a marker is taller than a pipeline is long: whatever another writer still has under way expects
//! a sequence that the marker has passed. JetStream's other expectation, the id of the message before (`Nats-Expected-Last-Msg-Id`), is
//! looked at by the replicas only after they have agreed on an append, and those of NATS 2.15 stop for good when it fails there.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, Message, StatusCode, Subscriber, header::NATS_EXPECTED_LAST_SEQUENCE, jetstream::ErrorCode};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Shared,
    message::{OFFSET_HEADER, WRITER_HEADER},
    reads::Reads,
    subject,
};
use crate::{
    log::{Append, AppendError, LogError, Sequence},
    nats,
};

/// Messages of a marker. They are published as one batch, of which NATS takes 1,000 messages at most.
pub(super) const MARKER_HEIGHT: usize = 512;

/// Appends under way per partition: fewer than a marker is tall. An owner that has more waits here; and all acks have room in the
/// inbox (`nats::MAX_WAITING_TO_BE_READ`), however late they are read.
const MAX_IN_FLIGHT: usize = MARKER_HEIGHT - 1;

/// An atomic batch (NATS ADR-50): its name, the number of a message in it, and that this one ends it.
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

const _: () = assert!(MAX_IN_FLIGHT <= nats::MAX_WAITING_TO_BE_READ);

/// How long an ack may take. Without a leader, which takes 4–9 s, none comes at all, and waiting longer finds nothing out.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked at.
const ACK_TIMEOUT_CHECK: Duration = Duration::from_millis(250);

/// Commands that are taken before acks are looked at again.
const COMMANDS_PER_TURN: usize = 64;

pub(super) enum Command {
    Append { append: Append, ack: oneshot::Sender<Result<Sequence, AppendError>> },
    Open { opened: oneshot::Sender<Result<Sequence, LogError>> },
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    presence: tokio::sync::watch::Receiver<nats::Presence>,
    /// Acks come to `<inbox>.<number>`.
    inbox: String,
    acks: Option<Subscriber>,
    /// The number of the next message. Never used twice, so that a late ack meets nothing that it doesn't mean.
    next_number: u64,
    /// What was sent and not answered yet, numbered without holes up to `next_number`.
    in_flight: VecDeque<InFlight>,
    /// Breaks of the connection before the oldest message in flight: answers may have got lost in a later one.
    breaks: u64,
    chain: Result<Chain, AppendError>,
}

/// What the next append follows.
struct Chain {
    /// Chance: who looks at the log sees what was appended since the same open.
    tag: String,
    last_sequence: Sequence,
}

struct InFlight {
    waiting: Waiting,
    sent: Instant,
    /// An answer that came before those of earlier messages: in a cluster refusals are faster than acks.
    early: Option<Result<Sequence, AppendError>>,
}

enum Waiting {
    Append { expected: Sequence, ack: oneshot::Sender<Result<Sequence, AppendError>> },
    Marker { tag: String, opened: oneshot::Sender<Result<Sequence, LogError>> },
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> Self {
        let presence = shared.nats.presence();
        let inbox = shared.nats.client().new_inbox();
        let chain = Err(AppendError::Unknown("nothing was stored: open the partition first".into()));
        Self { shared, commands, presence, inbox, acks: None, next_number: 0, in_flight: VecDeque::new(), breaks: 0, chain }
    }

    /// Runs until the log is dropped, and then until everything that was sent is answered.
    pub(super) async fn run(mut self) {
        let mut check = interval(ACK_TIMEOUT_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_open = true;
        while is_open || !self.in_flight.is_empty() {
            let is_waiting = !self.in_flight.is_empty();
            tokio::select! {
                Some(message) = next(&mut self.acks) => self.on_acks(&message),
                command = self.commands.recv(), if is_open && self.in_flight.len() < MAX_IN_FLIGHT => match command {
                    Some(command) => self.on_commands(command).await,
                    None => is_open = false,
                },
                Ok(()) = self.presence.changed(), if is_waiting => self.on_presence(),
                _ = check.tick(), if is_waiting => self.on_check(),
            }
        }
    }

    /// Takes the command and some others that are there already.
    async fn on_commands(&mut self, command: Command) {
        self.on_command(command).await;
        for _ in 1..COMMANDS_PER_TURN.min(MAX_IN_FLIGHT - self.in_flight.len()) {
            let Ok(command) = self.commands.try_recv() else { break };
            self.on_command(command).await;
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Append { append, ack } => {
                self.shared.give_back(append.record.len());
                match self.send_append(append).await {
                    Ok(expected) => self.wait_for(Waiting::Append { expected, ack }),
                    // In order: behind everything that was sent before.
                    Err(refused) if self.in_flight.is_empty() => drop(ack.send(Err(refused))),
                    Err(refused) => {
                        // It has no number in NATS, so it gets one that is never sent.
                        self.wait_for(Waiting::Append { expected: 0, ack });
                        self.in_flight.back_mut().expect("it was just added").early = Some(Err(refused));
                    }
                }
            }
            Command::Open { opened } => {
                // Whatever is under way is unknown to the one who opens.
                self.fail_all(&AppendError::Unknown("the partition was opened again meanwhile".into()));
                if let Err((opened, error)) = self.send_marker(opened).await {
                    let _ = opened.send(Err(error));
                }
            }
        }
    }

    async fn send_marker(
        &mut self,
        opened: oneshot::Sender<Result<Sequence, LogError>>,
    ) -> Result<(), (oneshot::Sender<Result<Sequence, LogError>>, LogError)> {
        if let Err(error) = self.begin_flight() {
            return Err((opened, LogError::Unavailable(error.to_string())));
        }
        if self.acks.is_none() {
            let nats = &self.shared.nats;
            match nats.while_up(nats.client().subscribe(format!("{}.*", self.inbox))).await {
                Ok(Ok(acks)) => self.acks = Some(acks),
                Ok(Err(error)) => return Err((opened, LogError::Unavailable(error.to_string()))),
                Err(away) => return Err((opened, LogError::Unavailable(away.to_string()))),
            }
        }
        let tag = new_tag();
        for number in 1..=MARKER_HEIGHT {
            let mut headers = HeaderMap::new();
            headers.insert(WRITER_HEADER, tag.as_str());
            headers.insert(BATCH_ID, tag.as_str());
            headers.insert(BATCH_SEQUENCE, number.to_string());
            let is_last = number == MARKER_HEIGHT;
            if is_last {
                headers.insert(BATCH_COMMIT, "1");
            }
            // Only the whole is answered.
            let reply = is_last.then(|| self.reply());
            if let Err(error) = self.send(subject::markers(self.shared.partition), reply, headers, Bytes::new()).await {
                return Err((opened, LogError::Unavailable(error.to_string())));
            }
        }
        self.wait_for(Waiting::Marker { tag, opened });
        Ok(())
    }

    /// Sends an append behind those before it, or tells why it can't be one that follows them.
    async fn send_append(&mut self, append: Append) -> Result<Sequence, AppendError> {
        let Append { room, offset, sequence, record } = append;
        let chain = self.chain.as_ref().map_err(Clone::clone)?;
        let fenced = AppendError::Fenced { expected: sequence, last: chain.last_sequence };
        if sequence != chain.last_sequence + 1 {
            return Err(fenced);
        }
        let known = self.shared.rooms.lock().find(&room).map(|known| (known.trail.head(), known.is_proven));
        match known {
            Some((head, _)) if head + 1 == offset => {}
            // Unknown; or known from before retention took all of it.
            _ => {
                let read = Reads::of(&self.shared).trail(&room).await.map_err(|error| self.break_chain(&error.to_string()))?;
                if read.head() + 1 != offset {
                    tracing::error!(
                        partition = %self.shared.partition, %room, head = read.head(), offset,
                        "refused an append whose offset does not follow"
                    );
                    return Err(fenced);
                }
                self.shared.rooms.lock().replace(&room, read);
            }
        }

        if self.in_flight.is_empty() {
            self.begin_flight().map_err(|error| self.break_chain(&error.to_string()))?;
        }
        let chain = self.chain.as_ref().map_err(Clone::clone)?;
        let mut headers = HeaderMap::new();
        headers.insert(WRITER_HEADER, chain.tag.as_str());
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, chain.last_sequence.to_string());
        headers.insert(OFFSET_HEADER, offset.to_string());
        if !self.shared.rooms.lock().follow(&room, sequence, &mut headers) {
            return Err(self.break_chain("nothing was stored: the room was forgotten meanwhile"));
        }
        self.send(subject::room(self.shared.partition, &room), Some(self.reply()), headers, record)
            .await
            .map_err(|error| self.break_chain(&error.to_string()))?;
        if let Ok(chain) = &mut self.chain {
            chain.last_sequence = sequence;
        }
        Ok(sequence)
    }

    /// Looks whether NATS is there before the first of some messages. A break that nothing was in flight in does no harm.
    fn begin_flight(&mut self) -> Result<(), SendError> {
        let nats::Presence { is_up, breaks } = *self.presence.borrow_and_update();
        self.breaks = breaks;
        if is_up { Ok(()) } else { Err(nats::Away.into()) }
    }

    /// Where the next message is answered.
    fn reply(&self) -> String {
        format!("{}.{}", self.inbox, self.next_number)
    }

    /// Hands a message to the client, unless NATS goes away meanwhile: the client would keep it until it is back.
    async fn send(&self, subject: String, reply: Option<String>, headers: HeaderMap, payload: Bytes) -> Result<(), SendError> {
        let client = self.shared.nats.client();
        let send = async {
            match reply {
                Some(reply) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => client.publish_with_headers(subject, headers, payload).await,
            }
        };
        // Mostly there is room, and no need to watch.
        let mut send = std::pin::pin!(send);
        match (&mut send).now_or_never() {
            Some(sent) => Ok(sent?),
            None => Ok(self.shared.nats.while_up(send).await??),
        }
    }

    fn wait_for(&mut self, waiting: Waiting) {
        self.next_number += 1;
        self.in_flight.push_back(InFlight { waiting, sent: Instant::now(), early: None });
    }

    /// Takes the message and whatever else is there already.
    fn on_acks(&mut self, message: &Message) {
        self.on_ack(message);
        while let Some(Some(message)) = next(&mut self.acks).now_or_never() {
            self.on_ack(&message);
        }
        while let Some(answer) = self.in_flight.front_mut().and_then(|front| front.early.take()) {
            self.resolve_front(answer);
        }
    }

    fn on_ack(&mut self, message: &Message) {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        let front = self.next_number - self.in_flight.len() as u64;
        let Some(index) = number.and_then(|number| number.checked_sub(front)) else { return };
        if let Some(in_flight) = self.in_flight.get_mut(index as usize) {
            let expected = match in_flight.waiting {
                Waiting::Append { expected, .. } => Some(expected),
                Waiting::Marker { .. } => None,
            };
            in_flight.early = Some(answer(message, expected));
        }
    }

    fn resolve_front(&mut self, answer: Result<Sequence, AppendError>) {
        let front = self.in_flight.pop_front().expect("there is a front");
        match (front.waiting, answer) {
            (Waiting::Append { ack, .. }, Ok(sequence)) => drop(ack.send(Ok(sequence))),
            (Waiting::Append { ack, expected }, Err(error)) => {
                // One that was never sent leaves the chain as it is: nothing follows it that was sent before it was refused.
                let was_sent = expected != 0;
                let _ = ack.send(Err(error.clone()));
                if was_sent {
                    self.fail_all(&error);
                }
            }
            (Waiting::Marker { tag, opened }, Ok(sequence)) => {
                self.shared.rooms.lock().clear();
                self.shared.marked.store(sequence, Ordering::Relaxed);
                self.chain = Ok(Chain { tag, last_sequence: sequence });
                let _ = opened.send(Ok(sequence));
            }
            (Waiting::Marker { opened, .. }, Err(error)) => {
                let _ = opened.send(Err(LogError::Unavailable(error.to_string())));
            }
        }
    }

    /// The connection broke: answers to what was sent may be lost, and will never come.
    fn on_presence(&mut self) {
        if self.presence.borrow_and_update().breaks != self.breaks {
            self.fail_all(&AppendError::Unknown("NATS went away before its ack".into()));
        }
    }

    fn on_check(&mut self) {
        if self.in_flight.front().is_some_and(|front| front.sent.elapsed() > ACK_TIMEOUT) {
            self.fail_all(&AppendError::Unknown(format!("no ack within {ACK_TIMEOUT:?}")));
        }
    }

    fn break_chain(&mut self, why: &str) -> AppendError {
        let error = AppendError::Unknown(why.to_owned());
        self.chain = Err(error.clone());
        error
    }

    /// Everything under way fails, and whatever is queued behind it, until the partition is opened again.
    fn fail_all(&mut self, error: &AppendError) {
        self.chain = Err(error.clone());
        for InFlight { waiting, early, .. } in self.in_flight.drain(..) {
            match waiting {
                Waiting::Append { ack, expected } => {
                    let error = match (early, error) {
                        (Some(Err(refused)), _) => refused,
                        // Nothing behind a refused one was stored: it expects a sequence that is not, or no longer, the last.
                        (_, AppendError::Fenced { last, .. }) => AppendError::Fenced { expected, last: *last },
                        _ => error.clone(),
                    };
                    let _ = ack.send(Err(error));
                }
                Waiting::Marker { opened, .. } => drop(opened.send(Err(LogError::Unavailable(error.to_string())))),
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Away(#[from] nats::Away),
    #[error(transparent)]
    Refused(#[from] async_nats::client::PublishError),
}

/// The next message of an inbox; never, before there is one.
async fn next(acks: &mut Option<Subscriber>) -> Option<Message> {
    match acks {
        Some(acks) => acks.next().await,
        None => std::future::pending().await,
    }
}

/// A publish ack as JetStream writes it: <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.
#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: Sequence,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn answer(message: &Message, expected: Option<Sequence>) -> Result<Sequence, AppendError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(AppendError::Unknown("no stream took it: it is missing, or has no leader".into()));
    }
    let ack: PubAck = serde_json::from_slice(&message.payload)
        .map_err(|error| AppendError::Unknown(format!("an ack that is none: {error}")))?;
    match (ack.error, expected) {
        (Some(ApiError { err_code, description }), Some(expected)) if is_fence(err_code) => {
            // "wrong last sequence: 17", or without a number.
            let last = description.rsplit(' ').next().and_then(|last| last.parse().ok()).unwrap_or(expected - 1);
            Err(AppendError::Fenced { expected, last })
        }
        (Some(ApiError { err_code, description }), _) => Err(AppendError::Unknown(format!("{description} ({err_code})"))),
        (None, Some(expected)) if ack.seq != expected => {
            Err(AppendError::Unknown(format!("expected sequence {expected}, got {}", ack.seq)))
        }
        (None, _) => Ok(ack.seq),
    }
}

fn is_fence(code: u64) -> bool {
    let fences = [ErrorCode::STREAM_WRONG_LAST_SEQUENCE, ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT];
    fences.iter().any(|fence| fence.0 == code)
}

fn new_tag() -> String {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system has randomness");
    format!("{:016x}", u64::from_be_bytes(random))
}
