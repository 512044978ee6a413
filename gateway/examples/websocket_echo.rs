//! WebSockets that say everything back, on the gateway's own handshake and frames: what a conformance suite from outside is held
//! against. `cargo run -p carillon-gateway --example websocket_echo`, then `ws://127.0.0.1:9001`.

use std::convert::Infallible;

use carillon_gateway::websocket::{
    codec::{self, Decoder, Event, Violation},
    handshake,
};
use http_body_util::Empty;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// An argument of the command line names another one.
const LISTEN: &str = "127.0.0.1:9001";
/// The longest message of the suite, in bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).as_deref().unwrap_or(LISTEN)).await?;
    println!("listening on ws://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades());
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Empty<&'static [u8]>>, Infallible> {
    let Ok(accept) = handshake::accept(&request) else {
        let mut refusal = Response::new(Empty::new());
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(refusal);
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            // Who goes without a word has nothing to be told.
            let _ = echo(TokioIo::new(upgraded)).await;
        }
    });
    Ok(handshake::switching(&accept))
}

async fn echo(mut socket: impl AsyncReadExt + AsyncWriteExt + Unpin) -> std::io::Result<()> {
    let (mut decoder, mut unread, mut answers) = (Decoder::default(), Vec::new(), Vec::new());
    let mut is_over = false;
    while !is_over && socket.read_buf(&mut unread).await? > 0 {
        let read = decoder.feed(&mut unread, MAX_MESSAGE, |event| {
            match event {
                Event::Text(text) => codec::append_text_frame(&mut answers, |out| out.extend_from_slice(text.as_bytes())),
                Event::Binary(bytes) => {
                    answers.extend_from_slice(&codec::binary_header(bytes.len()));
                    answers.extend_from_slice(bytes);
                }
                Event::Ping(payload) => answers.extend_from_slice(&codec::pong_frame(payload)),
                Event::Pong => {}
                Event::Close(code) => {
                    answers.extend_from_slice(&codec::close_frame(code, ""));
                    is_over = true;
                }
            }
            true
        });
        match read {
            Ok(used) => drop(unread.drain(..used)),
            Err(violation) => {
                let code = match violation {
                    Violation::Protocol => 1002,
                    Violation::NotUtf8 => 1007,
                    Violation::TooBig => 1009,
                };
                answers.extend_from_slice(&codec::close_frame(Some(code), ""));
                is_over = true;
            }
        }
        socket.write_all(&answers).await?;
        answers.clear();
    }
    socket.shutdown().await
}
