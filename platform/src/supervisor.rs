//! Tells whoever supervises this process how far it is, where that is asked for: systemd names a socket in `NOTIFY_SOCKET`
//! (sd_notify(3)). Without that variable nothing is said.

#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::{
    ffi::OsStr,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
};

/// The process is up.
pub(crate) fn ready() {
    say("READY=1");
}

/// The process drains. Nothing more is said after this.
pub(crate) fn stopping() {
    say("STOPPING=1");
}

fn say(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, state, "the supervisor at NOTIFY_SOCKET can't be told");
    }
}

/// `@name` is a name that no file has (unix(7), abstract sockets).
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn files_and_names_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("carillon-notify-{}", std::process::id());
        for (socket, address) in [
            (path.clone().into_os_string(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{name}").into(), SocketAddr::from_abstract_name(name.as_bytes()).unwrap()),
        ] {
            let heard = UnixDatagram::bind_addr(&address).unwrap();
            send(&socket, "READY=1").unwrap();
            let mut text = [0; 32];
            let count = heard.recv(&mut text).unwrap();
            assert_eq!(&text[..count], b"READY=1");
        }
    }

    #[test]
    fn nobody_listening_is_an_error() {
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }
}
