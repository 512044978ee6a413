//! What a run is told on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::wire::Door;

/// Puts load on a server and checks what comes back. Exit code 1 if anything was lost, doubled, reordered or refused.
#[derive(Debug, Parser)]
pub struct Args {
    /// What is done.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// What holds for every scenario.
    #[command(flatten)]
    pub common: Common,
}

/// What holds for every scenario.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// A gateway; several are used in turn, and a member that lost its own comes back through the next one.
    #[arg(long, global = true, default_value = "ws://127.0.0.1:8080", value_delimiter = ',')]
    pub url: Vec<String>,
    /// Which door connections use. Who comes back with a cursor (`soak`, `resume`, `stall`) or asks for history needs the native one.
    #[arg(long, global = true, value_enum, default_value_t = Door::Native)]
    pub door: Door,
    /// The HS256 secret to sign tokens with.
    #[arg(long, global = true, env = "CARILLON_JWT__SECRET", hide_env_values = true)]
    pub secret: Option<String>,
    /// The file with that secret.
    #[arg(long, global = true, env = "CARILLON_JWT__SECRET_FILE", value_name = "FILE", conflicts_with = "secret")]
    pub secret_file: Option<PathBuf>,
    /// Threads of the load.
    #[arg(long, global = true, default_value_t = 1)]
    pub threads: usize,
    /// Bytes of a payload; at least 64, since it carries its number and its time.
    #[arg(long, global = true, default_value_t = 128)]
    pub payload: usize,
    /// Connections that are being opened at once, per thread.
    #[arg(long, global = true, default_value_t = 64)]
    pub opening: usize,
    /// First part of the names of rooms; without it one that no run had before.
    #[arg(long, global = true)]
    pub prefix: Option<String>,
    /// Processes to watch: memory, and processor time per delivery.
    #[arg(long, global = true, value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// Wait for a message's time by looking at the clock again and again. Timers are up to two milliseconds late, which counts as
    /// latency of the server; this takes a whole processor.
    #[arg(long, global = true)]
    pub spin: bool,
    /// How long members may take to get what is still missing at the end, seconds.
    #[arg(long, global = true, default_value_t = 60)]
    pub settle: u64,
    /// Overlook one delivery, or count one message as acked that was never sent: the run must fail then.
    #[arg(long, global = true, value_enum)]
    pub swallow: Option<Swallow>,
    /// Write the report as JSON here.
    #[arg(long, global = true)]
    pub json: Option<PathBuf>,
    /// Write the report with plots here.
    #[arg(long, global = true)]
    pub html: Option<PathBuf>,
}

/// What a run overlooks on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Swallow {
    /// A message that one member was given.
    Delivery,
    /// A message that a publisher was to send.
    Append,
}

/// What is done.
#[derive(Debug, Clone, Subcommand)]
pub enum Scenario {
    /// Connections that only stay: memory of each, connects per second.
    Idle {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Rooms that they are spread over, one each; 0: none but their personal ones.
        #[arg(long, default_value_t = 0)]
        rooms: usize,
        /// How long they stay, seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Members that listen while publishers speak: one large room, many small ones, whatever lies between.
    Rooms(Rooms),
    /// The same while members drop and come back at random, and then the whole log is read and compared.
    Soak {
        /// Rooms, members, publishers.
        #[command(flatten)]
        rooms: Rooms,
        /// Every member drops its connection after about so long, milliseconds; 0: never on its own.
        #[arg(long, default_value_t = 2000)]
        drop_every_ms: u64,
        /// Publishers are quiet now and then: after so many seconds …
        #[arg(long, default_value_t = 0)]
        pause_every_s: u64,
        /// … for so many.
        #[arg(long, default_value_t = 0)]
        pause_s: u64,
    },
    /// All members go at once, miss messages, and come back at once.
    Resume {
        /// How many come back.
        #[arg(long, default_value_t = 10_000)]
        members: usize,
        /// Rooms that they are spread over.
        #[arg(long, default_value_t = 100)]
        rooms: usize,
        /// What each of them missed.
        #[arg(long, default_value_t = 100)]
        missed: usize,
        /// Messages per second that others go on saying in the first room meanwhile.
        #[arg(long, default_value_t = 0.0)]
        rate: f64,
    },
    /// Some members stop reading for a while; the others should not feel it.
    Stall {
        /// Members that read on.
        #[arg(long, default_value_t = 100)]
        members: usize,
        /// Members that stop.
        #[arg(long, default_value_t = 1)]
        stalled: usize,
        /// For how long, seconds; they listen for a third of that before.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Messages per second.
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
    },
    /// Members of one room (`--prefix`, and a 0) who wait for one message that somebody else publishes; prints `seated` when all are
    /// in. Several processes make one crowd, since a process has only so many descriptors.
    Crowd {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// The number of the first one's user: processes of one crowd must not share users.
        #[arg(long, default_value_t = 0)]
        first: usize,
        /// The offset of the message that they wait for.
        #[arg(long, default_value_t = 1)]
        offset: u64,
        /// When the crowd's clock began, nanoseconds since 1970: the same for all its processes, and for the times in payloads.
        #[arg(long)]
        since_ns: u64,
    },
    /// The newest messages of rooms that nobody is in, out of many.
    History {
        /// Rooms that hold something.
        #[arg(long, default_value_t = 1000)]
        rooms: usize,
        /// How many messages each of them gets, those that are read not counted: so that logs of few rooms and of many can be
        /// equally large.
        #[arg(long, default_value_t = 1)]
        messages: usize,
        /// Rooms that are read, with `limit` messages each.
        #[arg(long, default_value_t = 200)]
        read: usize,
        /// How many messages of each.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// The rooms are filled already, by a run with the same `--prefix`.
        #[arg(long)]
        filled: bool,
        /// Only fill the rooms.
        #[arg(long)]
        fill_only: bool,
    },
}

/// Rooms, members, publishers.
#[derive(Debug, Clone, clap::Args)]
pub struct Rooms {
    /// How many rooms.
    #[arg(long, default_value_t = 1)]
    pub rooms: usize,
    /// Members of each room.
    #[arg(long, default_value_t = 1000)]
    pub members: usize,
    /// Publishers; each speaks in every n-th room in turn.
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
    /// Messages per second of all publishers together, at fixed times; 0: as fast as the window lets them.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Messages of each publisher that may wait for their ack.
    #[arg(long, default_value_t = 16)]
    pub in_flight: usize,
    /// Not stored.
    #[arg(long)]
    pub ephemeral: bool,
    /// How long, seconds.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
}
