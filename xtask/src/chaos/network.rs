//! A network that can be cut: a namespace for each process that is to lose its connections, and one with the bridge between
//! them, so that no rule of this machine's firewall comes in between. Making it takes root; without that, chaos goes on without
//! cuts.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Of the range for tests of networks (RFC 2544), which no machine should be in; what is in no namespace has 1.
const NET: &str = "198.18.213";
/// The namespace of the bridge; those of the others begin with it.
const HUB: &str = "carillon-chaos";
/// This machine's own end.
const OUTSIDE: &str = "carillon-chaos";

/// Taken down when dropped.
pub(crate) struct Network {
    names: Vec<String>,
}

impl Network {
    pub(crate) fn make(names: Vec<String>) -> Result<Self> {
        let network = Self { names };
        // What a run that was killed has left.
        network.clear();
        ip(&["netns", "add", HUB])?;
        ip(&["-n", HUB, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", HUB, "link", "set", "bridge", "up"])?;
        ip(&["link", "add", OUTSIDE, "type", "veth", "peer", "name", "outside", "netns", HUB])?;
        ip(&["-n", HUB, "link", "set", "outside", "master", "bridge", "up"])?;
        ip(&["address", "add", &format!("{NET}.1/24"), "dev", OUTSIDE])?;
        ip(&["link", "set", OUTSIDE, "up"])?;
        for name in &network.names {
            let space = space(name);
            ip(&["netns", "add", &space])?;
            ip(&["-n", HUB, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["-n", HUB, "link", "set", name, "master", "bridge", "up"])?;
            ip(&["-n", &space, "address", "add", &format!("{}/24", network.address(name)), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    pub(crate) fn address(&self, name: &str) -> String {
        let place = self.names.iter().position(|it| it == name).expect("only those in it are asked for");
        format!("{NET}.{}", 10 + place)
    }

    /// Runs a program in the namespace of that name.
    pub(crate) fn command(name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space(name)]);
        command
    }

    pub(crate) fn cut(name: &str) -> Result<()> {
        ip(&["-n", HUB, "link", "set", name, "down"])
    }

    pub(crate) fn mend(name: &str) -> Result<()> {
        ip(&["-n", HUB, "link", "set", name, "up"])
    }

    fn clear(&self) {
        // Its links go with a namespace, from both ends.
        for name in &self.names {
            let _ = ip(&["netns", "delete", &space(name)]);
        }
        let _ = ip(&["link", "delete", OUTSIDE]);
        let _ = ip(&["netns", "delete", HUB]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.clear();
    }
}

fn space(name: &str) -> String {
    format!("{HUB}-{name}")
}

fn ip(args: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(args).stdin(Stdio::null()).output()?;
    if !done.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
