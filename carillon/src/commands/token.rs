//! `carillon token`: prints a token, and nothing else, on stdout.

use std::process::ExitCode;

use carillon_auth::{Authority, dev_key};
use carillon_platform::{
    auth::{IssueError, IssueRequest, TokenIssuer},
    settings::{Settings, SettingsArgs, parse_duration},
};

use crate::{fail, refuse};

/// Issues a token with the key of the settings, or the one that `carillon dev` made in the data folder.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The user; given several times, each gets a token, on a line of its own.
    #[arg(long, required = true)]
    sub: Vec<String>,
    /// How long it is valid: `30s`, `15m`, `1h`, `7d`.
    #[arg(long, default_value = "1h")]
    ttl: String,
    /// What it allows: `[{"rooms":["chat:*"],"can":["join","publish"]}]`; without it, the configured default.
    #[arg(long, value_name = "JSON")]
    grants: Option<String>,
    /// A small object that presence shows.
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    /// Print links to this page instead, with the token behind the `#`, where only the browser sees it.
    #[arg(long, value_name = "URL")]
    page: Option<String>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

pub(crate) fn run(args: &Args, mut settings: Settings) -> ExitCode {
    let ttl = match parse_duration(&args.ttl) {
        Ok(ttl) if ttl.as_secs() > 0 => ttl,
        Ok(_) => return refuse("--ttl: expected one second or more"),
        Err(error) => return refuse(format!("--ttl: {error}")),
    };
    let json = |name: &str, text: &Option<String>| match text {
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| format!("{name}: expected JSON: {error}")),
        None => Ok(None),
    };
    let (grants, info) = match (json("--grants", &args.grants), json("--info", &args.info)) {
        (Ok(grants), Ok(info)) => (grants, info),
        (Err(error), _) | (_, Err(error)) => return refuse(error),
    };
    if settings.jwt.secret.is_none() && settings.jwt.private_key.is_none() {
        if !settings.data_dir.join("dev-key").exists() {
            let folder = settings.data_dir.display();
            return refuse(format!(
                "no key to sign with: set jwt.secret or jwt.private_key, or run `carillon dev` once ({folder} has no dev-key)"
            ));
        }
        match dev_key(&settings.data_dir) {
            Ok(key) => settings.jwt.secret = Some(key),
            Err(error) => return fail(error),
        }
    }
    let authority = match Authority::from_settings(&settings) {
        Ok(authority) => authority,
        Err(error) => return refuse(error),
    };
    let mut lines = String::new();
    for sub in &args.sub {
        let request = IssueRequest { sub: sub.clone(), ttl_s: ttl.as_secs(), grants: grants.clone(), info: info.clone() };
        match futures_util::FutureExt::now_or_never(authority.issue(request)) {
            Some(Ok(issued)) => match &args.page {
                Some(page) => lines += &format!("{sub:<6} {page}#token={}\n", issued.token),
                None => lines += &format!("{}\n", issued.token),
            },
            Some(Err(IssueError::Invalid(error))) => return refuse(error),
            Some(Err(IssueError::Unavailable(error))) => return fail(error),
            None => return fail("the key did not answer"),
        }
    }
    print!("{lines}");
    ExitCode::SUCCESS
}
