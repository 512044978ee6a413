//! `cargo xtask rolling`: one gateway after the other is restarted under clients of all doors, behind a front that knows nothing of
//! who was where. Nobody may miss or see anything twice, no gateway may end but with 0, and who comes back comes spread over the
//! drain's window. Draws connects per second over time.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::Process;
use crate::steps::{self, root};
use crate::{nats, test, tools};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Members on native WebSockets
    #[arg(long, default_value_t = 2000)]
    native: usize,
    /// Members that are `EventSource`s
    #[arg(long, default_value_t = 1500)]
    events: usize,
    /// Members that are `socket.io-client`s
    #[arg(long, default_value_t = 1500)]
    socketio: usize,
    /// Gateways, each of which is restarted
    #[arg(long, default_value_t = 3)]
    gateways: u16,
    /// Rooms that all of them are spread over
    #[arg(long, default_value_t = 100)]
    rooms: usize,
    /// Messages per second, over all rooms
    #[arg(long, default_value_t = 100)]
    rate: usize,
    /// The drain's window, milliseconds
    #[arg(long, default_value_t = 10_000)]
    window_ms: u64,
    /// Folder with the binaries to run, for example of a release build; without it they are built
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Write the plot and the figures into this folder
    #[arg(long, default_value = "target/rolling")]
    out: PathBuf,
}

const SECRET: &str = "a secret for one rolling restart, of 32 bytes";
const PREFIX: &str = "rolling-";
const FRONT: u16 = 17_080;
/// Quiet before the first restart, between two, and behind the last one.
const PAUSE: Duration = Duration::from_secs(8);

pub(crate) fn run(args: &Args) -> Result<()> {
    tools::check_node()?;
    tools::install_node_packages(tools::WEB_TESTS)?;
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        None => {
            steps::run(&mut test::build_binaries())?;
            PathBuf::from(test::carillon_binary()?).parent().context("a folder")?.to_owned()
        }
    };
    let out = root().join(&args.out);
    fs::create_dir_all(&out)?;
    let mut site = Site::start(&binaries, &out, args)?;

    let mut swarm = Swarm::start(args)?;
    let began = Instant::now();
    let seconds = u64::from(args.gateways) * (args.window_ms / 1000 + PAUSE.as_secs()) + 3 * PAUSE.as_secs();
    let mut load = native(&binaries, args, seconds, &out)?;
    std::thread::sleep(PAUSE);
    let mut restarts = Vec::new();
    for number in 0..usize::from(args.gateways) {
        let from = began.elapsed().as_secs_f64();
        site.restart(number)?;
        restarts.push((from, began.elapsed().as_secs_f64()));
        println!("gateway {number} was restarted from {from:.0} s to {:.0} s", restarts[number].1);
        std::thread::sleep(PAUSE);
    }
    let native_ok = load.wait()?.success();
    let native: Value = serde_json::from_slice(&fs::read(out.join("native.json"))?)?;
    let others = swarm.end()?;

    let reconnects = per_second(&native, &others, swarm.offset_s(began));
    let most = reconnects.iter().copied().fold(0.0, f64::max);
    fs::write(out.join("reconnects.svg"), plot(&reconnects, &restarts))?;
    let figures = json!({
        "members": args.native + args.events + args.socketio,
        "reconnects_per_s_max": most,
        "restarts_s": restarts,
        "native": { "ok": native_ok, "closes": native["closes"], "figures": native["figures"], "away": native["times"]["away"], "told": native["told"] },
        "others": { "members": others["members"], "delivered": others["delivered"], "faults": others["faults"],
                    "unrecovered": others["unrecovered"], "told": others["told"] },
    });
    println!("{figures:#}");
    fs::write(out.join("rolling.json"), format!("{figures:#}\n"))?;
    if !native_ok || others["faults"] != 0 {
        bail!("promises were broken");
    }
    Ok(())
}

/// NATS, auth, fanout, gateways, and the front.
struct Site {
    gateways: Vec<Process>,
    _others: Vec<Process>,
}

impl Site {
    fn start(binaries: &std::path::Path, out: &std::path::Path, args: &Args) -> Result<Self> {
        let data = out.join("data");
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(data.join("nats"))?;
        let store = data.join("nats").display().to_string();
        let config = data.join("nats.conf");
        fs::write(&config, format!("listen: 127.0.0.1:{}\njetstream {{ store_dir: {store:?} }}\n", FRONT + 1))?;
        let mut command = Command::new(nats::find_or_fetch_server()?);
        command.arg("--config").arg(&config);
        let mut nats = Process::silent("nats", command, &data);
        nats.start()?;
        let nats_url = format!("--nats-url=nats://127.0.0.1:{}", FRONT + 1);
        let service = |name: &str, args: &[String]| -> Result<Process> {
            let mut command = Command::new(binaries.join(format!("carillon-{name}")));
            // What names the NATS server for this command is no setting of theirs.
            command.env_remove("CARILLON_NATS_SERVER").env("CARILLON_JWT__SECRET", SECRET).args([
                "--admin-listen=127.0.0.1:0",
                &nats_url,
                "--set",
                "log.level=warn",
            ]);
            let mut process = Process::new(
                name,
                {
                    command.args(args);
                    command
                },
                &data,
            );
            process.start()?;
            process.wait_until_up()?;
            Ok(process)
        };
        let auth_port = FRONT + 2;
        let auth = service("auth", &[format!("--listen=127.0.0.1:{auth_port}")])?;
        let fanout = service("fanout", &[])?;
        let gateway = |number: u16| {
            service(
                "gateway",
                &[
                    format!("--listen=127.0.0.1:{}", FRONT + 10 + number),
                    format!("--auth-url=http://127.0.0.1:{auth_port}"),
                    format!("--set=drain.window_ms={}", args.window_ms),
                    "--set=limits.frames_per_second=100000".to_owned(),
                    "--set=limits.frames_burst=100000".to_owned(),
                ],
            )
        };
        let gateways = (0..args.gateways).map(gateway).collect::<Result<_>>()?;
        // A gateway that closes connections as it drains has not failed: a front that took it so would have none left, and a browser
        // that is told 502 comes no more. The next one is tried instead.
        let front = data.join("nginx.conf");
        let servers: String =
            (0..args.gateways).map(|number| format!("server 127.0.0.1:{} max_fails=0;", FRONT + 10 + number)).collect();
        fs::write(
            &front,
            format!(
                "daemon off; master_process off; error_log {0}/nginx.log; pid {0}/nginx.pid; worker_processes 1; worker_rlimit_nofile 20000;\n\
                 events {{ worker_connections 16000; }}\n\
                 http {{ access_log off; upstream gateways {{ {servers} }}\n\
                 map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
                 server {{ listen 127.0.0.1:{FRONT} backlog=4096; location / {{ proxy_pass http://gateways; proxy_http_version 1.1;\n\
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; proxy_set_header Host $host;\n\
                 proxy_buffering off; proxy_read_timeout 1h; proxy_next_upstream error timeout http_503 non_idempotent; }} }} }}\n",
                data.display()
            ),
        )?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&front).arg("-p").arg(&data);
        let mut front = Process::silent("nginx", command, &data);
        front.start().context("Debian's package nginx has what is missing")?;
        Ok(Self { gateways, _others: vec![front, fanout, auth, nats] })
    }

    /// Ends one as an operator does, and starts it again.
    fn restart(&mut self, number: usize) -> Result<()> {
        let gateway = &mut self.gateways[number];
        let status = gateway.end()?;
        if !status.success() {
            bail!("gateway {number} ended with {status}");
        }
        gateway.start()?;
        gateway.wait_until_up()
    }
}

/// The native members, and the publishers.
fn native(binaries: &std::path::Path, args: &Args, seconds: u64, out: &std::path::Path) -> Result<Child> {
    let mut command = Command::new(binaries.join("carillon"));
    command.args(["load", "--url", &format!("ws://127.0.0.1:{FRONT}"), "--prefix", PREFIX, "--settle", "120", "soak"]);
    command.args(["--rooms", &args.rooms.to_string(), "--members", &(args.native / args.rooms).to_string()]);
    command.args(["--publishers", "4", "--rate", &args.rate.to_string(), "--in-flight", "1000", "--drop-every-ms", "0"]);
    command.args(["--seconds", &seconds.to_string()]).arg("--json").arg(out.join("native.json"));
    command.env("CARILLON_JWT__SECRET", SECRET).stdin(Stdio::null()).stdout(fs::File::create(out.join("native.log"))?);
    Ok(command.spawn()?)
}

/// The members by other doors.
struct Swarm {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    began: Instant,
}

impl Swarm {
    fn start(args: &Args) -> Result<Self> {
        let wanted = json!({
            "url": format!("http://127.0.0.1:{FRONT}"), "secret": SECRET, "prefix": PREFIX,
            "rooms": args.rooms, "events": args.events, "socketio": args.socketio,
        });
        let mut command = Command::new("node");
        command.arg(root().join(tools::WEB_TESTS).join("swarm.js")).arg(wanted.to_string());
        let began = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("it was piped")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        if line.trim() != "seated" {
            bail!("the swarm could not come: {line:?}");
        }
        Ok(Self { child, said, began })
    }

    /// How long before `other` its clock began, seconds.
    fn offset_s(&self, other: Instant) -> f64 {
        (other - self.began).as_secs_f64()
    }

    fn end(&mut self) -> Result<Value> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("the swarm said {line:?}"))
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects in each second since the native load began, after the first ones.
fn per_second(native: &Value, others: &Value, offset_s: f64) -> Vec<f64> {
    let mut all: Vec<f64> = Vec::new();
    let mut add = |second: usize, count: f64| {
        if all.len() <= second {
            all.resize(second + 1, 0.0);
        }
        all[second] += count;
    };
    for (tenth, moment) in native["timeline"].as_array().into_iter().flatten().enumerate() {
        add(tenth / 10, moment["connects"].as_f64().unwrap_or_default());
    }
    for (second, count) in others["connects"].as_array().into_iter().flatten().enumerate() {
        // The clocks' seconds do not begin together: half a second either way.
        let at = second as f64 - offset_s;
        if at >= 0.0 {
            add(at.round() as usize, count.as_f64().unwrap_or_default());
        }
    }
    // The load's own members come in the first seconds.
    let skipped = PAUSE.as_secs() as usize - 2;
    all.iter_mut().take(skipped).for_each(|count| *count = 0.0);
    all
}

/// A bar per second; restarts are shaded.
fn plot(per_second: &[f64], restarts: &[(f64, f64)]) -> String {
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 240.0;
    let most = per_second.iter().copied().fold(1.0, f64::max);
    let (x, y) = (
        |second: f64| 50.0 + second / per_second.len() as f64 * (WIDTH - 60.0),
        |count: f64| HEIGHT - 30.0 - count / most * (HEIGHT - 50.0),
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui,sans-serif\" font-size=\"12\" \
         fill=\"#808080\">\n"
    );
    for (from, until) in restarts {
        let (left, right) = (x(*from), x(*until));
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"20\" width=\"{:.1}\" height=\"{}\" fill=\"#fbbf24\" opacity=\"0.25\"/>",
            right - left,
            HEIGHT - 50.0
        );
    }
    for (second, count) in per_second.iter().enumerate() {
        let (left, top) = (x(second as f64), y(*count));
        let width = (x(1.0) - x(0.0) - 1.0).max(1.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"#3b82f6\"/>",
            HEIGHT - 30.0 - top
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"4\" y=\"24\">{most:.0} /s</text><text x=\"50\" y=\"{0}\">0 s</text><text x=\"{1}\" y=\"{0}\" text-anchor=\"end\">{2} s</text>\
         <text x=\"380\" y=\"{0}\" text-anchor=\"middle\">reconnects per second; shaded: a gateway restarts</text></svg>",
        HEIGHT - 10.0,
        WIDTH - 10.0,
        per_second.len()
    );
    svg
}
