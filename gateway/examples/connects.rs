//! How many connections a gateway takes per second: TCP, upgrade, token, personal room, until `connected` is there.
//!
//! `cargo run --release -p carillon-gateway --example connects -- 127.0.0.1:8080 TOKEN [COUNT] [AT_ONCE]`

use std::{net::SocketAddr, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().and_then(|text| text.parse().ok()).expect("the address of a gateway");
    let token = arguments.next().expect("a token");
    let mut number = |otherwise| arguments.next().map_or(otherwise, |text: String| text.parse().expect("a number"));
    let (count, at_once): (usize, usize) = (number(2000), number(64));
    let started = Instant::now();
    let (mut opening, mut open, mut times) = (JoinSet::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        if opening.len() >= at_once {
            keep(opening.join_next().await, &mut open, &mut times);
        }
        opening.spawn(connect(address, token.clone()));
    }
    while let Some(done) = opening.join_next().await {
        keep(Some(done), &mut open, &mut times);
    }
    let all = started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{} connects, {at_once} at once: {:.0} per second, p50 {} µs, p99 {} µs",
        open.len(),
        count as f64 / all,
        at(50),
        at(99)
    );
}

type Opened = Result<(TcpStream, u128), tokio::task::JoinError>;

fn keep(opened: Option<Opened>, open: &mut Vec<TcpStream>, times: &mut Vec<u128>) {
    let (stream, time) = opened.expect("one is under way").expect("a connection that is welcomed");
    open.push(stream);
    times.push(time);
}

async fn connect(address: SocketAddr, token: String) -> (TcpStream, u128) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("the gateway listens");
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("the gateway reads");
    let mut heard = Vec::new();
    while !heard.windows(11).any(|text| text == b"\"connected\"") {
        assert!(stream.read_buf(&mut heard).await.expect("the gateway writes") > 0, "{}", String::from_utf8_lossy(&heard));
    }
    (stream, started.elapsed().as_micros())
}
