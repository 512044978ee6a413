//! What the tests need beside Rust: Node, the Node packages, and a Chromium. Missing packages are installed;
//! what can't be installed from here is named together with the way to get it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::{command, output, root, run};

/// The Node package that holds the tests against a started server.
pub(crate) const WEB_TESTS: &str = "carillon/tests/web";

/// The TypeScript client, with tests that need no server.
pub(crate) const CLIENT: &str = "clients/typescript";

/// The examples, which share their packages.
pub(crate) const EXAMPLES: &str = "examples";

/// The oldest Node whose test runner knows what the tests use.
const NODE_MAJOR_MIN: u32 = 20;

const CHROMIUM_NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

pub(crate) fn check_node() -> Result<()> {
    let version = output(&mut command("node", &["--version"])).with_context(|| {
        format!("the web tests need Node {NODE_MAJOR_MIN} or newer with npm on the PATH (https://nodejs.org)")
    })?;
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MAJOR_MIN) {
        bail!("the web tests need Node {NODE_MAJOR_MIN} or newer, but `node --version` says {}", version.trim());
    }
    Ok(())
}

/// `npm ci` in a folder of the workspace, unless the very same lock was installed last time.
pub(crate) fn install_node_packages(package: &str) -> Result<()> {
    let folder = root().join(package);
    let lock = fs::read(folder.join("package-lock.json")).with_context(|| format!("no package-lock.json in {package}"))?;
    let installed = folder.join("node_modules/.installed-lock.json");
    if fs::read(&installed).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    run(command(npm, &["ci", "--no-audit", "--no-fund"]).current_dir(&folder))?;
    fs::write(&installed, &lock).with_context(|| format!("could not write {}", installed.display()))
}

/// A Python with the packages that the tests against `python-socketio` need, in a virtual environment under `target`; none where
/// whoever runs them wants to go without (`CARILLON_SKIP=python`).
pub(crate) fn find_or_make_python() -> Result<Option<String>> {
    if std::env::var("CARILLON_SKIP").is_ok_and(|skipped| skipped.split(',').any(|what| what == "python")) {
        return Ok(None);
    }
    output(&mut command("python3", &["--version"])).context("no python3 on the PATH: install it, or say CARILLON_SKIP=python")?;
    let wanted = root().join(WEB_TESTS).join("python.txt");
    let pins = fs::read(&wanted).with_context(|| format!("could not read {}", wanted.display()))?;
    let folder = root().join("target/tools/python");
    let (python, installed) = (folder.join("bin/python"), folder.join("installed.txt"));
    if fs::read(&installed).is_ok_and(|installed| installed == pins) && output(command_at(&python).arg("--version")).is_ok() {
        return Ok(Some(python.display().to_string()));
    }
    let why = "python3 is there, but its module venv or pip is not (Debian: `apt-get install python3-venv`)";
    run(command("python3", &["-m", "venv", "--clear"]).arg(&folder)).context(why)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"];
    run(command_at(&python).args(pip).arg(&wanted))?;
    fs::write(&installed, &pins).with_context(|| format!("could not write {}", installed.display()))?;
    Ok(Some(python.display().to_string()))
}

fn command_at(program: &Path) -> Command {
    command(&program.display().to_string(), &[])
}

/// The path of a Chromium: the one that `CHROMIUM` names, else one on the PATH, else one that apt installs.
pub(crate) fn find_or_install_chromium() -> Result<String> {
    if let Some(path) = std::env::var("CHROMIUM").ok().filter(|path| !path.is_empty()) {
        if !Path::new(&path).exists() {
            bail!("CHROMIUM names {path}, which does not exist");
        }
        return Ok(path);
    }
    if let Some(path) = chromium_on_path() {
        return Ok(path);
    }
    if !can_use_apt() {
        bail!(
            "no Chromium found: install one (for example `sudo apt-get install chromium`), or name it in CHROMIUM=/path/to/chromium"
        );
    }
    for args in [["update"].as_slice(), &["install", "-y", "chromium"]] {
        run(command("apt-get", args).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    chromium_on_path().context("apt-get installed chromium, but none is on the PATH")
}

fn chromium_on_path() -> Option<String> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|folder| CHROMIUM_NAMES.map(|name| folder.join(name)))
        .find(|candidate| candidate.is_file())
        .and_then(|found| found.into_os_string().into_string().ok())
}

fn can_use_apt() -> bool {
    Path::new("/etc/debian_version").exists() && output(&mut command("id", &["-u"])).is_ok_and(|uid| uid.trim() == "0")
}
