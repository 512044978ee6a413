//! `carillon dev` and `carillon serve`: runs everything, and says where.

use std::{io::Write as _, net::SocketAddr, process::ExitCode};

use carillon::{AllInOne, Mode, StartError};
use carillon_platform::{
    auth::{IssueRequest, TokenIssuer},
    logging,
    settings::Settings,
    shutdown::Shutdown,
};

use crate::{fail, refuse};

/// The people of the demo.
const DEMO_USERS: [&str; 2] = ["ada", "grace"];
const DEMO_TTL_S: u64 = 24 * 60 * 60;

pub(crate) fn run(mode: Mode, settings: Settings) -> ExitCode {
    let _ = logging::start(&settings.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format!("can't start threads: {error}")),
    };
    runtime.block_on(async {
        let shutdown = match Shutdown::on_signals() {
            Ok(shutdown) => shutdown,
            Err(error) => return fail(format!("can't listen to signals: {error}")),
        };
        let process = match AllInOne::start(mode, settings).await {
            Ok(process) => process,
            Err(StartError::Settings(error)) => return refuse(error),
            Err(StartError::World(error)) => return fail(error),
        };
        let (listen, admin, authority) = (process.listen(), process.admin_listen(), process.authority());
        let links = if mode == Mode::Dev { links(&*authority, listen).await } else { String::new() };
        let said = process.run(shutdown.clone(), || {
            // Whoever reads this line may have gone: that ends nothing.
            let _ = write!(std::io::stdout(), "ready listen={listen} admin={admin}\n{links}");
            let _ = std::io::stdout().flush();
        });
        match said.await {
            Ok(()) => shutdown.exit_code(),
            Err(error) => fail(error),
        }
    })
}

async fn links(issuer: &dyn TokenIssuer, listen: SocketAddr) -> String {
    let mut links = String::from("\nOpen these two side by side:\n");
    for user in DEMO_USERS {
        let request = IssueRequest { sub: user.to_owned(), ttl_s: DEMO_TTL_S, grants: None, info: None };
        // A key that only verifies is a fine set-up; there are no links then.
        let Ok(issued) = issuer.issue(request).await else { return String::new() };
        links.push_str(&format!("  {user:<6} http://{listen}/#token={}\n", issued.token));
    }
    links
}
