//! TLS on the public port: who speaks it is served as ever, and a new certificate holds without anyone being sent away.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::server::{ORIGIN, PATIENCE, SECRET, Server, Shape, run};

/// How often the server looks at its files here.
const LOOK_MS: &str = "20";

/// Where a server finds its certificate.
struct Files {
    folder: TempDir,
}

impl Files {
    /// With a certificate that is good.
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.renew();
        files
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Another certificate, and its key.
    fn renew(&self) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        // The key first: for a moment the two don't belong together.
        std::fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(self.cert(), made.cert.pem()).unwrap();
        made.cert.der().to_vec()
    }

    async fn server(&self) -> Server {
        let (cert, key) = (self.cert(), self.key());
        let settings = [("tls.cert", text(&cert)), ("tls.key", text(&key)), ("tls.reload_ms", LOOK_MS)];
        Server::with(&settings).await
    }

    /// A client that trusts nothing but what is in the file now.
    fn connector(&self, protocols: &[&[u8]]) -> TlsConnector {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cert()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Arc::new(config).into()
    }

    async fn connect(&self, server: &Server, protocols: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(server.listen).await?;
        let name = ServerName::try_from("localhost").unwrap();
        timeout(PATIENCE, self.connector(protocols).connect(name, socket)).await.expect("a handshake in time")
    }

    async fn client(&self, server: &Server, user: &str) -> Client {
        let stream = self.connect(server, &[b"http/1.1"]).await.unwrap();
        let url = format!("wss://localhost/ws?token={}", server.token(user));
        let (socket, _) = client_async(url, stream).await.unwrap();
        let mut client = Client { socket };
        client.expect(r#""type":"connected""#).await;
        client
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Client {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Client {
    async fn say(&mut self, frame: String) {
        self.socket.send(Message::text(frame)).await.unwrap();
    }

    /// The next frame with this in it.
    async fn expect(&mut self, part: &str) -> String {
        let found = async {
            loop {
                match self.socket.next().await.expect("a connection").unwrap() {
                    Message::Text(text) if text.contains(part) => return text.to_string(),
                    Message::Close(close) => panic!("closed: {close:?}"),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {part:?}"))
    }
}

#[tokio::test]
async fn clients_speak_tls() {
    let files = Files::new();
    let server = files.server().await;
    let mut ada = files.client(&server, "ada").await;
    let mut grace = files.client(&server, "grace").await;
    grace.say(r#"{"type":"join","room":"lobby"}"#.to_owned()).await;
    grace.expect(r#""type":"joined""#).await;
    // More than rustls encrypts at once, and more than the sockets take: what is left has to follow.
    let filling = "x".repeat(60_000);
    let speaking = async {
        for number in 1..=100 {
            ada.say(format!(r#"{{"type":"broadcast","room":"lobby","payload":"{filling}","ref":{number}}}"#)).await;
        }
        ada.expect(r#""ref":100,"#).await;
    };
    let listening = async {
        for number in 1..=100 {
            let message = grace.expect(r#""type":"message""#).await;
            assert!(message.contains(&format!(r#""offset":{number},"#)) && message.contains(&filling), "{number}");
        }
    };
    tokio::join!(speaking, listening);
}

#[tokio::test]
async fn protocol_is_agreed_on() {
    let files = Files::new();
    let server = files.server().await;
    let request = || hyper::Request::get("https://localhost/openapi.json").body(Empty::<Bytes>::new()).unwrap();

    let stream = files.connect(&server, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));

    for offered in [&[b"http/1.1".as_slice()][..], &[]] {
        let stream = files.connect(&server, offered).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        assert_eq!(sender.send_request(request()).await.unwrap().status(), 200, "{offered:?}");
    }
}

#[tokio::test]
async fn plain_text_gets_no_answer() {
    let files = Files::new();
    let server = files.server().await;
    let mut socket = TcpStream::connect(server.listen).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it ends");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn new_certificate_sends_nobody_away() {
    let files = Files::new();
    let server = files.server().await;
    let mut ada = files.client(&server, "ada").await;
    let first = std::fs::read(files.cert()).unwrap();

    // A file that is no certificate, as of a disk that is full, changes nothing.
    std::fs::write(files.cert(), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let told = async {
        while !server.logged().contains("stays the old one") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
    std::fs::write(files.cert(), first).unwrap();
    files.connect(&server, &[]).await.unwrap();

    let renewed = files.renew();
    // Whoever trusts only the new one gets in once it is shown.
    let stream = timeout(PATIENCE, async {
        loop {
            match files.connect(&server, &[]).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    });
    let stream = stream.await.expect("the new certificate is shown");
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0].as_ref(), renewed);

    ada.say(r#"{"type":"broadcast","room":"lobby","payload":"still here","ref":1}"#.to_owned()).await;
    ada.expect(r#""type":"ack""#).await;
}

#[tokio::test]
async fn wrong_key_stops_the_start() {
    let (files, others) = (Files::new(), Files::new());
    let (cert, key, other) = (files.cert(), files.key(), others.key());
    let place = [("listen", "127.0.0.1:0"), ("admin_listen", "127.0.0.1:0"), ("jwt.secret", SECRET), ("origins", ORIGIN)];
    for (given, words) in [
        (vec![("tls.cert", text(&cert)), ("tls.key", text(&other))], ["tls.key", "not the key of the certificate"]),
        (vec![("tls.cert", text(&key)), ("tls.key", text(&key))], ["tls.cert", "expected a certificate"]),
        (vec![("tls.cert", text(&cert)), ("tls.key", text(&cert))], ["tls.key", "expected one private key"]),
        (vec![("tls.cert", text(&cert))], ["tls.key", "needed"]),
        (vec![("tls.cert", "/nowhere.pem"), ("tls.key", text(&key))], ["tls.cert", "/nowhere.pem"]),
    ] {
        let data = tempfile::tempdir().unwrap();
        let all: Vec<_> = place.iter().chain(&given).chain(&[("data_dir", text(data.path()))]).copied().collect();
        let (code, stdout, stderr) = run(&["serve"], &all).await;
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "no {words:?} in {stderr}");
    }
}

#[tokio::test]
async fn dev_links_say_https() {
    let files = Files::new();
    let (cert, key) = (files.cert(), files.key());
    let mut server = Server::bare(Shape::Dev, &[("tls.cert", text(&cert)), ("tls.key", text(&key))]).await;
    loop {
        let line = server.stdout_line().await;
        if line.contains("#token=") {
            assert!(line.contains(&format!("https://{}/", server.listen)), "{line}");
            return;
        }
    }
}
