//! What hostile connections leave behind: nothing that grows. Ten thousand of each kind, by `CARILLON_TEST_HOSTILE=10000`;
//! fewer without it, and only those whose name has it in by `CARILLON_TEST_HOSTILE_KIND=Socket.IO`.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::server::{PATIENCE, Server, Shape};

const AT_ONCE: usize = 50;
/// Allocators keep some of what was freed, but never more and more: of so many rounds of enemies, one leaves less than this, KiB: for
/// each of them, and for all.
const ROUNDS: usize = 8;
const EACH_KIB: u64 = 2;
const SLACK_KIB: u64 = 8 * 1024;
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// One kind of enemy: what it sends, and whether it then waits for the server's end.
struct Kind {
    name: &'static str,
    sends: Vec<u8>,
}

/// A masked client frame (RFC 6455, section 5.2), mask zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn kinds(token: &str) -> Vec<Kind> {
    let upgrade = |token: &str| {
        format!(
            "GET /ws?token={token} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let socketio = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let behind = |token: &str, frames: &[Vec<u8>]| [upgrade(token).into_bytes(), frames.concat()].concat();
    let bad = frame(0x81, b"nonsense");
    let mut fragments = vec![frame(0x01, b"")];
    fragments.resize(5000, frame(0x00, b""));
    vec![
        Kind { name: "silent", sends: Vec::new() },
        Kind { name: "half a head", sends: b"GET /ws HTTP/1.1\r\nhost: a\r\nx:".to_vec() },
        Kind { name: "endless head", sends: format!("GET /ws HTTP/1.1\r\nx: {}", "x".repeat(60_000)).into_bytes() },
        Kind { name: "no HTTP", sends: vec![0x16, 3, 1, 2, 0, 1, 0, 1] },
        Kind { name: "bad token", sends: behind("nonsense", &[]) },
        Kind { name: "bad frames", sends: behind(token, &[vec![bad; 12].concat()]) },
        Kind { name: "too large", sends: behind(token, &[frame(0x81, &vec![b'x'; 70_000])]) },
        Kind { name: "fragments", sends: behind(token, &fragments) },
        Kind { name: "many headers", sends: format!("GET /ws HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(5000)).into_bytes() },
        Kind {
            name: "slow body",
            sends: format!(
                "POST /rooms/r/messages HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
                 content-type: application/json\r\ncontent-length: 60000\r\n\r\n{{\"payload\":"
            )
            .into_bytes(),
        },
        Kind {
            name: "stream without token",
            sends: b"GET /events/eve HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec(),
        },
        Kind {
            name: "Socket.IO without CONNECT",
            sends: b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec(),
        },
        Kind { name: "Socket.IO nonsense", sends: [socketio.as_bytes(), &frame(0x81, b"42[")].concat() },
        Kind { name: "Socket.IO bad token", sends: [socketio.as_bytes(), &frame(0x81, br#"40{"token":"x"}"#)].concat() },
        Kind { name: "HTTP/2 nonsense", sends: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 20_000]].concat() },
        Kind { name: "compressed", sends: behind(token, &[frame(0xc1, &[0; 1000])]) },
        Kind { name: "not masked", sends: behind(token, &[vec![0x81, 1, b'x']]) },
        Kind { name: "not UTF-8", sends: behind(token, &[frame(0x81, &[0xff])]) },
        Kind {
            name: "deep",
            sends: behind(
                token,
                &[
                    frame(0x81, format!(r#"{{"type":"broadcast","room":"r","payload":{}"#, "[".repeat(60_000)).as_bytes()),
                    frame(0x88, b""),
                ],
            ),
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_leave_nothing() {
    let count: usize = std::env::var("CARILLON_TEST_HOSTILE").map_or(400, |count| count.parse().unwrap());
    let settings = [
        ("limits.handshake_ms", "200"),
        ("limits.connections_per_user", "1000000"),
        // The bystander reads nothing meanwhile.
        ("heartbeat.interval_ms", "3600000"),
        ("limits.frames_per_second", "1000000"),
        ("limits.frames_burst", "1000000"),
        ("log.level", "warn"),
    ];
    let server = Server::shaped(Shape::Serve, &settings).await;
    let mut bystander = server.connect("bob").await;
    let only = std::env::var("CARILLON_TEST_HOSTILE_KIND").unwrap_or_default();
    for Kind { name, sends } in kinds(&server.token("eve")).into_iter().filter(|kind| kind.name.contains(&only)) {
        let per_round = count.div_ceil(2 * AT_ONCE) * AT_ONCE;
        let slack = SLACK_KIB.min(EACH_KIB * per_round as u64);
        // What the first ones leave is what the server keeps for all.
        enemies(&server, &sends, per_round).await;
        let mut seen = vec![server.resident_kib()];
        let has_grown = loop {
            enemies(&server, &sends, per_round).await;
            let before = seen[seen.len() - 1];
            seen.push(settled(&server, before + slack).await);
            let has_grown = seen[seen.len() - 1] >= before + slack;
            if !has_grown || seen.len() > ROUNDS {
                break has_grown;
            }
        };
        println!("{name}: resident KiB after each {per_round} of them: {seen:?}");
        assert!(!has_grown, "{name}: {seen:?}, and {slack} are allowed");
        bystander.heard_nothing_else().await;
    }
}

async fn enemies(server: &Server, sends: &[u8], count: usize) {
    for _ in 0..count / AT_ONCE {
        let enemies: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(enemy(server.listen, sends.to_vec()))).collect();
        for enemy in enemies {
            enemy.await.unwrap();
        }
    }
    server.until_metric("carillon_connections", 1).await;
}

/// What is resident when it is below this, or after a while: what still waits for a client that polls is given up when its time
/// is over, and allocators give back later than that.
async fn settled(server: &Server, below_kib: u64) -> u64 {
    let started = Instant::now();
    loop {
        let resident = server.resident_kib();
        if resident < below_kib || started.elapsed() > SETTLED_AFTER {
            return resident;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends all, and reads until the server ends it.
async fn enemy(address: std::net::SocketAddr, sends: Vec<u8>) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let _ = timeout(Duration::from_secs(5), socket.write_all(&sends)).await;
    let mut scratch = [0; 4096];
    let ended = timeout(PATIENCE, async { while socket.read(&mut scratch).await.is_ok_and(|count| count > 0) {} });
    ended.await.expect("the server ends it in time");
}
