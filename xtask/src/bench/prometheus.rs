//! `cargo xtask prometheus`: a real Prometheus scrapes a real cluster under load, with the configuration and the rules of
//! `deploy/observability`, where services are found at their addresses here instead of by name. Every query of the dashboard must return data,
//! nothing may fire while all is well, and what should fires when NATS is killed.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::contender::{Place, Running, http};
use super::prepare;
use crate::nats;
use crate::process::Process;
use crate::steps::root;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of load before the queries
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// All is built
    #[arg(long, hide = true)]
    prepared: bool,
}

const FOLDER: &str = "deploy/observability";
/// Fires 30 s after NATS has gone.
const ALERT: &str = "CarillonNatsAway";
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.prepared {
        prepare()?;
    }
    let place = Place::new(nats::find_or_fetch_server()?, args.seconds, 0)?;
    let mut cluster = place.cluster(2)?;
    let prometheus = Prometheus::start(&place, &cluster)?;
    // Hooks have no receiver here: their figures are 0, and there.
    let rooms = format!("rooms --rooms 20 --members 10 --publishers 4 --rate 200 --seconds {}", args.seconds);
    place.load(&cluster, &rooms)?;
    // Users whose tokens no gateway has seen.
    place.load(&cluster, "idle --connections 600 --seconds 3")?;

    let dashboard: Value = serde_json::from_slice(&fs::read(root().join(FOLDER).join("grafana/dashboards/carillon.json"))?)?;
    let mut empty = Vec::new();
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().context("a dashboard has panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("a target is a query")?.replace("$__rate_interval", "30s");
            let found = prometheus.ask(&query)?;
            let is_number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
            println!("{:>3} series  {}: {query}", found.len(), panel["title"].as_str().unwrap_or_default());
            queries += 1;
            if found.is_empty() || !found.iter().any(is_number) {
                empty.push(query);
            }
        }
    }
    ensure!(empty.is_empty(), "{} of {queries} queries return nothing: {empty:#?}", empty.len());
    let firing = prometheus.ask(r#"ALERTS{alertstate="firing"}"#)?;
    ensure!(firing.is_empty(), "all is well, and these fire: {firing:#?}");
    println!("all of {queries} queries return data, no alert fires; NATS is killed");

    cluster.kill("nats");
    let killed = Instant::now();
    while prometheus.ask(&format!(r#"ALERTS{{alertstate="firing",alertname="{ALERT}"}}"#))?.is_empty() {
        if killed.elapsed() > PATIENCE {
            bail!("{ALERT} does not fire");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("{ALERT} fires {:.0} s after NATS was killed", killed.elapsed().as_secs_f64());
    Ok(())
}

/// It ends with this.
struct Prometheus {
    host: String,
    _process: Process,
}

impl Prometheus {
    fn start(place: &Place, cluster: &Running) -> Result<Self> {
        let folder = place.data.join("prometheus");
        fs::create_dir_all(&folder)?;
        fs::copy(root().join(FOLDER).join("rules.yml"), folder.join("rules.yml"))?;
        let config = fs::read_to_string(root().join(FOLDER).join("prometheus.yml"))?;
        fs::write(folder.join("prometheus.yml"), here(&config, cluster)?)?;
        let host = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.args([format!("--web.listen-address={host}"), "--log.level=warn".to_owned()]);
        let mut process = Process::silent("prometheus", command, &place.data);
        process.start().context("Debian's package prometheus has what is missing")?;
        let began = Instant::now();
        while http(&host, "GET /-/ready HTTP/1.0\r\n\r\n").is_err() {
            ensure!(began.elapsed() < PATIENCE, "prometheus is not ready; see {}", place.data.join("prometheus.log").display());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self { host, _process: process })
    }

    /// An instant query.
    fn ask(&self, query: &str) -> Result<Vec<Value>> {
        let encoded = query.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02X}");
            text
        });
        let answer = http(&self.host, &format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n"))?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        match answer["data"]["result"].take() {
            Value::Array(found) => Ok(found),
            _ => bail!("{query}: {answer}"),
        }
    }
}

/// The configuration, with the addresses of this cluster where it looks names up, and more often.
fn here(config: &str, cluster: &Running) -> Result<String> {
    let (mut out, mut job, mut is_skipped) = (String::new(), String::new(), false);
    for line in config.lines() {
        let indent = line.len() - line.trim_start().len();
        if let Some((_, name)) = line.split_once("job_name: carillon-") {
            name.clone_into(&mut job);
        }
        if line.trim() == "dns_sd_configs:" {
            let of_job = cluster.admins().into_iter().filter(|(name, _)| name.split('-').next() == Some(job.as_str()));
            let targets: Vec<&str> = of_job.map(|(_, address)| address).collect();
            ensure!(!targets.is_empty(), "nothing runs here that job carillon-{job} would scrape");
            writeln!(out, "    static_configs:\n      - targets: {targets:?}")?;
            is_skipped = true;
            continue;
        }
        is_skipped &= indent > 4 || line.trim().is_empty();
        if !is_skipped {
            writeln!(out, "{}", line.replace("_interval: 10s", "_interval: 1s"))?;
        }
    }
    ensure!(out.contains("static_configs"), "the configuration looks up no names any more");
    Ok(out)
}
