//! Somebody who publishes keys at an address and changes them: a small HTTP server, for the tests that need one.
#![allow(dead_code)] // No test needs all of it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};

/// Serves until the process ends.
pub(crate) struct KeyServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What is answered, status and body; none hangs up.
    answer: Mutex<Option<(u16, String)>>,
    asked: AtomicU64,
}

impl KeyServer {
    pub(crate) fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let server = Self { address, shared: shared.clone() };
        server.publish(keys);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(socket));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// From now on, these are the keys.
    pub(crate) fn publish(&self, keys: &[Value]) {
        self.answers(200, &json!({ "keys": keys }).to_string());
    }

    pub(crate) fn answers(&self, status: u16, body: &str) {
        *self.shared.answer.lock().unwrap() = Some((status, body.to_owned()));
    }

    pub(crate) fn hang_up(&self) {
        *self.shared.answer.lock().unwrap() = None;
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut socket: TcpStream) {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
            line.clear();
        }
        self.asked.fetch_add(1, SeqCst);
        let Some((status, body)) = self.answer.lock().unwrap().clone() else { return };
        let length = body.len();
        let _ = write!(socket, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nLocation: http://127.0.0.1:1/\r\n\r\n{body}");
    }
}
