//! Every setting of every binary, in one plain struct: what it is called, what it is unless told otherwise, and who
//! uses it. Where values come from is told in `load`, how text becomes a value in `read`. `docs/settings.md` is
//! generated from this page.

mod declare;
mod duration;
mod error;
mod hook;
mod load;
mod log_format;
mod origins;
mod read;
mod reference;
mod retention;
mod secret;
mod url;

pub use duration::{DurationError, parse_duration};
pub use error::{SettingsError, Source};
pub use hook::{Hook, HookSecret, HookType};
pub use load::SettingsArgs;
pub use log_format::LogFormat;
pub use origins::Origins;
pub use reference::reference;
pub use retention::Retention;
pub use secret::Secret;
pub use url::Url;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use carillon_proto::claims::Grant;
use declare::settings;
use read::{
    address, count, default_grants, fraction, hooks, http_path, log_filter, log_format, optional, origins, path, paths,
    retention, secret, text, url, urls,
};

/// Which binary reads the settings: a few defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `carillon`: everything in one process, and the command line.
    AllInOne,
    /// `carillon-gateway`.
    Gateway,
    /// `carillon-auth`.
    Auth,
    /// `carillon-fanout`.
    Fanout,
}

impl Program {
    const ALL: [Self; 4] = [Self::AllInOne, Self::Gateway, Self::Auth, Self::Fanout];

    /// The name of the binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllInOne => "carillon",
            Self::Gateway => "carillon-gateway",
            Self::Auth => "carillon-auth",
            Self::Fanout => "carillon-fanout",
        }
    }
}

impl Settings {
    /// What holds where nothing else is said.
    pub fn defaults(program: Program) -> Self {
        let mut settings = Self::default();
        let (listen, admin) = match program {
            Program::AllInOne | Program::Gateway => (8080, 8081),
            Program::Auth => (8090, 8091),
            // It has no public port, and never looks at `listen`.
            Program::Fanout => (8080, 8092),
        };
        settings.listen = local(listen);
        settings.admin_listen = local(admin);
        if program != Program::AllInOne {
            settings.nats.url = Some(Url::known("nats://127.0.0.1:4222"));
        }
        settings
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

// What can't be meant. The bounds keep a slip of the keyboard (bytes for KiB, seconds for milliseconds) from becoming a
// process that refuses everything or has no limits at all; inside them, the operator knows better.
const MANY: usize = 1_000_000;
const HOUR_MS: u64 = 3_600_000;
const YEAR_S: u64 = 31_536_000;

settings! {
    /// All settings, as every binary knows them.
    Settings {
        /// Address and port for clients; for auth, of its gRPC. Port 0 picks a free one.
        listen: SocketAddr = local(8080), address, "all-in-one, gateway, auth";
        /// Address and port of `/livez`, `/readyz` and `/metrics`, for auth also of `/.well-known/jwks.json`. Port 0 picks a free one.
        admin_listen: SocketAddr = local(8081), address, "all";
        /// Folder of the embedded log and of the key that `carillon dev` makes.
        data_dir: PathBuf = "./carillon-data".into(), path, "all-in-one";
        /// Web pages that browsers may connect from, each exactly as the browser names it: `https://app.example.com`.
        /// Without any, browsers are refused.
        origins: Origins = Origins::default(), origins, "gateway, all-in-one";
        /// How much of each room is kept: `rooms` (a pattern), `messages`, `age`. The first match counts; a room that
        /// none matches is kept by the default.
        retention: Vec<Retention> = vec![Retention::default()], retention, "fanout, all-in-one";
        /// Who is told of what happens, by signed requests: `url`, `secret` (`whsec_…`), `types`, `rooms` (a pattern). See docs/hooks.md.
        hooks: Vec<Hook> = Vec::new(), hooks, "fanout, all-in-one";
    }
    sections { tls: Tls, nats: Nats, auth: Auth, grpc: Grpc, jwt: Jwt, limits: Limits, heartbeat: Heartbeat, sse: Sse, socketio: Socketio,
        drain: Drain, gateway: Gateway, otel: Otel, log: Log }
}

settings! {
    /// TLS of the public port, where no proxy in front of it ends TLS.
    Tls {
        /// PEM file of the certificate that clients are shown, its chain behind it. Without it, the public port is plain text.
        cert: Option<PathBuf> = None, optional(path), "gateway, all-in-one";
        /// PEM file of the private key of `tls.cert`.
        key: Option<PathBuf> = None, optional(path), "gateway, all-in-one";
        /// How often both files are looked at, milliseconds. New connections are shown what is new in them.
        reload_ms: u64 = 5000, count(10..=HOUR_MS), "gateway, all-in-one";
    }
    sections {}
}

settings! {
    /// The NATS servers.
    Nats {
        /// NATS servers; several are separated by commas. Without it, `carillon` keeps everything in its own process.
        url: Option<Url> = None, optional(urls(&["nats", "tls"])), "gateway, auth, fanout, all-in-one";
        /// Credentials file for NATS, as `nsc` writes it.
        creds: Option<PathBuf> = None, optional(path), "gateway, auth, fanout, all-in-one";
        /// PEM file of the authorities whose certificates NATS may show, instead of the system's.
        ca: Option<PathBuf> = None, optional(path), "gateway, auth, fanout";
        /// PEM file of the certificate that is shown to NATS; its key is in `nats.key`.
        cert: Option<PathBuf> = None, optional(path), "gateway, auth, fanout";
        /// PEM file of the private key of `nats.cert`.
        key: Option<PathBuf> = None, optional(path), "gateway, auth, fanout";
        /// Copies of each stream and bucket that NATS keeps.
        replicas: usize = 1, count(1..=5), "gateway, auth, fanout, all-in-one";
    }
    sections {}
}

settings! {
    /// The auth service, as a gateway sees it.
    Auth {
        /// Where the auth service's gRPC is.
        url: Url = Url::known("http://127.0.0.1:8090"), url(&["http", "https"]), "gateway";
        /// PEM file of the authorities whose certificates the auth service may show, beside the system's.
        ca: Option<PathBuf> = None, optional(path), "gateway";
        /// PEM file of the certificate that is shown to the auth service; its key is in `auth.key`.
        cert: Option<PathBuf> = None, optional(path), "gateway";
        /// PEM file of the private key of `auth.cert`.
        key: Option<PathBuf> = None, optional(path), "gateway";
    }
    sections {}
}

settings! {
    /// The auth service's own gRPC.
    Grpc {
        /// PEM file of the certificate that gateways are shown, its chain behind it. Without it, gRPC is plain text.
        cert: Option<PathBuf> = None, optional(path), "auth";
        /// PEM file of the private key of `grpc.cert`.
        key: Option<PathBuf> = None, optional(path), "auth";
        /// PEM file of the authorities of gateways' certificates. With it, who shows none is not talked to.
        client_ca: Option<PathBuf> = None, optional(path), "auth";
    }
    sections {}
}

settings! {
    /// Tokens: who is believed, and what they may do.
    Jwt {
        /// Secret that tokens are checked and signed with (HS256): the raw text, 32 bytes or more.
        secret: Option<Secret> = None, optional(secret), "auth, all-in-one";
        /// PEM files with public keys that tokens are checked with: RSA (RS256), P-256 (ES256), Ed25519 (EdDSA).
        public_keys: Vec<PathBuf> = Vec::new(), paths, "auth, all-in-one";
        /// PEM file with the private key that tokens are signed with, instead of the secret.
        private_key: Option<PathBuf> = None, optional(path), "auth, all-in-one";
        /// Address of a JSON Web Key Set with further public keys.
        jwks_url: Option<Url> = None, optional(url(&["http", "https"])), "auth, all-in-one";
        /// How often that address is looked at, seconds. A token by a key that is not known yet makes it be looked at
        /// sooner, at most once a second.
        jwks_refresh_s: u64 = 30, count(1..=86_400), "auth, all-in-one";
        /// What `iss` must be; not checked without it.
        issuer: Option<String> = None, optional(text), "auth, all-in-one";
        /// What `aud` must be or contain; not checked without it.
        audience: Option<String> = None, optional(text), "auth, all-in-one";
        /// How far clocks may differ, seconds: added to `exp`, taken from `nbf`. Gateways are told by the auth service.
        leeway_s: u64 = 5, count(0..=3600), "auth, all-in-one";
        /// Longest life of a token, seconds: longer ones are refused. It bounds how long revocations are kept.
        max_ttl_s: Option<u64> = None, optional(count(1..=100 * YEAR_S)), "auth, all-in-one";
        /// What a token without `grants` allows, as the claim would say it. Without this setting: everything but
        /// `admin`, on every room except others' personal rooms.
        default_grants: Option<Vec<Grant>> = None, optional(default_grants), "auth, all-in-one";
    }
    sections {}
}

settings! {
    /// Limits: what one client, or all of them together, may take.
    Limits {
        /// Largest message of a client on a WebSocket, largest HTTP body and Socket.IO payload, bytes; at most 983040, what
        /// NATS carries by default with room for what travels beside it.
        frame_bytes: usize = 65_536, count(64..=983_040), "gateway";
        /// Rooms that one connection may be in, the personal room not counted. A Socket.IO client is recovered as long as their names and
        /// 30 bytes for each fit into 64 KiB: 256 do, however long.
        rooms_per_connection: usize = 256, count(1..=MANY), "gateway";
        /// Connections of one user on all gateways together.
        connections_per_user: usize = 64, count(1..=MANY), "gateway";
        /// Frames per second that one connection may send in the long run.
        frames_per_second: u32 = 50, count(1..=1_000_000), "gateway";
        /// Frames that one connection may send at once.
        frames_burst: u32 = 100, count(1..=1_000_000), "gateway";
        /// What may wait to be written to one connection, bytes; beyond it the connection is closed as too slow.
        outbox_bytes: usize = 1_048_576, count(1024..=1 << 30), "gateway";
        /// What may wait to be written to all connections of a gateway, bytes; beyond it the largest debtors are closed.
        outbox_total_bytes: usize = 1_073_741_824, count(1024..=1 << 44), "gateway";
        /// Longest token, bytes.
        token_bytes: usize = 8192, count(64..=1 << 20), "gateway, auth";
        /// Time from a connection's first byte to `connected`, milliseconds.
        handshake_ms: u64 = 5000, count(10..=HOUR_MS), "gateway";
        /// Messages in one page of a replay; also the most that `last` gives.
        replay_messages: usize = 1000, count(1..=100_000), "gateway";
        /// Largest answer to `history`, bytes, about: one that would be larger has fewer messages than asked for, and says `more`.
        answer_bytes: usize = 8_388_608, count(524_288..=1 << 30), "gateway";
        /// Answers over HTTP to one user that are not written yet, bytes on one gateway; beyond it further questions are told
        /// `rate_limited` (429). The same holds for what one Socket.IO client that polls has not read (503).
        answers_user_bytes: usize = 33_554_432, count(1024..=1 << 44), "gateway";
        /// Answers over HTTP that are not written yet, bytes on one gateway; beyond it further questions are told `unavailable` (503).
        answers_total_bytes: usize = 268_435_456, count(1024..=1 << 44), "gateway";
        /// How long a client may take nothing of an answer over HTTP, milliseconds; then its socket is closed, with all that is on it.
        answer_stall_ms: u64 = 30_000, count(10..=HOUR_MS), "gateway";
        /// How deep the JSON of a client may be nested.
        json_depth: usize = 64, count(2..=1024), "gateway";
        /// Connections of one gateway; without it, as many as the machine has room for.
        connections: Option<usize> = None, optional(count(1..=100 * MANY)), "gateway";
        /// Sockets of one gateway whose client has not shown a good token yet; when there are more, the one that has taken the
        /// longest is closed.
        unauthenticated: usize = 4096, count(1..=MANY), "gateway";
        /// Sockets of one gateway over which one user asks by HTTP; when there are more, the one that has been quiet the longest is closed.
        http_sockets_per_user: usize = 256, count(1..=MANY), "gateway";
        /// Appends under way per partition; beyond it publishers are told `unavailable`.
        publish_window: usize = 4096, count(1..=4096), "fanout, all-in-one";
        /// Newest messages that the owners of a process keep at hand, bytes; each of the 16 partitions has a sixteenth of it. What is
        /// not at hand is read from the log.
        rings_total_bytes: usize = 268_435_456, count(1_048_576..=1 << 44), "fanout, all-in-one";
        /// Reads of the log under way per partition, each up to 256 KiB; further ones wait.
        owner_reads: usize = 64, count(1..=65_536), "fanout, all-in-one";
        /// How long a gateway retries a publish before it tells `outcome: unknown`, milliseconds.
        publish_timeout_ms: u64 = 15_000, count(10..=HOUR_MS), "gateway";
        /// How long a gateway waits for an owner's answer (attach, history, presence), milliseconds.
        request_timeout_ms: u64 = 10_000, count(10..=HOUR_MS), "gateway";
    }
    sections {}
}

settings! {
    /// WebSocket pings.
    Heartbeat {
        /// Time between pings on a WebSocket, milliseconds.
        interval_ms: u64 = 25_000, count(10..=HOUR_MS), "gateway";
        /// How long after a ping a silent connection is closed, milliseconds.
        timeout_ms: u64 = 20_000, count(10..=HOUR_MS), "gateway";
    }
    sections {}
}

settings! {
    /// Server-Sent Events.
    Sse {
        /// Time between `:heartbeat` comments in an event stream, milliseconds.
        heartbeat_ms: u64 = 30_000, count(10..=HOUR_MS), "gateway";
        /// Reconnection delay that event streams are told at the start, milliseconds.
        retry_ms: u64 = 2000, count(0..=HOUR_MS), "gateway";
    }
    sections {}
}

settings! {
    /// Socket.IO.
    Socketio {
        /// Path that Socket.IO clients ask for.
        path: String = "/socket.io/".to_owned(), http_path, "gateway";
        /// Time between Socket.IO pings, milliseconds.
        ping_interval_ms: u64 = 25_000, count(10..=HOUR_MS), "gateway";
        /// How long after a Socket.IO ping a silent client is given up, milliseconds.
        ping_timeout_ms: u64 = 20_000, count(10..=HOUR_MS), "gateway";
        /// How long a Socket.IO client may be away and recover its rooms, seconds.
        recovery_s: u64 = 86_400, count(1..=YEAR_S), "gateway, fanout";
    }
    sections {}
}

settings! {
    /// The end of a process.
    Drain {
        /// Time over which a drain spreads the closes, milliseconds.
        window_ms: u64 = 30_000, count(0..=HOUR_MS), "gateway, all-in-one";
    }
    sections {}
}

settings! {
    /// The inside of a gateway.
    Gateway {
        /// Threads that connections are spread over; 0 is one per core.
        shards: usize = 0, count(0..=1024), "gateway, all-in-one";
        /// How often the revocations are read for what no notice has told, milliseconds. Notices come at once; this is how late one
        /// is that was lost.
        revocations_read_ms: u64 = 5000, count(10..=HOUR_MS), "gateway, all-in-one";
    }
    sections {}
}

settings! {
    /// OpenTelemetry.
    Otel {
        /// Where traces and metrics are sent (OTLP); off without it.
        endpoint: Option<Url> = None, optional(url(&["http", "https"])), "all";
        /// Share of publishes that are traced, 0 to 1.
        sample: f64 = 0.01, fraction, "all";
    }
    sections {}
}

settings! {
    /// Logs, which go to stderr.
    Log {
        /// `json` or `text`; without it, text on a terminal and JSON elsewhere.
        format: Option<LogFormat> = None, optional(log_format), "all";
        /// `error`, `warn`, `info`, `debug`, `trace` or `off`; also by module: `info,carillon_gateway=debug`.
        level: String = "info".to_owned(), log_filter, "all";
    }
    sections {}
}
