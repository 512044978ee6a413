//! `carillon-fanout` as a process, alone in the world.

#[path = "../../platform/tests/process/mod.rs"]
mod process;

use std::net::TcpListener;

use process::{output, start};

const BINARY: &str = env!("CARGO_BIN_EXE_carillon-fanout");

#[test]
fn lone_fanout_waits_for_nats() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut fanout = start(BINARY, &["--admin-listen=127.0.0.1:0", &format!("--nats-url=nats://{nowhere}")]);
    assert!(fanout.ready.starts_with("ready admin=127.0.0.1:"), "{}", fanout.ready);
    assert!(fanout.admin("/readyz").starts_with("HTTP/1.1 503 "));
    assert!(fanout.admin("/metrics").contains("carillon_nats_up 0\n"));
    fanout.terminate();
    assert_eq!(fanout.exit_code(), Some(0));
}

#[test]
fn bad_settings_are_64() {
    for bad in [&["--nonsense"][..], &["--set", "retention=x"]] {
        assert_eq!(output(BINARY, bad).status.code(), Some(64), "{bad:?}");
    }
}
