//! Where the load goes.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};

use crate::wire::Door;

/// A gateway.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) door: Door,
}

impl Target {
    /// From `ws://host:port`, `http://host:port` or `host:port`; what follows is ignored.
    pub(crate) fn parse(url: &str, door: Door) -> anyhow::Result<Self> {
        if url.starts_with("wss:") || url.starts_with("https:") {
            bail!("{url}: load goes to a gateway in the clear, not through TLS");
        }
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let address = host.to_socket_addrs().with_context(|| format!("{url} can't be resolved"))?.next();
        Ok(Self { address: address.with_context(|| format!("{url} has no address"))?, host, door })
    }
}
