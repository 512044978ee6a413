//! `carillon publish`: sends messages to a room, one after the other, and prints what became of each. A message has a key, so that a
//! try whose answer got lost is no second message.

use std::time::{Duration, Instant};

use carillon_platform::service::Failure;
use carillon_proto::{frame::MAX_KEY_BYTES, ids::RoomName};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout};

use super::server::{Connection, End, Heard, Server, ServerArgs, json, name, pause};

/// How long a message is tried: longer than a server takes to be replaced.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends messages to a room, and prints where each is stored: `{"room":…,"offset":…,"id":…,"ts":…}`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The room
    room: String,
    /// The payload, any JSON: '{"text":"hi"}', '"hi"', 5. Without it, or with -, one JSON value after the other from stdin
    json: Option<String>,
    /// An idempotency key: said again within two minutes, the message is stored once
    #[arg(long)]
    key: Option<String>,
    /// Send it to the sender's own connections too
    #[arg(long)]
    echo: bool,
    /// Tell who is there, and store nothing
    #[arg(long, conflicts_with = "key")]
    ephemeral: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let server = args.server.server()?;
    let room = RoomName::parse(&args.room).map_err(|error| Failure::settings(format!("the room name {error}")))?;
    if args.key.as_ref().is_some_and(|key| !(1..=MAX_KEY_BYTES).contains(&key.len())) {
        return Err(Failure::settings(format!("--key: expected 1 to {MAX_KEY_BYTES} bytes")));
    }
    let given = args.json.as_deref().filter(|json| *json != "-");
    let mut payloads = match given {
        Some(json) => Payloads::One(Some(parse(json)?)),
        None if args.key.is_some() => return Err(Failure::settings("--key is for one message: give its JSON as an argument")),
        None => Payloads::Lines(Box::new(BufReader::new(stdin())), String::new()),
    };
    let client = name("publish");
    let mut publisher = Publisher { args, room, server, client, connection: None, count: 0 };
    let mut out = stdout();
    while let Some(payload) = publisher.next_payload(&mut payloads).await? {
        let line = publisher.publish(&payload).await?;
        let written = async {
            out.write_all(line.as_bytes()).await?;
            out.flush().await
        };
        // Nobody reads what became of it; it is sent all the same.
        let _ = written.await;
    }
    Ok(())
}

/// What is to be sent.
enum Payloads {
    One(Option<Box<RawValue>>),
    /// And the beginning of a value that goes on in the next line.
    Lines(Box<dyn AsyncBufRead + Unpin>, String),
}

fn parse(json: &str) -> Result<Box<RawValue>, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::settings(format!("expected JSON ({error}); a text is written '\"so\"'")))
}

impl Payloads {
    async fn next(&mut self) -> Result<Option<Box<RawValue>>, Failure> {
        let (lines, begun) = match self {
            Self::One(payload) => return Ok(payload.take()),
            Self::Lines(lines, begun) => (lines, begun),
        };
        loop {
            let read = lines.read_line(begun).await.map_err(|error| Failure::world(format!("stdin can't be read: {error}")))?;
            if begun.trim().is_empty() {
                begun.clear();
                if read == 0 {
                    return Ok(None);
                }
                continue;
            }
            match serde_json::from_str(begun) {
                Ok(payload) => {
                    begun.clear();
                    return Ok(Some(payload));
                }
                Err(error) if error.is_eof() && read > 0 => {}
                Err(_) => return parse(begun).map(Some),
            }
        }
    }
}

struct Publisher {
    args: Args,
    room: RoomName,
    server: Server,
    client: String,
    connection: Option<Connection>,
    count: u64,
}

impl Publisher {
    /// The next one; pings are answered while none comes.
    async fn next_payload(&mut self, payloads: &mut Payloads) -> Result<Option<Box<RawValue>>, Failure> {
        let mut next = std::pin::pin!(payloads.next());
        loop {
            let Some(connection) = &mut self.connection else { return next.await };
            tokio::select! {
                payload = &mut next => return payload,
                heard = connection.next() => if heard.is_err() {
                    self.connection = None;
                },
            }
        }
    }

    /// Sends it until there is an answer. The line to print.
    async fn publish(&mut self, payload: &RawValue) -> Result<String, Failure> {
        self.count += 1;
        let key = match (&self.args.key, self.args.ephemeral) {
            (Some(key), _) => Some(key.clone()),
            (None, true) => None,
            (None, false) => Some(format!("{}-{}", self.client, self.count)),
        };
        let key = key.map_or_else(String::new, |key| format!(r#","key":{}"#, json(&key)));
        let flag = |name: &str, is_set: bool| if is_set { format!(r#","{name}":true"#) } else { String::new() };
        let frame = format!(
            r#"{{"type":"broadcast","ref":{},"room":{}{key}{}{},"payload":{}}}"#,
            self.count,
            json(self.room.as_str()),
            flag("echo", self.args.echo),
            flag("ephemeral", self.args.ephemeral),
            payload.get()
        );
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            let (why, wait) = match self.try_once(&frame).await {
                Ok(heard) => return Ok(told(&heard)),
                Err(End::ForGood(why)) => return Err(Failure::World(why)),
                Err(End::ForNow(why, wait)) => (why, wait),
            };
            // Who was never connected has most likely named the wrong place.
            if began.elapsed() > PATIENCE || (self.connection.is_none() && self.count == 1 && tries > 2) {
                return Err(Failure::World(why));
            }
            tokio::time::sleep(wait.unwrap_or_else(|| pause(tries))).await;
            tries += 1;
        }
    }

    async fn try_once(&mut self, frame: &str) -> Result<Heard, End> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.server.connect(&self.client).await?,
        };
        connection.send(frame.to_owned()).await?;
        loop {
            let (_, heard) = connection.next().await?;
            if heard.reference != Some(self.count) {
                continue;
            }
            self.connection = Some(connection);
            if heard.kind != "error" {
                return Ok(heard);
            }
            let (code, message) = (heard.code.unwrap_or_default(), heard.message.unwrap_or_default());
            let why = format!("{code}: {message}");
            return Err(match code.as_str() {
                "unavailable" | "internal" | "rate_limited" => End::ForNow(why, heard.retry_after_ms.map(Duration::from_millis)),
                _ => End::ForGood(why),
            });
        }
    }
}

/// An ack as the answer over HTTP has it.
fn told(ack: &Heard) -> String {
    let mut line = format!(r#"{{"room":{}"#, json(ack.room.as_deref().unwrap_or_default()));
    if let (Some(offset), Some(id)) = (ack.offset, &ack.id) {
        line += &format!(r#","offset":{offset},"id":{}"#, json(id));
    }
    line += &format!(r#","ts":{}"#, ack.ts.unwrap_or_default());
    if ack.duplicate {
        line += r#","duplicate":true"#;
    }
    line + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &'static str) -> Result<Vec<String>, Failure> {
        let mut payloads = Payloads::Lines(Box::new(BufReader::new(text.as_bytes())), String::new());
        let mut all = Vec::new();
        while let Some(payload) = payloads.next().await? {
            all.push(payload.get().to_owned());
        }
        Ok(all)
    }

    #[tokio::test]
    async fn values_come_by_lines_or_over_several() {
        assert_eq!(all("1\n\n{\"a\":\n 1e400}\n\"x\"").await.unwrap(), ["1", "{\"a\":\n 1e400}", "\"x\""]);
        assert_eq!(all("").await.unwrap(), [""; 0]);
        for bad in ["{", "hello\n", "1 2\n"] {
            assert!(matches!(all(bad).await, Err(Failure::Settings(_))), "{bad}");
        }
    }
}
