//! A member that only wants to know who comes and goes: a WebSocket with nothing around it (RFC 6455), read by a thread.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

/// What it was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Who came, and how often it was said.
    pub(super) joined: BTreeMap<String, u32>,
    /// Who went, and when that was said.
    pub(super) left: BTreeMap<String, Vec<Instant>>,
    /// The newest count, of whichever frame.
    pub(super) count: u64,
    /// How it ended, if it did: a watcher should not.
    pub(super) end: Option<String>,
}

pub(super) struct Watcher(Arc<Mutex<Told>>);

impl Watcher {
    /// Joins the room, and reads from then on.
    pub(super) fn start(url: &str, token: &str, room: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://");
        let mut socket = TcpStream::connect(host)?;
        write!(
            socket,
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: carillon.v1\r\nAuthorization: Bearer {token}\r\n\r\n"
        )?;
        let mut from = BufReader::with_capacity(1 << 20, socket.try_clone()?);
        let mut line = String::new();
        from.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 101") {
            bail!("a watcher was answered {line:?}");
        }
        while line.trim_end() != "" {
            line.clear();
            from.read_line(&mut line)?;
        }
        let join = format!(r#"{{"type":"join","room":"{room}","presence":true,"ref":1}}"#);
        write_frame(&mut socket, 0x1, join.as_bytes())?;
        let told = Arc::new(Mutex::new(Told::default()));
        let (joined, is_joined) = std::sync::mpsc::channel();
        let noted = told.clone();
        std::thread::spawn(move || {
            let end = read(&mut from, &mut socket, &noted, &joined);
            noted.lock().unwrap_or_else(PoisonError::into_inner).end = Some(format!("{end:?}"));
        });
        is_joined.recv()?;
        Ok(Self(told))
    }

    pub(super) fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client must mask (section 5.3); the key is zero, which leaves the bytes as they are.
fn write_frame(socket: &mut TcpStream, kind: u8, payload: &[u8]) -> Result<()> {
    let mut frame = vec![0x80 | kind, 0x80 | u8::try_from(payload.len())?, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    Ok(socket.write_all(&frame)?)
}

fn read(
    from: &mut impl std::io::Read,
    socket: &mut TcpStream,
    told: &Mutex<Told>,
    joined: &std::sync::mpsc::Sender<()>,
) -> Result<()> {
    loop {
        let mut head = [0; 2];
        from.read_exact(&mut head)?;
        let mut length = [0; 8];
        let long = match head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        from.read_exact(&mut length[8 - long..])?;
        let length = if long == 0 { u64::from(head[1] & 0x7f) } else { u64::from_be_bytes(length) };
        let mut payload = Vec::new();
        from.take(length).read_to_end(&mut payload)?;
        match head[0] & 0x0f {
            0x8 => bail!("closed: {:?}", payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            0x9 => write_frame(socket, 0xa, &payload)?,
            _ => {}
        }
        if head[0] & 0x0f != 0x1 {
            continue;
        }
        let now = Instant::now();
        let frame: Value = serde_json::from_slice(&payload)?;
        let user = || frame["user"]["id"].as_str().unwrap_or_default().to_owned();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        match frame["type"].as_str() {
            Some("joined") => joined.send(())?,
            Some("userJoined") => *told.joined.entry(user()).or_default() += 1,
            Some("userLeft") => told.left.entry(user()).or_default().push(now),
            _ => continue,
        }
        if let Some(count) = frame["count"].as_u64() {
            told.count = count;
        }
    }
}
