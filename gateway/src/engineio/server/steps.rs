//! What other shards ask of the peers here, for requests and WebSockets of clients that reached them instead.

use std::rc::Rc;

use bytes::Bytes;
use carillon_proto::engineio::Step;

use super::{Application, Poster, Server};
use crate::engineio::{
    packet::Packet,
    peer::{Over, Probed},
    request::{Refused, Sid},
};

impl<A: Application> Server<A> {
    /// One step of a peer's, asked for by another shard.
    ///
    /// # Errors
    /// What the request, or the WebSocket, is to be refused with.
    pub(in crate::engineio) async fn step(
        self: &Rc<Self>,
        sid: Sid,
        poster: Poster,
        step: Step,
        body: Bytes,
    ) -> Result<Bytes, Refused> {
        match step {
            Step::Poll => return self.poll(sid).await,
            Step::Hear => return self.hear(sid).await,
            Step::Post => {
                if let Some(refused) = self.take_refused_post(poster) {
                    return Err(refused);
                }
                let mut socket = self.find(sid)?;
                // That it began may have been lost.
                if socket.0.poster.get() != Some(poster) {
                    socket = self.begin_post(sid)?;
                }
                socket.0.poster.set(None);
                return self.on_post(&socket, Ok(body)).map(|()| Bytes::new());
            }
            _ => {}
        }
        let socket = self.find(sid)?;
        let is_done = {
            let now_ms = self.now_ms();
            let mut peer = socket.peer().borrow_mut();
            match step {
                Step::Probe => peer.on_probe(now_ms) && peer.on_probe_packet(Packet::Ping("probe")) == Probed::Answer,
                Step::Upgrade => peer.on_probe_packet(Packet::Upgrade) == Probed::Upgraded,
                Step::ProbeGone => {
                    peer.on_probe_gone();
                    true
                }
                Step::Gone => {
                    peer.end(Over::Lost, now_ms);
                    true
                }
                Step::Say => peer.is_on_websocket(),
                Step::Unspecified | Step::Poll | Step::Hear | Step::Post | Step::PostBegins | Step::PostGone => false,
            }
        };
        let is_done = is_done && (step != Step::Say || self.on_payload(&socket, &body).is_ok());
        if step == Step::Say && !is_done {
            socket.peer().borrow_mut().end(Over::Violation, self.now_ms());
        }
        self.settle(&socket);
        if is_done { Ok(Bytes::new()) } else { Err(Refused::BadRequest) }
    }

    /// Another shard begins to read a POST, or its client gave it up: so that a second one is seen while the first is read.
    pub(in crate::engineio) fn on_posting_elsewhere(&self, sid: Sid, poster: Poster, step: Step) {
        if step == Step::PostBegins {
            // Where it is refused, the POST itself will be, too, and as this is: by then there may be no such peer.
            match self.begin_post(sid) {
                Ok(socket) => socket.0.poster.set(Some(poster)),
                Err(refused) => self.on_post_refused(poster, refused),
            }
        } else if let Ok(socket) = self.find(sid)
            && socket.0.poster.get() == Some(poster)
        {
            socket.0.poster.set(None);
            let _ = self.on_post(&socket, Err(Refused::BadRequest));
        }
    }

    /// Waits for what is to be said over a WebSocket that another shard carries.
    async fn hear(&self, sid: Sid) -> Result<Bytes, Refused> {
        let socket = self.find(sid)?;
        loop {
            let payload = socket.peer().borrow_mut().poll_payload();
            match payload {
                Some(payload) => {
                    if socket.waiting_bytes() == 0 && !socket.is_over() {
                        self.app.on_drained(&socket);
                    }
                    return Ok(payload);
                }
                None if socket.is_over() => {
                    return Err(socket.farewell().map_or(Refused::UnknownSid, |(code, _)| Refused::Closed(code)));
                }
                None if !socket.peer().borrow().is_on_websocket() => return Err(Refused::UnknownSid),
                None => socket.carried().await,
            }
        }
    }
}
