//! What is around: the addresses to listen on, the pages that may ask, TLS, NATS, the auth service, and other machines' clocks.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::{Duration, SystemTime},
};

use carillon_gateway::Tls;
use carillon_platform::{health, nats::Nats, settings::Settings};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{super::server::Server, Findings};

/// How long anybody may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The first line of a NATS server is about 500 bytes.
const INFO_BYTES: u64 = 64 * 1024;
/// The oldest NATS that the log works on.
const OLDEST_NATS: (u64, u64) = (2, 12);
const MIN_MAX_PAYLOAD: u64 = 1024 * 1024;
/// 2025-01-01, before any version of this.
const NO_EARLIER: Duration = Duration::from_secs(1_735_689_600);

pub(super) fn look_at_origins(settings: &Settings, found: &mut Findings) {
    if settings.origins.is_empty() {
        let mend = "no page may connect from a browser: set `origins`, for example https://app.example.com";
        return match settings.nats.url {
            Some(_) => found.doubtful("origins", mend),
            None => found.wrong("origins", mend),
        };
    }
    found.well("origins", "there are pages that may connect");
}

pub(super) fn look_at_tls(settings: &Settings, found: &mut Findings) {
    match Tls::from_settings(&settings.tls) {
        Err(error) => found.wrong("tls", error.to_string()),
        Ok(Some(_)) => found.well("tls", "certificate and key belong together"),
        Ok(None) if settings.listen.ip().is_loopback() => found.well("tls", "none: for a proxy on this machine to add"),
        Ok(None) => {
            let text = format!(
                "listen is {}, in the open: tokens can be read on the way unless a proxy ends TLS; or set tls.cert and tls.key",
                settings.listen
            );
            found.doubtful("tls", text);
        }
    }
}

/// Whether a Carillon is at work with these settings.
pub(super) fn look_at_ports(settings: &Settings, found: &mut Findings) -> bool {
    let is_running = settings.admin_listen.port() != 0 && health::ask(settings.admin_listen).is_ok();
    if is_running {
        found.well("ports", format!("a Carillon is at work already (admin {})", settings.admin_listen));
        return true;
    }
    if settings.listen == settings.admin_listen && settings.listen.port() != 0 {
        found.wrong("ports", format!("listen and admin_listen are both {}: set one of them to another port", settings.listen));
        return false;
    }
    for (setting, address) in [("listen", settings.listen), ("admin_listen", settings.admin_listen)] {
        match TcpListener::bind(address) {
            Ok(_) => found.well("ports", format!("{setting}: {address} is free")),
            Err(error) => found.wrong("ports", format!("{setting}: {}", why_not(address, &error))),
        }
    }
    if !settings.admin_listen.ip().is_loopback() {
        let text = format!(
            "admin_listen is {}: whoever reaches it reads the metrics; keep it off public networks",
            settings.admin_listen
        );
        found.doubtful("ports", text);
    }
    false
}

fn why_not(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another process: end that one (`ss -ltnp` shows it), or set another port")
        }
        io::ErrorKind::AddrNotAvailable => format!("{address} is no address of this machine: set 0.0.0.0, or one of its own"),
        io::ErrorKind::PermissionDenied => {
            format!("{address} may not be opened by this user: use a port from 1024 on, or CAP_NET_BIND_SERVICE")
        }
        _ => format!("{address} can't be opened: {error}"),
    }
}

pub(super) async fn look_at_nats(settings: &Settings, found: &mut Findings) {
    let Some(url) = &settings.nats.url else { return };
    for address in url.as_str().split(',') {
        let (_, rest) = address.split_once("://").unwrap_or(("", address));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host).trim_end_matches('/');
        let place = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
            host.into()
        } else {
            format!("{host}:4222")
        };
        match timeout(PATIENCE, nats_info(&place)).await {
            Err(_) => {
                found.wrong("nats", format!("{place} does not answer: see that NATS runs, and that no firewall is between"))
            }
            Ok(Err(error)) => found.wrong("nats", format!("no NATS at {place} ({error}): start nats-server, or mend nats.url")),
            Ok(Ok(info)) => look_at_info(settings, &place, &info, found),
        }
    }
    if found.0.iter().any(|it| it.about == "nats" && it.mark == super::Mark::Wrong) {
        return;
    }
    match timeout(PATIENCE, Nats::connect(&settings.nats, "carillon-doctor")).await {
        Ok(Ok(_)) => found.well("nats", "it lets us in"),
        Ok(Err(error)) => found.wrong("nats", error.to_string()),
        Err(_) => {
            let text = "it is there and does not let us in: look at the login in nats.url, at nats.creds, and at nats.ca, nats.cert and nats.key";
            found.wrong("nats", text);
        }
    }
    if settings.nats.replicas == 1 {
        let text = "nats.replicas is 1: one copy, which a power cut may cost what NATS' sync_interval has not written yet (it can't be \
                    asked here; 2 minutes unless set); docs/guarantees.md";
        found.doubtful("nats", text);
    }
}

/// What a server says first of all, before any login: `INFO {…}`.
async fn nats_info(place: &str) -> io::Result<Value> {
    let stream = TcpStream::connect(place).await?;
    let mut line = String::new();
    BufReader::new(stream.take(INFO_BYTES)).read_line(&mut line).await?;
    let info = line.strip_prefix("INFO ").ok_or_else(|| io::Error::other("something else listens there"))?;
    serde_json::from_str(info).map_err(io::Error::other)
}

fn look_at_info(settings: &Settings, place: &str, info: &Value, found: &mut Findings) {
    let version = info["version"].as_str().unwrap_or("unknown");
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let found_version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = OLDEST_NATS;
    if found_version < OLDEST_NATS {
        return found.wrong("nats", format!("{place} has version {version}, and {major}.{minor} or newer is needed: upgrade it"));
    }
    if info["jetstream"] != true {
        let mend = "start it with JetStream: `jetstream: { store_dir: … }` in its configuration, or -js";
        return found.wrong("nats", format!("{place} has no JetStream: {mend}"));
    }
    let max_payload = info["max_payload"].as_u64().unwrap_or(0);
    if max_payload < MIN_MAX_PAYLOAD {
        let text = format!("{place} takes messages of {max_payload} bytes: raise its max_payload to {MIN_MAX_PAYLOAD} or more");
        return found.wrong("nats", text);
    }
    let replicas = settings.nats.replicas;
    if replicas > 1 && !info["cluster"].is_string() {
        let text = format!("nats.replicas is {replicas}, and {place} is a server by itself: make it part of a cluster, or set 1");
        return found.wrong("nats", text);
    }
    found.well("nats", format!("{place} has version {version}, with JetStream"));
}

pub(super) async fn look_at_auth(settings: &Settings, found: &mut Findings) {
    let url = settings.auth.url.as_str();
    let uri: Option<http::Uri> = url.parse().ok();
    let place = uri.as_ref().and_then(|uri| Some((uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16()?)));
    let Some((host, port)) = place else {
        return found.wrong("auth", format!("auth.url {url} names no host and port: set something like http://auth:8090"));
    };
    match timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => found.well("auth", format!("somebody listens at {host}:{port}")),
        _ => found.wrong("auth", format!("nobody answers at auth.url {url}: start carillon-auth, or mend the address")),
    }
}

/// This machine's clock, by itself and beside those of servers that tell theirs.
pub(super) async fn look_at_clocks(settings: &Settings, url: Option<&str>, found: &mut Findings) {
    let mend = "set it, and keep it by NTP (`timedatectl set-ntp true`)";
    if SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < NO_EARLIER) {
        return found.wrong("clock", format!("it stands before 2025, so that no token is what it seems: {mend}"));
    }
    let jwks = settings.jwt.jwks_url.as_ref().map(|url| url.as_str());
    let mut compared = false;
    for (about, url) in [("url", url), ("keys", jwks)] {
        let Some(url) = url else { continue };
        let asked = match Server::parse(url, "none") {
            Ok(server) => timeout(PATIENCE, server.date()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            Err(why) => Err(io::Error::other(why)),
        };
        let date = match asked {
            Ok(date) => date,
            Err(error) => {
                let mend =
                    if about == "keys" { "see that jwt.jwks_url answers from here" } else { "start it, or mend the address" };
                found.wrong(about, format!("{url} does not answer ({error}): {mend}"));
                continue;
            }
        };
        let Some(date) = date else { continue };
        compared = true;
        let now = SystemTime::now();
        let apart = now.duration_since(date).unwrap_or_else(|ahead| ahead.duration());
        // Its date has whole seconds, and was written a moment ago.
        if apart > Duration::from_secs(settings.jwt.leeway_s + 2) {
            let text = format!(
                "it is {} s from that of {url}, more than jwt.leeway_s ({}) forgives: {mend}, on both",
                apart.as_secs(),
                settings.jwt.leeway_s
            );
            found.wrong("clock", text);
            return;
        }
    }
    match compared {
        true => found.well("clock", "it goes with the others"),
        false => found.well("clock", "it may be right (--url compares it with a server's)"),
    }
}
