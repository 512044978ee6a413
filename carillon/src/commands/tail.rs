//! `carillon tail`: shows a room's messages as they come, from some that are stored on, and misses none when the connection breaks.

use std::io::{self, IsTerminal as _, Write as _};

use carillon_platform::service::Failure;
use carillon_proto::ids::RoomName;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::sleep,
};

use super::server::{Connection, End, Heard, Server, ServerArgs, json, name, pause};

/// Shows the messages of a room as they come, until Ctrl-C.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The room
    room: String,
    /// Show so many stored ones first
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    last: u32,
    /// Show all that is stored after this offset first; 0 for everything
    #[arg(long, value_name = "OFFSET", conflicts_with = "last")]
    since: Option<u64>,
    /// The epoch that the offset is of
    #[arg(long, requires = "since")]
    epoch: Option<String>,
    /// One JSON object per line, as the server sent it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let server = args.server.server()?;
    let room = RoomName::parse(&args.room).map_err(|error| Failure::settings(format!("the room name {error}")))?;
    let has_colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut tail = Tail {
        room,
        last: args.last,
        since: args.since,
        epoch: args.epoch.unwrap_or_default(),
        is_json: args.json,
        has_colours,
        was_joined: false,
        tries: 0,
    };
    let mut ended = signal(SignalKind::terminate()).map_err(|error| Failure::world(format!("no signals: {error}")))?;
    tokio::select! {
        ended = tail.follow(&server) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = ended.recv() => Ok(()),
        () = unread() => Ok(()),
    }
}

/// Resolves when nobody reads stdout any more: `tail | head` ends when `head` does, and not with the next message. The thread that
/// waits for that ends with the process.
async fn unread() {
    let (unread, told) = oneshot::channel();
    std::thread::spawn(move || {
        // Errors and hang-ups are told whether they are asked for or not (poll(2)); a file has neither.
        let stdout = io::stdout();
        let ended = loop {
            match poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None) {
                Err(Errno::INTR) => {}
                ended => break ended,
            }
        };
        if ended.is_ok() {
            let _ = unread.send(());
        }
    });
    if told.await.is_err() {
        std::future::pending().await
    }
}

struct Tail {
    room: RoomName,
    last: u32,
    /// What was shown last, once there is something.
    since: Option<u64>,
    epoch: String,
    is_json: bool,
    has_colours: bool,
    was_joined: bool,
    /// In vain, in a row.
    tries: u32,
}

/// How a connection's messages came to an end.
enum Over {
    /// As connections do.
    Connection(End),
    /// Nobody reads them any more.
    Unread,
}

impl From<End> for Over {
    fn from(end: End) -> Self {
        Self::Connection(end)
    }
}

impl Tail {
    async fn follow(&mut self, server: &Server) -> Result<(), Failure> {
        let client = name("tail");
        loop {
            let over = match server.connect(&client).await {
                Ok(connection) => self.show_all(connection).await,
                Err(end) => end.into(),
            };
            let (why, wait) = match over {
                Over::Unread => return Ok(()),
                Over::Connection(End::ForGood(why)) => return Err(Failure::World(why)),
                Over::Connection(End::ForNow(why, wait)) => (why, wait),
            };
            if !self.was_joined {
                return Err(Failure::World(why));
            }
            eprintln!("carillon: {why}; trying again");
            sleep(wait.unwrap_or_else(|| pause(self.tries))).await;
            self.tries += 1;
        }
    }

    async fn show_all(&mut self, mut connection: Connection) -> Over {
        let shown = async {
            connection.send(self.join()).await?;
            loop {
                let (text, heard) = connection.next().await?;
                if heard.room.as_deref() == Some(self.room.as_str()) {
                    self.on_frame(&text, &heard)?;
                }
            }
        };
        let Err(over): Result<std::convert::Infallible, Over> = shown.await;
        over
    }

    fn join(&self) -> String {
        let from = match self.since {
            Some(since) => format!(r#""since":{since},"epoch":{}"#, json(&self.epoch)),
            None => format!(r#""last":{}"#, self.last),
        };
        format!(r#"{{"type":"join","ref":1,"echo":true,"room":{},{from}}}"#, json(self.room.as_str()))
    }

    fn on_frame(&mut self, text: &str, heard: &Heard) -> Result<(), Over> {
        match heard.kind.as_str() {
            "joined" => {
                (self.was_joined, self.tries) = (true, 0);
                let head = heard.offset.unwrap_or_default();
                if heard.recovered == Some(false) {
                    let why = heard.reason.as_deref().unwrap_or("unknown");
                    eprintln!("carillon: some messages were missed ({why}); going on after #{head}");
                    self.since = Some(head);
                } else if self.since.is_none() {
                    self.since = Some(head.saturating_sub(self.last.into()));
                }
                self.epoch = heard.epoch.clone().unwrap_or_default();
            }
            "message" => {
                if let Some(offset) = heard.offset {
                    self.since = Some(offset);
                    self.epoch = heard.epoch.clone().unwrap_or_else(|| std::mem::take(&mut self.epoch));
                }
                let line = if self.is_json { text.to_owned() } else { self.pretty(heard) };
                let mut out = io::stdout().lock();
                writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
                    io::ErrorKind::BrokenPipe => Over::Unread,
                    _ => End::ForGood(format!("the messages can't be written: {error}")).into(),
                })?;
            }
            "error" => {
                let (code, message) = (heard.code.as_deref().unwrap_or_default(), heard.message.as_deref().unwrap_or_default());
                let why = format!("{code}: {message}");
                return Err(match code {
                    "unavailable" | "internal" | "rate_limited" => End::ForNow(why, None),
                    _ => End::ForGood(why),
                }
                .into());
            }
            _ => {}
        }
        Ok(())
    }

    fn pretty(&self, heard: &Heard) -> String {
        let (dim, bold, plain) = if self.has_colours { ("\x1b[2m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let place = heard.offset.map_or_else(|| "~".to_owned(), |offset| format!("#{offset}"));
        let time = heard.ts.map(utc).unwrap_or_default();
        let sender = harmless(heard.sender.as_deref().unwrap_or_default());
        let payload = harmless(heard.payload.as_ref().map_or("", |payload| payload.get()));
        format!("{dim}{place} {time}{plain} {bold}{sender}{plain} {payload}")
    }
}

/// Nothing that a terminal would act on. Line breaks of a payload are white space between its parts.
fn harmless(text: &str) -> String {
    let is_harmful = |it: char| it.is_control() || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '\n' | '\r' | '\t' => out.push(' '),
            it if is_harmful(it) => out.extend(it.escape_unicode()),
            it => out.push(it),
        }
    }
    out
}

/// Unix milliseconds as `2026-01-31 23:59:59`. Days to a date: Howard Hinnant's `civil_from_days`.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_399_000), "2000-02-28 23:59:59");
        assert_eq!(utc(951_868_800_000), "2000-03-01 00:00:00");
        assert_eq!(utc(1_767_225_599_999), "2025-12-31 23:59:59");
    }

    #[test]
    fn terminals_are_told_nothing() {
        assert_eq!(harmless("{\n\t\"a\"}\u{9b}2J\u{202e}ä"), "{  \"a\"}\\u{9b}2J\\u{202e}ä");
    }
}
