//! What is done to whom: the kinds of faults, in an order that a seed decides.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::chaos::network::Network;
use crate::chaos::{World, get};
use crate::process::PATIENCE;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillGateway,
    KillFanout,
    KillAuth,
    KillNats,
    StopGateway,
    StopFanout,
    StopNats,
    DrainGateway,
    DrainFanout,
    LameDuckNats,
    KillTwoAtOnce,
    CutNats,
    CutFanout,
}

/// The last ones need a network that can be cut.
const ALL: [Fault; 13] = [
    Fault::KillGateway,
    Fault::KillFanout,
    Fault::KillNats,
    Fault::StopFanout,
    Fault::DrainGateway,
    Fault::StopGateway,
    Fault::KillAuth,
    Fault::DrainFanout,
    Fault::StopNats,
    Fault::KillTwoAtOnce,
    Fault::LameDuckNats,
    Fault::CutNats,
    Fault::CutFanout,
];
const CUTS: usize = 2;

/// A stopped process goes on, and one that was cut off is back, after so long: longer than a lease.
const STOPPED: Duration = Duration::from_secs(10);
/// A node of NATS that was killed stays away so long.
const AWAY: Duration = Duration::from_secs(3);
/// A lame duck may take so long to go.
const LAME: Duration = Duration::from_secs(60);

/// One that was done.
pub(crate) struct Done {
    pub(crate) fault: Fault,
    pub(crate) what: String,
    /// Since the load began.
    pub(crate) at: Duration,
    pub(crate) lasted: Duration,
}

impl Fault {
    /// Each kind once before any comes twice; after that by chance.
    pub(crate) fn choose(chance: &mut Chance, turn: usize, has_network: bool) -> Self {
        let kinds = if has_network { ALL.len() } else { ALL.len() - CUTS };
        if turn < kinds { ALL[turn] } else { ALL[chance.below(kinds as u64) as usize] }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillGateway => "kill gateway",
            Self::KillFanout => "kill fanout",
            Self::KillAuth => "kill auth",
            Self::KillNats => "kill nats",
            Self::StopGateway => "stop gateway",
            Self::StopFanout => "stop fanout",
            Self::StopNats => "stop nats",
            Self::DrainGateway => "drain gateway",
            Self::DrainFanout => "drain fanout",
            Self::LameDuckNats => "lame duck nats",
            Self::KillTwoAtOnce => "kill two",
            Self::CutNats => "cut nats",
            Self::CutFanout => "cut fanout",
        }
    }

    /// Does it, and makes whole again. Says to whom.
    pub(crate) fn perform(self, world: &mut World, chance: &mut Chance) -> Result<String> {
        let mut one_of = |kind: &str, count: u64| format!("{kind}-{}", 1 + chance.below(count));
        let (gateway, fanout, nats) = (one_of("gateway", 3), one_of("fanout", 2), one_of("nats", 3));
        match self {
            Self::KillGateway => world.kill(&[&gateway], Duration::ZERO),
            Self::KillFanout => world.kill(&[&fanout], Duration::ZERO),
            Self::KillAuth => world.kill(&["auth"], Duration::ZERO),
            Self::KillTwoAtOnce => world.kill(&[&gateway, &fanout], Duration::ZERO),
            Self::KillNats => {
                let leads = world.leads(&nats);
                Ok(world.kill(&[&nats], AWAY)? + &leads)
            }
            Self::StopGateway => world.stop(&gateway),
            Self::StopFanout => world.stop(&fanout),
            Self::StopNats => {
                let leads = world.leads(&nats);
                Ok(world.stop(&nats)? + &leads)
            }
            Self::DrainGateway => world.end(&gateway, "TERM", PATIENCE),
            Self::DrainFanout => world.end(&fanout, "TERM", PATIENCE),
            Self::LameDuckNats => world.end(&nats, "USR2", LAME),
            Self::CutNats => {
                let leads = world.leads(&nats);
                Ok(cut(&nats)? + &leads)
            }
            Self::CutFanout => cut(&fanout),
        }
    }
}

/// Nothing gets through to it or from it for a while; it runs on.
fn cut(name: &str) -> Result<String> {
    Network::cut(name)?;
    std::thread::sleep(STOPPED);
    Network::mend(name)?;
    Ok(format!("{name} for {} s", STOPPED.as_secs()))
}

impl World {
    fn kill(&mut self, names: &[&str], away: Duration) -> Result<String> {
        for name in names {
            self.process(name)?.kill();
        }
        std::thread::sleep(away);
        for name in names {
            let process = self.process(name)?;
            process.start()?;
            process.wait_until_up()?;
        }
        Ok(names.join(" and "))
    }

    fn stop(&mut self, name: &str) -> Result<String> {
        self.process(name)?.signal("STOP");
        std::thread::sleep(STOPPED);
        self.process(name)?.signal("CONT");
        Ok(format!("{name} for {} s", STOPPED.as_secs()))
    }

    fn end(&mut self, name: &str, signal: &str, patience: Duration) -> Result<String> {
        let process = self.process(name)?;
        let started = Instant::now();
        process.signal(signal);
        while !process.has_ended() {
            if started.elapsed() > patience {
                bail!("{name} did not end {patience:?} after {signal}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = started.elapsed();
        process.start()?;
        process.wait_until_up()?;
        Ok(format!("{name}, which took {:.1} s", took.as_secs_f64()))
    }

    /// How many streams a node of NATS leads just now.
    fn leads(&self, name: &str) -> String {
        let monitor = self.monitors.iter().zip(1..).find(|(_, number)| name == format!("nats-{number}"));
        let Some(text) = monitor.and_then(|((address, port), _)| get(address, *port, "/jsz?streams=true&accounts=true").ok())
        else {
            return String::new();
        };
        let leader = format!("\"leader\": \"{name}\"");
        format!(", leader of {} streams or groups", text.matches(&leader).count())
    }
}

/// Numbers that a seed decides (splitmix64, Steele and others, 2014).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}
