//! `cargo xtask test`: sets up what is missing, then runs the Rust tests and the tests that drive a really
//! started server from Node and from a browser.

use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{self, Steps, cargo, command, root};
use crate::{cluster, nats, tools};

/// Modules of the system tests that name their own shape, or need no server: the first run of the suite has them.
const SHAPELESS: [&str; 6] = ["start::", "cluster::", "doctor::", "strangers::", "faults::", "fuzz::"];

/// A crash of the cluster ends and starts four processes.
const CLUSTER_CRASHES: &str = "10";

pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    let (mut nats_server, mut chromium, mut python) = (None, None, None);
    steps.run("tools", || {
        nats_server = Some(nats::find_or_fetch_server()?);
        tools::check_node()?;
        tools::install_node_packages(tools::WEB_TESTS)?;
        tools::install_node_packages(tools::CLIENT)?;
        tools::install_node_packages(tools::EXAMPLES)?;
        chromium = Some(tools::find_or_install_chromium()?);
        python = tools::find_or_make_python()?;
        Ok(())
    })?;
    let nats_server = nats_server.expect("the step above sets it or fails");
    let chromium = chromium.expect("the step above sets it or fails");

    steps.run("client", || steps::run(command("node", &["check.js"]).current_dir(root().join(tools::CLIENT))))?;
    steps.run("build", || steps::run(&mut build_binaries()))?;
    steps.run("rust tests", || {
        steps::run(cargo(&["test", "--workspace", "--locked"]).env("CARILLON_NATS_SERVER", &nats_server))
    })?;
    steps.run("cluster tests", || {
        let args = ["test", "--package", "carillon", "--test", "it", "--locked", "--"];
        let mut tests = cargo(&args);
        tests.args(SHAPELESS.iter().flat_map(|module| ["--skip", *module]));
        tests.env("CARILLON_TEST_SHAPE", "cluster").env("CARILLON_TEST_CRASHES", CLUSTER_CRASHES);
        steps::run(tests.env("CARILLON_NATS_SERVER", &nats_server))
    })?;
    steps.run("cluster", cluster::check)?;
    steps.run("web tests", || {
        // One file at a time: each starts servers and browsers, and small machines would run into time-outs.
        let mut tests = command("node", &["--test", "--test-concurrency=1", "--test-reporter=spec"]);
        tests.args(web_test_files()?);
        // The examples, which some of them are about, were built with the Rust tests.
        tests.env("CARILLON_BIN", carillon_binary()?).env("CARILLON_NATS_SERVER", &nats_server);
        tests.envs(python.iter().map(|python| ("CARILLON_PYTHON", python)));
        tests.env("CHROMIUM", &chromium).current_dir(root().join(tools::WEB_TESTS));
        steps::run(&mut tests)
    })
}

/// Of all processes: the system tests run them as services, too.
pub(crate) fn build_binaries() -> Command {
    let packages = ["carillon", "carillon-auth", "carillon-fanout", "carillon-gateway"];
    let mut build = cargo(&["build", "--locked", "--bins"]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    build
}

/// Named one by one, since Node 20 knows no patterns and would also search `node_modules` of other folders.
fn web_test_files() -> Result<Vec<String>> {
    let folder = root().join(tools::WEB_TESTS);
    let mut names = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("could not list {}", folder.display()))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.ends_with(".test.js") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Asked of cargo, since the target folder can be moved by settings and environment.
pub(crate) fn carillon_binary() -> Result<String> {
    let metadata = steps::output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(format!("{target}/debug/carillon{}", std::env::consts::EXE_SUFFIX))
}
