//! `carillon-gateway` as a process, alone in the world: what it tells its clients until NATS and the auth service are there.

#[path = "../../platform/tests/process/mod.rs"]
mod process;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use process::{PATIENCE, Process, command, output, start_command};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-gateway");

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn start_alone() -> Process {
    start_with(&[])
}

fn start_with(environment: &[(&str, &str)]) -> Process {
    let (nats, auth) = (format!("--nats-url=nats://{}", nowhere()), format!("--auth-url=http://{}", nowhere()));
    let args = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", &nats, &auth, "--set", "drain.window_ms=0"];
    start_command(command(BINARY, &args).envs(environment.iter().copied()))
}

/// The close frame that a client gets.
fn close_of(gateway: &Process, token: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(gateway.address("listen")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "GET /ws?token={token} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    // The server ends the connection behind its close frame, at the latest when nothing comes back.
    let _ = socket.read_to_end(&mut answer);
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    answer.split_off(head + 4)
}

#[test]
fn lone_gateway_is_unavailable() {
    let mut gateway = start_alone();
    assert!(gateway.admin("/livez").starts_with("HTTP/1.1 200 "));
    assert!(gateway.admin("/readyz").starts_with("HTTP/1.1 503 "), "the first start is not done without NATS");
    let close = close_of(&gateway, "some-token");
    // FIN and opcode 8; 13 bytes; 4100.
    assert_eq!(close, [&[0x88, 13, 0x10, 0x04], b"unavailable".as_slice()].concat());
    let metrics = gateway.admin("/metrics");
    for line in ["carillon_nats_up 0\n", "carillon_token_checks_total{outcome=\"unavailable\"} 1\n"] {
        assert!(metrics.contains(line), "{line} not in {metrics}");
    }
    gateway.terminate();
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn health_is_an_exit_code() {
    let gateway = start_alone();
    let asked = output(BINARY, &["--health", &format!("--admin-listen={}", gateway.address("admin"))]);
    assert_eq!(asked.status.code(), Some(1), "the first start is not done without NATS");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("starting"), "{asked:?}");
    let nobody = output(BINARY, &["--health", &format!("--admin-listen={}", nowhere())]);
    assert_eq!(nobody.status.code(), Some(1));
}

/// As systemd does it (sd_notify(3)).
#[test]
fn supervisor_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut text = [0; 64];
        let count = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    let mut gateway = start_with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(heard(), "READY=1");
    gateway.terminate();
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn bad_settings_are_64() {
    for bad in [&["--nonsense"][..], &["--auth-url=nowhere"], &["--set", "nats.creds=/nowhere.creds"]] {
        let output = output(BINARY, &[&["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"], bad].concat());
        assert_eq!(output.status.code(), Some(64), "{bad:?}");
        assert!(output.stdout.is_empty());
    }
}
