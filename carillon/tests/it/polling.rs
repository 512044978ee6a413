//! A Socket.IO client over polling, packets as text: what the official client does is shown in `tests/web`, here is what it
//! never sends.

use crate::{http::Call, server::Server};

/// An Engine.IO connection that has asked to be let in.
pub(crate) struct Polling<'a> {
    server: &'a Server,
    sid: String,
    waiting: Vec<String>,
    asked: u32,
}

impl<'a> Polling<'a> {
    /// Connects with what stands in the CONNECT packet; the first packet that comes back is the answer.
    pub(crate) async fn connect(server: &'a Server, auth: &str) -> (Self, String) {
        let mut polling = Self::open(server).await;
        polling.send(&format!("40{auth}")).await;
        let answer = polling.next().await.unwrap_or_default();
        (polling, answer)
    }

    /// One that has not said who it is.
    pub(crate) async fn open(server: &'a Server) -> Self {
        let opened = Call::new("GET", "/socket.io/?EIO=4&transport=polling").to(server).await;
        assert_eq!(opened.status, 200, "{}", opened.body);
        let open: serde_json::Value = serde_json::from_str(opened.body.strip_prefix('0').expect("an open packet")).unwrap();
        Self { server, sid: open["sid"].as_str().unwrap().to_owned(), waiting: Vec::new(), asked: 0 }
    }

    /// The id that names it to any gateway.
    pub(crate) fn sid(&self) -> &str {
        &self.sid
    }

    /// Passes over packets until one starts like this.
    pub(crate) async fn next_with(&mut self, start: &str) -> String {
        loop {
            let packet = self.next().await.unwrap_or_else(|| panic!("{start}, not the end"));
            if packet.starts_with(start) {
                return packet;
            }
        }
    }

    pub(crate) fn path(&self) -> String {
        format!("/socket.io/?EIO=4&transport=polling&sid={}", self.sid)
    }

    async fn send(&self, packet: &str) {
        self.post(packet).await;
    }

    /// Sends these packets; the status of the answer.
    pub(crate) async fn post(&self, packets: &str) -> u16 {
        let post = Call::new("POST", &self.path()).header("content-type", "text/plain").body(packets.as_bytes());
        post.to(self.server).await.status
    }

    /// Passes over packets, answering pings, until there is no such connection any more; whether it was told to stay away, by
    /// DISCONNECT or CONNECT_ERROR.
    pub(crate) async fn was_stopped(mut self) -> bool {
        let mut was_stopped = false;
        while let Some(packet) = self.next().await {
            if packet == "2" {
                self.send("3").await;
            }
            was_stopped |= packet.starts_with("41") || packet.starts_with("44");
        }
        was_stopped
    }

    /// The next packet; `None` once there is no such connection.
    pub(crate) async fn next(&mut self) -> Option<String> {
        while self.waiting.is_empty() {
            let polled = Call::new("GET", &self.path()).to(self.server).await;
            if polled.status != 200 {
                return None;
            }
            self.waiting = polled.body.split('\u{1e}').map(str::to_owned).collect();
        }
        Some(self.waiting.remove(0))
    }

    /// What an event is acknowledged with; other packets are passed over.
    pub(crate) async fn ask(&mut self, event: &str) -> String {
        self.asked += 1;
        self.send(&format!("42{}{event}", self.asked)).await;
        let mark = format!("43{}", self.asked);
        loop {
            let packet = self.next().await.expect("the connection goes on");
            if let Some(answer) = packet.strip_prefix(&mark) {
                return answer.to_owned();
            }
        }
    }
}
