//! `carillon doctor`: looks at the settings and at the world that they name, and says in one line each what is well, and what is wrong
//! with its mend. It changes nothing.

mod hooks;
mod keys;
mod machine;
mod network;

use std::{fmt, process::ExitCode};

use carillon_platform::settings::{Program, Settings, SettingsArgs};

use crate::fail;

/// Checks the settings and what they name: keys, ports, folders, limits, webhooks, NATS, clocks. Exit code 1 if anything is wrong.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A token that should be accepted
    #[arg(long, env = "CARILLON_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// A running server, whose clock is compared
    #[arg(long, env = "CARILLON_URL", value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Well,
    /// It works, and is worth a look.
    Doubtful,
    /// A start would fail, or something would not work.
    Wrong,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Well => "ok",
            Self::Doubtful => "warn",
            Self::Wrong => "WRONG",
        })
    }
}

/// What was found about one thing.
#[derive(Debug)]
struct Finding {
    mark: Mark,
    about: &'static str,
    /// With the mend, if there is something to mend.
    text: String,
}

/// All of it, in the order in which it is looked at.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn well(&mut self, about: &'static str, text: impl Into<String>) {
        self.0.push(Finding { mark: Mark::Well, about, text: text.into() });
    }

    fn doubtful(&mut self, about: &'static str, text: impl Into<String>) {
        self.0.push(Finding { mark: Mark::Doubtful, about, text: text.into() });
    }

    fn wrong(&mut self, about: &'static str, text: impl Into<String>) {
        self.0.push(Finding { mark: Mark::Wrong, about, text: text.into() });
    }

    fn has(&self, mark: Mark) -> bool {
        self.0.iter().any(|finding| finding.mark == mark)
    }

    fn print(&self) {
        for Finding { mark, about, text } in &self.0 {
            println!("{mark:<5}  {about:<9}  {}", text.replace('\n', " "));
        }
    }
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let mut found = Findings::default();
    match Settings::load(Program::AllInOne, &args.settings) {
        Err(error) => found.wrong("settings", error.to_string()),
        Ok(settings) => {
            found.well("settings", "all of them are known, and can be meant");
            match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
                Ok(runtime) => {
                    runtime.block_on(look(args, &settings, &mut found));
                    runtime.shutdown_background();
                }
                Err(error) => return fail(format!("can't start: {error}")),
            }
        }
    }
    found.print();
    if found.has(Mark::Wrong) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn look(args: &Args, settings: &Settings, found: &mut Findings) {
    let is_cluster = settings.nats.url.is_some();
    keys::look(settings, args.token.as_deref().filter(|token| !token.is_empty()), found).await;
    network::look_at_origins(settings, found);
    network::look_at_tls(settings, found);
    machine::look_at_limits(settings, found);
    machine::look_at_machine(settings, found);
    let is_running = network::look_at_ports(settings, found);
    if !is_cluster {
        machine::look_at_folder(settings, is_running, found);
    }
    hooks::look(settings, found).await;
    if is_cluster {
        network::look_at_nats(settings, found).await;
        network::look_at_auth(settings, found).await;
    }
    let url = args.url.as_deref().filter(|url| !url.is_empty());
    network::look_at_clocks(settings, url, found).await;
}
