//! Which crate may know which. The table below is the whole of it; a new crate, or a new arrow, is added here
//! or refused. Also keeps runtimes, sockets, clocks and chance out of the crates that must work without them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{cargo, output};

/// Each crate of the workspace with the ones it may depend on, tests and build scripts included.
///
/// ```text
/// proto ← core ←─────┬─ services ← carillon
///   └─── platform ←──┘
/// ```
const ARROWS: [(&str, &[&str]); 9] = [
    ("carillon-proto", &[]),
    ("carillon-core", &["carillon-proto"]),
    ("carillon-platform", &["carillon-proto"]),
    ("carillon-gateway", &["carillon-proto", "carillon-core", "carillon-platform"]),
    ("carillon-auth", &["carillon-proto", "carillon-core", "carillon-platform"]),
    ("carillon-fanout", &["carillon-proto", "carillon-core", "carillon-platform"]),
    ("carillon-loadtest", &["carillon-proto"]),
    (
        "carillon",
        &[
            "carillon-proto",
            "carillon-core",
            "carillon-platform",
            "carillon-gateway",
            "carillon-auth",
            "carillon-fanout",
            "carillon-loadtest",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that must stay free of a runtime, with the beginnings of the names that would bring one in.
const ABSENT: [(&str, &[&str]); 2] = [("carillon-proto", RUNTIMES), ("carillon-core", RUNTIMES_AND_CHANCE)];

const RUNTIMES: &[&str] =
    &["async-", "axum", "clap", "figment", "fjall", "futures", "hyper", "mio", "reqwest", "socket2", "tokio", "tonic", "tracing"];

/// `carillon-proto` makes ids, so it may hold a source of chance; `core` gets ids and the time as arguments.
const RUNTIMES_AND_CHANCE: &[&str] = &[
    "async-",
    "axum",
    "chrono",
    "clap",
    "fastrand",
    "figment",
    "fjall",
    "futures",
    "getrandom",
    "hyper",
    "mio",
    "parking_lot",
    "rand",
    "reqwest",
    "socket2",
    "time",
    "tokio",
    "tonic",
    "tracing",
    "uuid",
];

pub(crate) fn check() -> Result<()> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let mut wrong = unwanted_arrows(&workspace_arrows(&serde_json::from_str(&metadata)?)?);
    for (package, absent) in ABSENT {
        wrong.extend(unwanted_packages(package, absent, &dependency_names(package)?));
    }
    if !wrong.is_empty() {
        bail!("dependency directions (the table in xtask/src/arrows.rs says what is allowed):\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// Package → the packages of this workspace that its manifest names, whatever the kind of dependency.
fn workspace_arrows(metadata: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let name_of = |value: &Value| value["name"].as_str().map(str::to_owned).context("a package without a name");
    let mut arrows = BTreeMap::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        // Only a dependency inside the workspace is given by a path.
        let inside = dependencies.iter().filter(|dependency| dependency["path"].is_string());
        arrows.insert(name_of(package)?, inside.map(name_of).collect::<Result<_>>()?);
    }
    Ok(arrows)
}

fn unwanted_arrows(found: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (package, dependencies) in found {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == package) else {
            wrong.push(format!("{package} is not in the table"));
            continue;
        };
        let unwanted = dependencies.iter().filter(|name| !allowed.contains(&name.as_str()));
        wrong.extend(unwanted.map(|name| format!("{package} must not depend on {name}")));
    }
    wrong
}

/// All packages that `package` is built with, save what comes only by way of `carillon-proto`, which has its own row.
fn dependency_names(package: &str) -> Result<Vec<String>> {
    let mut tree = cargo(&["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package]);
    if package != "carillon-proto" {
        tree.args(["--prune", "carillon-proto"]);
    }
    let lines = output(&mut tree)?;
    // A line is `name v1.2.3`, with more after it for path dependencies and repeats.
    Ok(lines.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != package).map(str::to_owned).collect())
}

fn unwanted_packages(package: &str, absent: &[&str], found: &[String]) -> Vec<String> {
    let mut unwanted: Vec<_> = found.iter().filter(|name| absent.iter().any(|start| name.starts_with(start))).collect();
    unwanted.sort();
    unwanted.dedup();
    unwanted
        .into_iter()
        .map(|name| format!("{package} must do without {name} (see `cargo tree -p {package} -i {name}`)"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows_of(manifest: &str) -> Vec<String> {
        unwanted_arrows(&workspace_arrows(&serde_json::from_str(manifest).expect("literal JSON")).expect("well-formed"))
    }

    #[test]
    fn listed_arrow_is_allowed() {
        let manifest = r#"{"packages":[{"name":"carillon-core","dependencies":[
            {"name":"carillon-proto","path":"/proto"},{"name":"bytes"}]}]}"#;
        assert!(arrows_of(manifest).is_empty());
    }

    #[test]
    fn service_may_not_know_another() {
        let manifest = r#"{"packages":[{"name":"carillon-gateway","dependencies":[
            {"name":"carillon-fanout","path":"/fanout-service","kind":"dev"}]}]}"#;
        assert_eq!(arrows_of(manifest), ["carillon-gateway must not depend on carillon-fanout"]);
    }

    #[test]
    fn new_crate_needs_a_row() {
        let manifest = r#"{"packages":[{"name":"carillon-more","dependencies":[]}]}"#;
        assert_eq!(arrows_of(manifest), ["carillon-more is not in the table"]);
    }

    #[test]
    fn runtime_in_core_is_refused() {
        let found = ["bytes".to_owned(), "tokio-util".to_owned(), "tokio-util".to_owned()];
        let wrong = unwanted_packages("carillon-core", RUNTIMES_AND_CHANCE, &found);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].starts_with("carillon-core must do without tokio-util"));
    }
}
