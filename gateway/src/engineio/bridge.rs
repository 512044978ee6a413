//! A WebSocket here whose peer another shard holds: what comes over it is said there, what is to go over it is asked for.
//! It costs a hop each way and a copy, so a balancer that keeps clients where they are is worth having; without one, this
//! is what makes the upgrade work at all.

use std::{pin::pin, rc::Rc, time::Duration};

use bytes::Bytes;
use carillon_proto::engineio::Step;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{
    elsewhere::Elsewhere,
    packet::{self, Outgoing, Packet, split_payload, take_payload},
    request::{Refused, Sid},
    server::{Config, UPGRADE_MS},
    websocket::{broken_frame, broken_protocol, push, say_goodbye},
};
use crate::websocket::codec::{self, Decoder, Event, Violation};

/// What is read at once, beside the rest of a frame.
const READ_BYTES: usize = 4 * 1024;

/// Serves a socket until it ends.
pub(super) async fn serve(config: &Config, elsewhere: &Rc<Elsewhere>, sid: Sid, upgraded: Upgraded) {
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let patience = Duration::from_millis(config.ping_interval_ms + config.ping_timeout_ms);
    let (heard, is_probing, is_carried, close) = (Heard::default(), false, false, codec::close_frame(None, ""));
    let mut bridge = Bridge { elsewhere, sid, max: config.max_payload, patience, heard, is_probing, is_carried, close };
    bridge.run(&mut reader, &mut writer).await;
    // One that was refused leaves the client's other socket alone.
    let gone = match (bridge.is_carried, bridge.is_probing) {
        (true, _) => Some(Step::Gone),
        (false, true) => Some(Step::ProbeGone),
        (false, false) => None,
    };
    if let Some(gone) = gone {
        elsewhere.tell_step(0, sid, gone, Bytes::new());
    }
    let close = bridge.heard.violation.map_or(bridge.close, broken_frame);
    say_goodbye(&mut reader, &mut writer, &[], &close).await;
}

struct Bridge<'b> {
    elsewhere: &'b Rc<Elsewhere>,
    sid: Sid,
    max: usize,
    patience: Duration,
    heard: Heard,
    /// The holder has let it probe.
    is_probing: bool,
    /// It is the peer's transport, after `5`.
    is_carried: bool,
    /// The last frame, unless what came broke the frames themselves.
    close: Bytes,
}

/// What came over the socket and is not acted on yet.
#[derive(Default)]
struct Heard {
    decoder: Decoder,
    bytes: Vec<u8>,
    said: Vec<Said>,
    violation: Option<Violation>,
}

enum Said {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Close(Option<u16>),
}

impl Bridge<'_> {
    /// Returns when the socket is of no use any more.
    async fn run(&mut self, reader: &mut (impl AsyncRead + Unpin), writer: &mut (impl AsyncWrite + Unpin)) {
        let mut upgrade = pin!(sleep(Duration::from_millis(UPGRADE_MS)));
        while !self.is_carried {
            tokio::select! {
                is_open = self.heard.read(reader, self.max) => if !is_open { return },
                () = &mut upgrade => return,
            }
            if !self.on_said(writer).await {
                return;
            }
        }
        let (elsewhere, sid) = (self.elsewhere.clone(), self.sid);
        let hear = || elsewhere.ask(sid, Step::Hear, Bytes::new());
        let mut hearing = Box::pin(hear());
        loop {
            tokio::select! {
                is_open = self.heard.read(reader, self.max) => {
                    if !is_open || !self.on_said(writer).await {
                        return;
                    }
                }
                payload = &mut hearing => {
                    let payload = match payload {
                        Ok(payload) => payload,
                        Err(Refused::Closed(code)) => return self.close = codec::close_frame(Some(code), ""),
                        Err(_) => return,
                    };
                    if !self.write(writer, split_payload(&payload)).await {
                        return;
                    }
                    hearing = Box::pin(hear());
                }
            }
        }
    }

    /// Acts on what came; false if that ends it.
    async fn on_said(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> bool {
        let mut messages = std::collections::VecDeque::new();
        for said in std::mem::take(&mut self.heard.said) {
            match said {
                Said::Close(code) => {
                    self.close = codec::close_frame(code, "");
                    return false;
                }
                Said::Ping(payload) => {
                    let pong = codec::pong_frame(&payload);
                    if !matches!(timeout(self.patience, writer.write_all(&pong)).await, Ok(Ok(()))) {
                        return false;
                    }
                }
                Said::Text(text) if self.is_carried => messages.push_back(Outgoing::Text(text.into(), Bytes::new())),
                Said::Binary(bytes) if self.is_carried => messages.push_back(Outgoing::Binary(bytes)),
                Said::Binary(_) => {
                    self.close = broken_protocol();
                    return false;
                }
                Said::Text(text) => {
                    let step = match packet::parse(&text) {
                        Ok(Packet::Ping("probe")) => Step::Probe,
                        // Another socket's probe is not this one's.
                        Ok(Packet::Upgrade) if self.is_probing => Step::Upgrade,
                        _ => {
                            self.close = broken_protocol();
                            return false;
                        }
                    };
                    if let Err(refused) = self.elsewhere.ask(self.sid, step, Bytes::new()).await {
                        if refused == Refused::BadRequest {
                            self.close = broken_protocol();
                        }
                        return false;
                    }
                    self.is_probing |= step == Step::Probe;
                    if step == Step::Upgrade {
                        self.is_carried = true;
                    } else if !self.write(writer, vec![Outgoing::fixed("3probe")]).await {
                        return false;
                    }
                }
            }
        }
        while !messages.is_empty() {
            let payload = take_payload(&mut messages, self.max);
            if self.elsewhere.ask(self.sid, Step::Say, payload.into()).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin), packets: Vec<Outgoing>) -> bool {
        let mut frames = Vec::new();
        packets.iter().for_each(|packet| push(&mut frames, packet));
        let write = async {
            writer.write_all(&frames).await?;
            writer.flush().await
        };
        matches!(timeout(self.patience, write).await, Ok(Ok(())))
    }
}

impl Heard {
    /// Reads until there is something to act on; false if the socket ended, or the client broke the protocol.
    async fn read(&mut self, reader: &mut (impl AsyncRead + Unpin), max: usize) -> bool {
        while self.said.is_empty() {
            self.bytes.reserve(READ_BYTES);
            if !matches!(reader.read_buf(&mut self.bytes).await, Ok(1..)) {
                return false;
            }
            let said = &mut self.said;
            let fed = self.decoder.feed(&mut self.bytes, max, |event| {
                said.push(match event {
                    Event::Text(text) => Said::Text(text.to_owned()),
                    Event::Binary(bytes) => Said::Binary(Bytes::copy_from_slice(bytes)),
                    Event::Ping(payload) => Said::Ping(Bytes::copy_from_slice(payload)),
                    Event::Pong => return true,
                    Event::Close(code) => Said::Close(code),
                });
                true
            });
            match fed {
                Ok(used) => drop(self.bytes.drain(..used)),
                Err(violation) => {
                    self.violation = Some(violation);
                    return false;
                }
            }
        }
        true
    }
}
