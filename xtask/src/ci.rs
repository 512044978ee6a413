//! `cargo xtask ci`: the cheap checks first, then all tests. Ends at the first step that fails.

use anyhow::Result;

use crate::steps::{self, Steps, cargo};
use crate::{arrows, deny, deploy, test};

pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    steps.run("fmt", || steps::run(&mut cargo(&["fmt", "--all", "--check"])))?;
    steps.run("arrows", arrows::check)?;
    steps.run("deny", deny::check)?;
    steps.run("deploy", deploy::check)?;
    steps.run("clippy", || {
        steps::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    })?;
    steps.run("docs", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
        steps::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    test::run(steps)
}
