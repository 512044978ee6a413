//! Socket.IO that says events back, on the gateway's own transport: what a conformance suite from outside is held against.
//! `cargo run -p carillon-gateway --example socketio_echo`, then `http://127.0.0.1:3000/socket.io/`.

#[path = "echo/serve.rs"]
mod serve;

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use bytes::Bytes;
use carillon_gateway::{
    engineio::{Application, Socket, peer::Over},
    socketio::{
        client::{Arrived, Client, Event},
        packet::{self, Malformed},
    },
};
use tokio::sync::mpsc;

const NAMESPACES: [&str; 2] = ["/", "/custom"];
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Between CONNECT and `auth`. What is queued at once leaves in one write, and a suite that waits for one frame after the other
/// on a bare WebSocket loses the second one of a chunk. Far below the ping interval, so that no ping comes between.
const CONNECT_AHEAD: Duration = Duration::from_millis(25);

#[derive(Default)]
struct Echo {
    clients: Rc<RefCell<HashMap<u64, Known>>>,
}

struct Known {
    client: Client,
    answers: mpsc::UnboundedSender<Answer>,
}

/// What a message leads to.
#[derive(Default)]
struct Answer {
    packets: Vec<String>,
    attachments: Vec<Vec<u8>>,
    accepts: Option<String>,
    refuses: Option<String>,
}

impl Echo {
    fn act(&self, socket: &Socket, arrive: impl FnOnce(&mut Client) -> Result<Answer, Malformed>) {
        let mut clients = self.clients.borrow_mut();
        let Some(Known { client, answers }) = clients.get_mut(&socket.number()) else { return };
        match arrive(client) {
            Ok(answer) => {
                answer.accepts.iter().for_each(|namespace| client.accept(namespace));
                answer.refuses.iter().for_each(|namespace| client.refuse(namespace));
                answers.send(answer).expect("its task takes answers for as long as the client is known");
            }
            Err(Malformed(_)) => socket.close(None),
        }
    }
}

/// Says one answer after the other.
async fn say(socket: Socket, mut answers: mpsc::UnboundedReceiver<Answer>) {
    while let Some(Answer { packets, attachments, accepts, .. }) = answers.recv().await {
        for packet in packets {
            socket.send(packet.into(), Bytes::new());
            if accepts.is_some() {
                tokio::time::sleep(CONNECT_AHEAD).await;
            }
        }
        attachments.into_iter().for_each(|bytes| socket.send_binary(bytes.into()));
    }
}

fn answer(socket: &Socket, arrived: Arrived<'_>) -> Answer {
    match arrived {
        Arrived::Connect { namespace, auth } if NAMESPACES.contains(&namespace) => {
            let connect = packet::connect(namespace, &format!("{}-{}", socket.sid(), namespace.len()), None);
            let event = packet::event_of(namespace, &format!(r#"["auth",{auth}]"#), 0);
            Answer { packets: vec![connect, event], accepts: Some(namespace.to_owned()), ..Answer::default() }
        }
        Arrived::Connect { namespace, .. } => {
            let error = packet::connect_error(namespace, "Invalid namespace");
            Answer { packets: vec![error], refuses: Some(namespace.to_owned()), ..Answer::default() }
        }
        Arrived::Event(event) => {
            Answer { packets: echo(&event).into_iter().collect(), attachments: event.attachments.to_vec(), ..Answer::default() }
        }
        Arrived::Disconnect { .. } | Arrived::Nothing => Answer::default(),
    }
}

fn echo(event: &Event<'_>) -> Option<String> {
    let (name, said) = packet::arguments(event.arguments);
    let said: Vec<&str> = said.iter().map(|argument| argument.get()).collect();
    let attachments = event.attachments.len();
    match (&*name, event.id) {
        ("message", _) => {
            let all = ["\"message-back\""].into_iter().chain(said).collect::<Vec<_>>().join(",");
            Some(packet::event_of(event.namespace, &format!("[{all}]"), attachments))
        }
        ("message-with-ack", Some(id)) => Some(packet::ack(event.namespace, id, &format!("[{}]", said.join(",")), attachments)),
        _ => None,
    }
}

impl Application for Echo {
    fn on_open(&self, socket: &Socket) {
        let (answers, said) = mpsc::unbounded_channel();
        self.clients.borrow_mut().insert(socket.number(), Known { client: Client::default(), answers });
        tokio::task::spawn_local(say(socket.clone(), said));
        let (clients, socket) = (self.clients.clone(), socket.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(CONNECT_WITHIN).await;
            if clients.borrow().get(&socket.number()).is_some_and(|known| known.client.is_idle()) {
                socket.close(None);
            }
        });
    }

    fn on_text(&self, socket: &Socket, text: &str) {
        self.act(socket, |client| client.on_text(text, |arrived| answer(socket, arrived)));
    }

    fn on_binary(&self, socket: &Socket, bytes: &[u8]) {
        self.act(socket, |client| client.on_binary(bytes, |arrived| answer(socket, arrived)));
    }

    fn on_close(&self, socket: &Socket, _why: Over) {
        self.clients.borrow_mut().remove(&socket.number());
    }
}

fn main() -> anyhow::Result<()> {
    serve::run("/socket.io/", Echo::default())
}
