//! The connection to NATS, one per process: the bus, the log and the leases share it. It waits for a server, refuses one
//! that is too old, and tells whoever asks whether NATS is there now. Knows nothing of what travels on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, ServerInfo};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    pem::{self, BadPem},
    settings::{self, Url},
};

/// The oldest server that is taken: 2.12 is the first with atomic batches, which a marker in the log is.
const OLDEST_SERVER: (i64, i64) = (2, 12);

/// The smallest `max_payload` of a server that is taken, which is also NATS' default: a batch on the bus is a page of
/// 256 KiB, and one more record of 64 KiB (by default) beside it.
const MIN_MAX_PAYLOAD: usize = 1024 * 1024;

/// Limit on opening a socket and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Limit on one request to JetStream. A leader election takes 4–9 s; whoever asked during one asks again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between pings. A connection whose third ping is unanswered is given up: a dead peer is noticed within 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to connect: NATS is back within this time of its return. Attempts are cheap.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// Messages that may wait to be written to the socket, all senders together. The client counts messages, not bytes, and
/// keeps them while NATS is away; so this is small, and the queues before it (bus, log) count bytes. The socket's own
/// buffers come after it, so that more wouldn't make it faster.
const MAX_WAITING_TO_LEAVE: usize = 256;

/// Messages that may wait for one subscription's reader. The largest user is the inbox for the acks of a partition: one
/// for each append under way (see `log::jetstream`), and the readers do nothing else.
pub(crate) const MAX_WAITING_TO_BE_READ: usize = 16_384;

/// How often a process that waits for NATS says so.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);

/// A connection to NATS that comes back by itself. Cheap to clone.
#[derive(Clone)]
pub struct Nats {
    client: Client,
    presence: watch::Receiver<Presence>,
    overruns: Arc<AtomicU64>,
}

/// Whether NATS is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Presence {
    pub(crate) is_up: bool,
    /// How often the connection broke: whoever waits for answers compares it, so that no short break goes unseen.
    pub(crate) breaks: u64,
}

/// NATS is not there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("NATS is away")]
pub(crate) struct Away;

/// Why a process can't work with this NATS.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No `nats.url`.
    #[error("no NATS server is named: set nats.url, for example to nats://127.0.0.1:4222")]
    NoUrl,
    /// The address makes no sense to the NATS client.
    #[error("nats.url {url} can't be used: {why}")]
    Url {
        /// The address, without passwords.
        url: Url,
        /// What is wrong with it.
        why: String,
    },
    /// The credentials file can't be read.
    #[error("nats.creds {path} can't be used: {why}")]
    Creds {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of TLS can't be used.
    #[error(transparent)]
    Pem(#[from] BadPem),
    /// The server is too old.
    #[error(
        "the NATS server at {url} has version {found}, and {}.{} or newer is needed: upgrade it",
        OLDEST_SERVER.0,
        OLDEST_SERVER.1
    )]
    TooOld {
        /// The address, without passwords.
        url: Url,
        /// The version that the server told.
        found: String,
    },
    /// The server takes only small messages.
    #[error("the NATS server at {url} takes messages of {found} bytes, and {needed} are needed: raise its max_payload")]
    SmallPayload {
        /// The address, without passwords.
        url: Url,
        /// The server's `max_payload`.
        found: usize,
        /// What it must be at least.
        needed: usize,
    },
}

impl Nats {
    /// Connects as `name`, which the server's lists show. Waits until a server is there, however long that takes, and says
    /// so in the log.
    pub async fn connect(settings: &settings::Nats, name: &str) -> Result<Self, ConnectError> {
        let url = settings.url.clone().ok_or(ConnectError::NoUrl)?;
        let bad_url = |why: String| ConnectError::Url { url: url.clone(), why };
        let Servers { addresses, login } = Servers::parse(&url).map_err(bad_url)?;

        let (present, presence) = watch::channel(Presence::default());
        let overruns = Arc::new(AtomicU64::new(0));
        let observer =
            Arc::new(Observer { url: url.clone(), present, overruns: Arc::clone(&overruns), trouble: Mutex::default() });
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .client_capacity(MAX_WAITING_TO_LEAVE)
            .subscription_capacity(MAX_WAITING_TO_BE_READ)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                let observer = Arc::clone(&observer);
                async move { observer.on_event(&event) }
            });
        if let Some(path) = &settings.creds {
            let bad_creds = |why: String| ConnectError::Creds { path: path.display().to_string(), why };
            // Checked now: the client would only find out while connecting, and try for ever.
            let creds = std::fs::read_to_string(path).map_err(|error| bad_creds(error.to_string()))?;
            options = options.credentials(&creds).map_err(|error| bad_creds(error.to_string()))?;
        }
        let identity = [settings.cert.as_deref(), settings.key.as_deref()];
        pem::read_identity(["nats.cert", "nats.key"], identity[0], identity[1])?;
        if let Some(ca) = &settings.ca {
            pem::read("nats.ca", ca)?;
            options = options.add_root_certificates(ca.clone());
        }
        if let [Some(cert), Some(key)] = identity {
            options = options.add_client_certificate(cert.to_owned(), key.to_owned());
        }
        // A server that offers no TLS is not talked to where TLS was asked for.
        options = options.require_tls(settings.ca.is_some() || url.as_str().contains("tls://"));
        let user = match &login {
            Some(Login::User(user, _)) => user,
            _ => name,
        };
        options = options.custom_inbox_prefix(inbox_prefix(user));
        options = match login {
            Some(Login::User(user, password)) => options.user_and_password(user, password),
            Some(Login::Token(token)) => options.token(token),
            None => options,
        };

        let client = options.connect(addresses).await.map_err(|error| bad_url(error.to_string()))?;
        let nats = Self { client, presence, overruns };
        let info = nats.wait_for_server(&url).await;
        nats.check_server(&url, info)?;
        Ok(nats)
    }

    /// Messages that were lost since the start because their reader did not keep up.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// How often the connection broke since the start.
    pub fn breaks(&self) -> u64 {
        self.presence.borrow().breaks
    }

    /// Whether NATS is there at this moment.
    pub fn is_up(&self) -> bool {
        self.presence.borrow().is_up
    }

    /// Carries out what needs NATS, as long as NATS is there. The client would let it wait for the return otherwise: its
    /// time-outs only begin when the message has left its queue.
    pub(crate) async fn while_up<T>(&self, question: impl Future<Output = T>) -> Result<T, Away> {
        let mut presence = self.presence.clone();
        if !presence.borrow().is_up {
            return Err(Away);
        }
        tokio::select! {
            answer = question => Ok(answer),
            _ = presence.wait_for(|presence| !presence.is_up) => Err(Away),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.clone()
    }

    /// What the server told of itself, once there is one.
    async fn wait_for_server(&self, url: &Url) -> ServerInfo {
        let mut presence = self.presence.clone();
        let mut told = std::pin::pin!(async {
            loop {
                if presence.wait_for(|presence| presence.is_up).await.is_err() {
                    // Nobody will tell any more, since the runtime ends: that is nothing to refuse a server for.
                    return std::future::pending().await;
                }
                // The event comes a moment before what the server told of itself is there.
                match self.client.try_server_info() {
                    Some(info) => return info,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        });
        loop {
            match tokio::time::timeout(STILL_WAITING_EVERY, &mut told).await {
                Ok(info) => return info,
                Err(_) => tracing::warn!(%url, "still waiting for NATS"),
            }
        }
    }

    fn check_server(&self, url: &Url, info: ServerInfo) -> Result<(), ConnectError> {
        if !self.client.is_server_compatible(OLDEST_SERVER.0, OLDEST_SERVER.1, 0) {
            return Err(ConnectError::TooOld { url: url.clone(), found: info.version });
        }
        if info.max_payload < MIN_MAX_PAYLOAD {
            return Err(ConnectError::SmallPayload { url: url.clone(), found: info.max_payload, needed: MIN_MAX_PAYLOAD });
        }
        tracing::info!(%url, server = %info.server_name, version = %info.version, "NATS is new enough");
        Ok(())
    }
}

/// Addresses and login apart, since the client shows addresses as they are in its own debug logs.
struct Servers {
    addresses: Vec<ServerAddr>,
    login: Option<Login>,
}

enum Login {
    User(String, String),
    Token(String),
}

impl Servers {
    fn parse(url: &Url) -> Result<Self, String> {
        let mut servers = Self { addresses: Vec::new(), login: None };
        for address in url.as_str().split(',') {
            let with_login: ServerAddr = address.parse().map_err(|error: std::io::Error| error.to_string())?;
            let login = match (with_login.username(), with_login.password()) {
                (Some(user), Some(password)) => Some(Login::User(user.to_owned(), password.to_owned())),
                (Some(token), None) => Some(Login::Token(token.to_owned())),
                _ => None,
            };
            // Servers of one cluster share their accounts; the client knows one login for all of them, too.
            servers.login = servers.login.or(login);
            servers.addresses.push(without_login(address).parse().map_err(|error: std::io::Error| error.to_string())?);
        }
        Ok(servers)
    }
}

fn without_login(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => address.to_owned(),
    }
}

/// Where answers come to: an inbox for each login, so that none may be let read what others are answered.
fn inbox_prefix(user: &str) -> String {
    // What else NATS takes for a name means something in subjects.
    let one_token = |byte: u8| if byte.is_ascii_alphanumeric() || byte == b'-' { char::from(byte) } else { '_' };
    format!("_INBOX.{}", user.bytes().map(one_token).collect::<String>())
}

/// The first attempt comes at once; then 20, 40, 80, … ms.
fn reconnect_delay(attempts: usize) -> Duration {
    match attempts {
        0 | 1 => Duration::ZERO,
        _ => MAX_RECONNECT_DELAY.min(Duration::from_millis(10 << attempts.min(10))),
    }
}

/// Hears what happens to the connection, and tells it.
struct Observer {
    url: Url,
    present: watch::Sender<Presence>,
    overruns: Arc<AtomicU64>,
    /// What was last said to be wrong: each attempt would say it again.
    trouble: Mutex<Option<String>>,
}

impl Observer {
    fn on_event(&self, event: &Event) {
        let url = &self.url;
        match event {
            Event::Connected => {
                *self.trouble.lock() = None;
                tracing::info!(%url, "connected to NATS");
                self.present.send_modify(|presence| presence.is_up = true);
            }
            Event::Disconnected => {
                tracing::warn!(%url, "NATS is away; trying to connect until it is back");
                self.present.send_modify(|presence| *presence = Presence { is_up: false, breaks: presence.breaks + 1 });
            }
            Event::SlowConsumer(subscription) => {
                // Counted; the first one of many is enough of a log line.
                if self.overruns.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(subscription, "a subscription's reader is too slow: messages are lost");
                }
            }
            Event::LameDuckMode => tracing::info!(%url, "the NATS server is about to shut down"),
            Event::Draining | Event::Closed => tracing::debug!(%url, %event, "the connection to NATS ends"),
            Event::ServerError(_) | Event::ClientError(_) => {
                let trouble = event.to_string();
                let mut known = self.trouble.lock();
                if known.as_ref() != Some(&trouble) {
                    tracing::warn!(%url, %trouble, "trouble with NATS");
                    *known = Some(trouble);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_leave_the_addresses() {
        let url = Url::parse_several("nats://me:pass@a:1,tls://b", &["nats", "tls"]).unwrap();
        let servers = Servers::parse(&url).unwrap();
        assert!(servers.addresses.iter().map(ServerAddr::as_url_str).eq(["nats://a:1", "tls://b"]));
        assert!(matches!(servers.login, Some(Login::User(user, password)) if user == "me" && password == "pass"));
        let url = Url::parse("nats://t0ken@a", &["nats"]).unwrap();
        assert!(matches!(Servers::parse(&url).unwrap().login, Some(Login::Token(token)) if token == "t0ken"));
    }

    /// A process that ended while it waited was told that the server of version "" is too old.
    #[tokio::test]
    async fn server_that_was_never_there_is_not_judged() {
        // Nobody listens there.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = ConnectOptions::new().retry_on_initial_connect().connect(address.to_string()).await.unwrap();
        let (present, presence) = watch::channel(Presence::default());
        let nats = Nats { client, presence, overruns: Arc::default() };
        drop(present);
        let url = Url::parse("nats://a", &["nats"]).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), nats.wait_for_server(&url)).await.is_err());
    }

    #[test]
    fn reconnect_delay_stays_bounded() {
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        assert_eq!(reconnect_delay(2), Duration::from_millis(40));
        assert_eq!(reconnect_delay(usize::MAX), MAX_RECONNECT_DELAY);
    }
}
