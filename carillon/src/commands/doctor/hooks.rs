//! Receivers of webhooks: whether somebody is there. Nothing is told to them; a receiver that is away is told later, so that this is no
//! mistake of the settings, but what a mistaken address looks like.

use std::time::Duration;

use carillon_platform::{outbound::Place, settings::Settings};
use tokio::{net::TcpStream, time::timeout};

use super::Findings;

/// How long a receiver may take to let us connect.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn look(settings: &Settings, found: &mut Findings) {
    for hook in &settings.hooks {
        let url = hook.url.as_str();
        let place = match Place::at(&hook.url) {
            Ok(place) => place,
            Err(problem) => {
                found.wrong("hooks", format!("{url}: {problem}: mend its address in `hooks`"));
                continue;
            }
        };
        let (host, port) = place.address();
        match timeout(PATIENCE, TcpStream::connect((host, port))).await {
            Ok(Ok(socket)) => {
                let is_near = socket.peer_addr().is_ok_and(|address| address.ip().is_loopback());
                match place.is_secret() || is_near {
                    true => found.well("hooks", format!("somebody listens at {host}:{port}")),
                    false => {
                        found.doubtful("hooks", format!("{url} is asked in the open: messages can be read on the way; use https"))
                    }
                }
            }
            Ok(Err(error)) => found.wrong("hooks", away(url, &error.to_string())),
            Err(_) => found.wrong("hooks", away(url, "no answer")),
        }
    }
}

fn away(url: &str, why: &str) -> String {
    format!("nobody is at {url} ({why}): start the receiver, or mend its address in `hooks`; what happens meanwhile waits for it")
}
