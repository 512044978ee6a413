//! `carillon dev` and `carillon serve`: runs everything, and says where.

use std::process::ExitCode;

use carillon::{AllInOne, Mode};
use carillon_platform::{
    auth::{IssueRequest, TokenIssuer},
    service,
    settings::{Program, Settings},
};

/// The people of the demo.
const DEMO_USERS: [&str; 2] = ["ada", "grace"];
const DEMO_TTL_S: u64 = 24 * 60 * 60;

pub(crate) fn run(mode: Mode, settings: Settings) -> ExitCode {
    service::run(Program::AllInOne, settings, async move |process| {
        let scheme = if process.settings.tls.cert.is_some() { "https" } else { "http" };
        let all = AllInOne::start(mode, process)?;
        let place = format!("{scheme}://{}", all.listen());
        let links = if mode == Mode::Dev { links(&*all.authority(), &place).await } else { String::new() };
        all.run(&links).await
    })
}

async fn links(issuer: &dyn TokenIssuer, place: &str) -> String {
    let mut links = String::from("\nOpen these two side by side:\n");
    for user in DEMO_USERS {
        let request = IssueRequest { sub: user.to_owned(), ttl_s: DEMO_TTL_S, grants: None, info: None };
        // A key that only verifies is a fine set-up; there are no links then.
        let Ok(issued) = issuer.issue(request).await else { return String::new() };
        links.push_str(&format!("  {user:<6} {place}/#token={}\n", issued.token));
    }
    links
}
