//! `carillon load` judges a server. Here it judges an honest one, and the same one behind a proxy that loses, doubles or swaps
//! one message for one member: a judge that can't condemn is worth nothing.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::server::{SECRET, Server, run};

#[derive(Clone, Copy, PartialEq)]
enum Mischief {
    None,
    Lose,
    Double,
    Swap,
}

/// The offset that mischief is done to.
const CHOSEN: &[u8] = br#""offset":7,"#;

/// A proxy before `server` that does mischief once, to the first connection that is sent the chosen message.
async fn proxy(server: SocketAddr, mut mischief: Mischief) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = TcpStream::connect(server).await.unwrap().into_split();
            tokio::spawn(copy(from_client, to_server));
            tokio::spawn(pass_on(from_server, to_client, std::mem::replace(&mut mischief, Mischief::None)));
        }
    });
    address
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mischief: Mischief) {
    let mut bytes = Vec::new();
    let mut is_upgraded = false;
    // Waits for the next frame, to go behind it.
    let mut held = Vec::new();
    while from.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
        let mut out = Vec::new();
        if !is_upgraded {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            out.extend(bytes.drain(..end + 4));
            is_upgraded = true;
        }
        while let Some(length) = frame_bytes(&bytes) {
            let frame: Vec<u8> = bytes.drain(..length).collect();
            let is_chosen = frame.windows(CHOSEN.len()).any(|part| part == CHOSEN);
            match mischief {
                _ if !is_chosen => out.extend(&frame),
                Mischief::None => out.extend(&frame),
                Mischief::Lose => mischief = Mischief::None,
                Mischief::Double => {
                    mischief = Mischief::None;
                    out.extend(frame.iter().chain(&frame));
                }
                Mischief::Swap => {
                    mischief = Mischief::None;
                    held = frame;
                    continue;
                }
            }
            out.append(&mut held);
        }
        if to.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// The length of the first frame, once it is whole: a server's, so unmasked.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let length = match *bytes.get(1)? {
        126 => 4 + u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
        127 => 10 + u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
        length => 2 + length as usize,
    };
    (bytes.len() >= length).then_some(length)
}

async fn judge(address: SocketAddr, scenario: &[&str]) -> (Option<i32>, String) {
    let url = format!("ws://{address}");
    let common = ["--url", &url, "--secret", SECRET, "--settle", "3"];
    let arguments: Vec<&str> = ["load"].iter().chain(scenario).chain(&common).copied().collect();
    let (code, said, complaints) = run(&arguments, &[]).await;
    (code, said + &complaints)
}

const ROOM: [&str; 9] = ["rooms", "--members", "5", "--rate", "40", "--seconds", "1", "--in-flight", "4"];
const SOAK: [&str; 11] = ["soak", "--rooms", "2", "--members", "3", "--rate", "60", "--seconds", "2", "--drop-every-ms", "500"];

#[tokio::test]
async fn honest_server_is_acquitted() {
    let server = Server::with(&[("limits.frames_per_second", "1000"), ("limits.frames_burst", "1000")]).await;
    let address = proxy(server.listen, Mischief::None).await;
    for scenario in [&ROOM[..], &SOAK[..]] {
        let (code, said) = judge(address, scenario).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("nothing lost, doubled or out of order"), "{said}");
    }
}

#[tokio::test]
async fn loss_is_found() {
    is_condemned(Mischief::Lose, "missing before").await;
}

#[tokio::test]
async fn doubles_are_found() {
    is_condemned(Mischief::Double, "came again").await;
}

#[tokio::test]
async fn disorder_is_found() {
    is_condemned(Mischief::Swap, "missing before").await;
}

async fn is_condemned(mischief: Mischief, of: &str) {
    let server = Server::with(&[("limits.frames_per_second", "1000"), ("limits.frames_burst", "1000")]).await;
    let address = proxy(server.listen, mischief).await;
    let (code, said) = judge(address, &ROOM).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("BROKEN PROMISES") && said.contains(of), "{said}");
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    let server = Server::start().await;
    let address = server.listen.to_string();
    let (code, said) = judge(server.listen, &["rooms", "--payload", "10"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--payload"), "{said}");
    let (code, _, said) = run(&["load", "idle", "--url", &format!("wss://{address}"), "--secret", SECRET], &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in the clear"), "{said}");
    let (code, _, said) = run(&["load", "juggle"], &[]).await;
    assert_eq!(code, Some(64), "{said}");
}
