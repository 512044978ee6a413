//! `carillon rooms`: the rooms with members, most members first.

use carillon_platform::service::Failure;

use super::{
    server::ServerArgs,
    shown::{self, Shown, encoded},
};

/// Shows the rooms with members, at whichever gateways; needs a token with the grant `admin`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only those whose names hold this
    #[arg(default_value = "")]
    search: String,
    /// Only those whose names begin so
    #[arg(long, default_value = "")]
    prefix: String,
    /// In which order
    #[arg(long, value_parser = ["members", "rate", "name"], default_value = "members")]
    sort: String,
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
    let Args { search, prefix, sort, limit, json, server } = args;
    let query = format!("search={}&prefix={}&sort={sort}&", encoded(&search), encoded(&prefix));
    let columns = &[("MEMBERS", "members"), ("HEAD", "head"), ("PER SECOND", "rate"), ("ROOM", "room")];
    shown::run(&server.server()?, Shown { what: "rooms", query, limit, json, columns }).await
}
