//! Engine.IO that says everything back, on the gateway's own transport: what a conformance suite from outside is held
//! against. `cargo run -p carillon-gateway --example engineio_echo`, then `http://127.0.0.1:3000/engine.io/`.

#[path = "echo/serve.rs"]
mod serve;

use bytes::Bytes;
use carillon_gateway::engineio::{Application, Socket, peer::Over};

struct Echo;

impl Application for Echo {
    fn on_open(&self, _socket: &Socket) {}

    fn on_text(&self, socket: &Socket, text: &str) {
        socket.send(format!("4{text}").into(), Bytes::new());
    }

    fn on_binary(&self, socket: &Socket, bytes: &[u8]) {
        socket.send_binary(Bytes::copy_from_slice(bytes));
    }

    fn on_close(&self, _socket: &Socket, _why: Over) {}
}

fn main() -> anyhow::Result<()> {
    serve::run("/engine.io/", Echo)
}
