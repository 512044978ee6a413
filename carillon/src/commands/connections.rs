//! `carillon connections`: who is connected, to whichever gateway.

use carillon_platform::service::Failure;

use super::{
    server::ServerArgs,
    shown::{self, Shown, encoded},
};

/// Shows the connections of all gateways; needs a token with the grant `admin`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only those of this user
    #[arg(default_value = "")]
    user: String,
    /// The most that are shown
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    limit: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args { user, limit, json, server } = args;
    let query = format!("user={}&", encoded(&user));
    let columns = &[
        ("GATEWAY", "gateway"),
        ("DOOR", "door"),
        ("ROOMS", "rooms"),
        ("OUTBOX", "outboxBytes"),
        ("SINCE", "since"),
        ("CLIENT", "client"),
        ("ID", "id"),
        ("USER", "user"),
    ];
    shown::run(&server.server()?, Shown { what: "connections", query, limit, json, columns }).await
}
