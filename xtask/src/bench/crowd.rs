//! A crowd: so many members of one room in several processes of the load, since a process has only so many descriptors.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::contender::{Place, SECRET};

/// Connections that one process of the load opens at once.
const OPENING: usize = 8;

/// Members of one gateway.
pub(super) struct Part<'a> {
    pub(super) url: &'a str,
    /// The number of the first one's user.
    pub(super) first: usize,
    pub(super) connections: usize,
}

/// The processes of the load; they end with this.
pub(super) struct Crowd {
    /// First part of the room's name, to which the load adds a 0.
    prefix: &'static str,
    since_ns: u64,
    parts: Vec<(Child, PathBuf)>,
    /// What they say is read to its end, or they could not end well.
    said: Vec<BufReader<ChildStdout>>,
}

impl Crowd {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, since_ns: unix_ns(), parts: Vec::new(), said: Vec::new() }
    }

    /// When its clock began, nanoseconds since 1970.
    pub(super) fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// Its processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.parts.iter().map(|(part, _)| part.id()).collect()
    }

    /// More members come.
    pub(super) fn add(&mut self, place: &Place, part: &Part<'_>) -> Result<()> {
        let number = self.parts.len();
        let json = place.data.join(format!("crowd-{number}.json"));
        let log = File::create(place.data.join(format!("crowd-{number}.log")))?;
        let mut command = Command::new(Place::binary("carillon"));
        command.args(["load", "--url", part.url, "--prefix", self.prefix, "--opening", &OPENING.to_string(), "--settle", "600"]);
        command.arg("--json").arg(&json).args(["crowd", "--since-ns", &self.since_ns.to_string()]);
        command.args(["--connections", &part.connections.to_string(), "--first", &part.first.to_string()]);
        command.env("CARILLON_JWT__SECRET", SECRET).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        self.parts.push((command.spawn()?, json));
        Ok(())
    }

    /// All that have begun.
    pub(super) fn until_seated(&mut self) -> Result<()> {
        for (number, (part, _)) in self.parts.iter_mut().enumerate().skip(self.said.len()) {
            let stdout = part.stdout.take().context("it was piped")?;
            let (mut said, mut line) = (BufReader::new(stdout), String::new());
            said.read_line(&mut line)?;
            self.said.push(said);
            if line.trim() != "seated" {
                bail!("part {number} of the crowd: {line:?}; see its log");
            }
        }
        Ok(())
    }

    /// The clients of a part are gone, without a word.
    pub(super) fn kill(&mut self, number: usize) {
        let (part, _) = &mut self.parts[number];
        let _ = part.kill();
        let _ = part.wait();
    }

    pub(super) fn reports(&mut self) -> Result<Vec<Value>> {
        for (part, _) in &mut self.parts {
            part.wait()?;
        }
        self.parts.iter().map(|(_, json)| Ok(serde_json::from_slice(&fs::read(json)?)?)).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for (part, _) in &mut self.parts {
            let _ = part.kill();
            let _ = part.wait();
        }
    }
}

pub(super) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Memory of processes, files aside (proc(5), `statm`; 4 KiB a page).
pub(super) fn rss_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let memory = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let pages: Vec<u64> = memory.split_whitespace().filter_map(|pages| pages.parse().ok()).collect();
        pages.get(1).zip(pages.get(2)).map_or(0, |(resident, of_files)| resident.saturating_sub(*of_files) * 4)
    };
    pids.iter().map(of).sum()
}

/// A token of this user, with what `carillon token` is told besides.
pub(super) fn token(user: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(Place::binary("carillon"));
    command.args(["token", "--sub", user, "--ttl", "12h"]).args(args).env("CARILLON_JWT__SECRET", SECRET);
    Ok(crate::steps::output(&mut command)?.trim().to_owned())
}
