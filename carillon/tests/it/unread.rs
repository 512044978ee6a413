//! Answers over HTTP that nobody reads: a user may have so many bytes of them, all together so many, and a client that takes nothing for
//! too long is let go.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    http::Call,
    server::{PATIENCE, Server},
};

const HOUR: &str = "3600000";

/// A room whose history is one answer of 6 MiB.
async fn fill(server: &Server) {
    let mut ada = server.connect("ada").await;
    let payload = format!(r#""{}""#, "x".repeat(60_000));
    for _ in 0..5 {
        ada.say_all("lobby", vec![payload.clone(); 21]).await;
    }
}

fn question(token: &str) -> String {
    format!("GET /rooms/lobby/messages?limit=1000 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")
}

/// The first that a client of HTTP/2 says: the preface, settings that leave each answer so many bytes at first (RFC 9113, section 6.5.2),
/// and a question.
pub(crate) fn http2_question(token: &str, path: &str, window: u32) -> Vec<u8> {
    // A literal without indexing (RFC 7541, section 6.2.2), its length in seven bits and more behind them (section 5.1).
    let field = |name: &str, value: &str| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name.bytes());
        match value.len() {
            short @ 0..127 => field.push(short as u8),
            long => field.extend([127, ((long - 127) % 128 + 128) as u8, ((long - 127) / 128) as u8]),
        }
        field.extend(value.bytes());
        field
    };
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let fields = [
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "a"),
        field("authorization", &format!("Bearer {token}")),
    ];
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &settings), frame(1, 5, 1, &fields.concat())].concat()
}

/// Asks, and reads nothing. The kernel keeps little for it.
async fn unread(to: SocketAddr, request: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(to).await.unwrap();
    socket.write_all(request).await.unwrap();
    socket
}

/// The status of an answer of which no more is read.
async fn status(socket: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    timeout(PATIENCE, socket.read_exact(&mut head)).await.expect("an answer in time").unwrap();
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

/// Until this question has an answer with this status.
async fn until_answered(server: &Server, token: &str, limit: u32, status: u16) {
    let answered = timeout(PATIENCE, async {
        let ask = || Call::new("GET", &format!("/rooms/lobby/messages?limit={limit}")).token(token);
        while ask().to(server).await.status != status {}
    });
    answered.await.unwrap_or_else(|_| panic!("never {status}"));
}

/// Until the server has closed it, whatever there is to read before.
async fn until_closed(mut socket: TcpStream) {
    let mut scratch = vec![0; 1 << 20];
    let ended = timeout(PATIENCE, async { while socket.read(&mut scratch).await.is_ok_and(|count| count > 0) {} });
    ended.await.expect("the server closes it");
}

#[tokio::test]
async fn unread_answers_of_a_user_are_bounded() {
    // Room for two of them.
    let settings =
        [("limits.answers_user_bytes", "16777216"), ("limits.answer_stall_ms", HOUR), ("limits.request_timeout_ms", HOUR)];
    let server = Server::with(&settings).await;
    fill(&server).await;
    let (greedy, other) = (server.token("greedy"), server.token("other"));
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(unread(server.listen, question(&greedy).as_bytes()).await);
    }
    let mut refused = Vec::new();
    let mut answered = Vec::new();
    for mut socket in sockets {
        match status(&mut socket).await {
            200 => answered.push(socket),
            429 => refused.push(socket),
            other => panic!("{other}"),
        }
    }
    assert!((1..=2).contains(&answered.len()), "{}", answered.len());
    let mut problem = String::new();
    let mut one = refused.pop().unwrap();
    one.shutdown().await.unwrap();
    timeout(PATIENCE, one.read_to_string(&mut problem)).await.expect("an end in time").unwrap();
    assert!(problem.contains("retry-after: 1\r\n") && problem.contains(r#""code":"rate_limited""#), "{problem}");
    // Whoever reads is answered; and so is this one, once it has read or is gone.
    until_answered(&server, &other, 1000, 200).await;
    drop(answered);
    until_answered(&server, &greedy, 1000, 200).await;
}

#[tokio::test]
async fn unread_answers_of_all_are_bounded() {
    // Room for one of them.
    let settings =
        [("limits.answers_total_bytes", "8388608"), ("limits.answer_stall_ms", HOUR), ("limits.request_timeout_ms", HOUR)];
    let server = Server::with(&settings).await;
    fill(&server).await;
    let mut sockets = Vec::new();
    for user in 0..4 {
        let token = server.token(&format!("user{user}"));
        sockets.push(unread(server.listen, question(&token).as_bytes()).await);
    }
    let mut statuses = Vec::new();
    for socket in &mut sockets {
        statuses.push(status(socket).await);
    }
    statuses.sort_unstable();
    assert!(statuses[0] == 200 && statuses[1..] == [503; 3], "{statuses:?}");
    drop(sockets);
    until_answered(&server, &server.token("late"), 1000, 200).await;
}

#[tokio::test]
async fn who_takes_nothing_is_let_go() {
    let server = Server::with(&[("limits.answer_stall_ms", "1000")]).await;
    fill(&server).await;
    let token = server.token("greedy");
    let socket = unread(server.listen, question(&token).as_bytes()).await;
    server.until_metric("carillon_answers_stalled_total", 1).await;
    until_closed(socket).await;

    // The same over HTTP/2, by a client whose window is shut.
    let request = http2_question(&token, "/rooms/lobby/messages?limit=1000", 0);
    let socket = unread(server.listen, &request).await;
    server.until_metric("carillon_answers_stalled_total", 2).await;
    until_closed(socket).await;
}
