//! A running server, as the commands that talk to one see it: where it is, whose token is shown, one native WebSocket at a time, and
//! what its end means. Knows no room.

use std::{
    io,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use carillon_platform::{service::Failure, settings::Program};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Uri, header};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

/// How long a server may take until a connection is open.
const PATIENCE: Duration = Duration::from_secs(15);

/// Header lines of an answer.
const HEAD_BYTES: u64 = 64 * 1024;

/// The longest answer to a question: a page of a thousand rooms is a fifth of it.
const ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// The longest pause before another try.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Which server, and who asks.
#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    /// The server: scheme, host and port
    #[arg(long, env = "CARILLON_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The token to show; other users of the machine can see flags, so rather use CARILLON_TOKEN
    #[arg(long, env = "CARILLON_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

impl ServerArgs {
    /// # Errors
    /// What is missing or can't be meant.
    pub(crate) fn server(&self) -> Result<Server, Failure> {
        let token = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            Failure::settings("no token: set CARILLON_TOKEN or --token; `carillon token --sub NAME` prints one where the key is")
        })?;
        let url = if self.url.trim().is_empty() { "http://127.0.0.1:8080" } else { self.url.trim() };
        Server::parse(url, token).map_err(Failure::Settings)
    }
}

/// Runs a command's work on this thread, and gives its exit code.
pub(crate) fn run(work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let ended = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(work);
            // A read of stdin that waits for its next line must not keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::world(format!("can't start: {error}"))),
    };
    ended.map_or_else(|failure| failure.exit(Program::AllInOne.name()), |()| ExitCode::SUCCESS)
}

/// A server, and a token for it.
pub(crate) struct Server {
    host: String,
    port: u16,
    /// Host and port as the request names them.
    authority: String,
    /// What stands before every path, without a slash at the end.
    base: String,
    token: HeaderValue,
    tls: Option<TlsConnector>,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// An open native connection.
pub(crate) struct Connection {
    socket: WebSocketStream<Box<dyn Wire>>,
}

/// Why a connection is none, or none any more.
#[derive(Debug)]
pub(crate) enum End {
    /// To come back changes nothing: for want of a right, mostly.
    ForGood(String),
    /// Another try may work, after this pause if the server named one.
    ForNow(String, Option<Duration>),
}

/// A frame of the server, as far as any command reads it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Heard {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<u64>,
    pub(crate) room: Option<String>,
    pub(crate) offset: Option<u64>,
    pub(crate) epoch: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) ts: Option<u64>,
    pub(crate) sender: Option<String>,
    pub(crate) payload: Option<Box<RawValue>>,
    #[serde(default)]
    pub(crate) duplicate: bool,
    pub(crate) recovered: Option<bool>,
    pub(crate) reason: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) retry_after_ms: Option<u64>,
}

impl Server {
    /// A server by its address.
    pub(crate) fn parse(url: &str, token: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("--url {url}: {why}; expected something like https://rooms.example.com");
        let uri: Uri = url.parse().map_err(|_| bad("it is no address"))?;
        let is_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(bad("the scheme is http or https")),
        };
        let authority = uri.authority().filter(|it| !it.as_str().contains('@')).ok_or_else(|| bad("it names no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let mut token = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| "the token is none".to_owned())?;
        token.set_sensitive(true);
        let tls = is_tls.then(connector);
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host, port, authority: authority.to_string(), base, token, tls })
    }

    /// Opens a connection that calls its app instance `client`.
    pub(crate) async fn connect(&self, client: &str) -> Result<Connection, End> {
        let place = &self.authority;
        match timeout(PATIENCE, self.open(client)).await {
            Ok(Ok(socket)) => Ok(Connection { socket }),
            Ok(Err(tungstenite::Error::Http(answer))) => {
                let status = answer.status();
                let why = format!("{place} answered {status}: is there a Carillon, and does its proxy let WebSockets through?");
                Err(if status.is_server_error() { End::ForNow(why, None) } else { End::ForGood(why) })
            }
            Ok(Err(tungstenite::Error::Io(error))) => Err(End::ForNow(format!("{place} can't be reached: {error}"), None)),
            Ok(Err(error)) => Err(End::ForNow(format!("{place} does not speak WebSocket: {error}"), None)),
            Err(_) => Err(End::ForNow(format!("{place} does not answer"), None)),
        }
    }

    async fn open(&self, client: &str) -> Result<WebSocketStream<Box<dyn Wire>>, tungstenite::Error> {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        let mut request = format!("{scheme}://{}{}/ws?client={client}", self.authority, self.base).into_client_request()?;
        request.headers_mut().insert(header::AUTHORIZATION, self.token.clone());
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("carillon.v1"));
        let wire = self.dial().await?;
        Ok(client_async(request, wire).await?.0)
    }

    /// What time it is there, if it says so (RFC 9110, section 6.6.1).
    pub(crate) async fn date(&self) -> io::Result<Option<SystemTime>> {
        let mut wire = self.dial().await?;
        let path = if self.base.is_empty() { "/openapi.json" } else { &self.base };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.authority);
        wire.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(wire.take(HEAD_BYTES)).lines();
        while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("date")
            {
                return Ok(httpdate::parse_http_date(value.trim()).ok());
            }
        }
        Ok(None)
    }

    /// Asks for what is at this path, and reads the JSON.
    ///
    /// # Errors
    /// What the server said against it, or why it said nothing.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let place = &self.authority;
        let asked = timeout(PATIENCE, self.fetch(path)).await.map_err(|_| Failure::world(format!("{place} does not answer")))?;
        let (status, body) = asked.map_err(|error| Failure::world(format!("{place} can't be reached: {error}")))?;
        let body: Value = serde_json::from_slice(&body)
            .map_err(|_| Failure::world(format!("{place} answered {status}, and no JSON: is there a Carillon?")))?;
        match status {
            200 => Ok(body),
            _ => Err(Failure::world(format!("{place} refused: {status} {}", body["detail"].as_str().unwrap_or_default()))),
        }
    }

    /// In the manner of HTTP/1.0, where a body ends with its connection (RFC 1945, section 7.2.2).
    async fn fetch(&self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let mut wire = self.dial().await?;
        let token = self.token.to_str().map_err(io::Error::other)?;
        let request = format!("GET {}{path} HTTP/1.0\r\nHost: {}\r\nAuthorization: {token}\r\n\r\n", self.base, self.authority);
        wire.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        match wire.take(ANSWER_BYTES).read_to_end(&mut answer).await {
            // TLS was not ended in good order; whether the answer is whole shows in its JSON.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        let none = || io::Error::other("it does not speak HTTP");
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(none)?;
        let status = std::str::from_utf8(&answer[..head]).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
        Ok((status.ok_or_else(none)?, answer.split_off(head + 4)))
    }

    async fn dial(&self) -> io::Result<Box<dyn Wire>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }
}

/// Trusts whom this machine trusts.
fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what these versions need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

impl Connection {
    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: String) -> Result<(), End> {
        self.socket.send(Message::text(frame)).await.map_err(lost)
    }

    /// The next frame, as it came and as it is read. Pings are answered on the way.
    pub(crate) async fn next(&mut self) -> Result<(String, Heard), End> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let heard = serde_json::from_str(&text)
                        .map_err(|error| End::ForGood(format!("the server says what no Carillon says: {error}")))?;
                    return Ok((text.as_str().to_owned(), heard));
                }
                Some(Ok(Message::Close(close))) => {
                    let (code, reason) =
                        close.map_or((1005, String::new()), |it| (it.code.into(), it.reason.as_str().to_owned()));
                    return Err(closed(code, &reason));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(End::ForNow("the connection broke".into(), None)),
            }
        }
    }
}

fn lost(error: tungstenite::Error) -> End {
    End::ForNow(format!("the connection broke: {error}"), None)
}

/// What a close means for whoever wanted to go on (PROTOCOL.md, closing).
fn closed(code: u16, reason: &str) -> End {
    let told = match code {
        4001 => "the server does not accept the token".to_owned(),
        4003 => "an admin has ended the connection".to_owned(),
        4004 => "the token has expired: get a new one".to_owned(),
        _ => format!("the server closed the connection: {code} {reason}"),
    };
    let pause = reason.strip_prefix("draining retry_ms=").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    if (4000..=4099).contains(&code) || code == 1009 { End::ForGood(told) } else { End::ForNow(told, pause) }
}

/// How long to wait before the next try, after so many in vain: twice as long each time, less up to a half by chance.
pub(crate) fn pause(tries: u32) -> Duration {
    let full = Duration::from_millis(250 << tries.min(6)).min(MAX_PAUSE);
    let chance = getrandom::u32().unwrap_or_default();
    full - full.mul_f64(0.5 * f64::from(chance) / f64::from(u32::MAX))
}

/// A name for this run of a command, as clients have one.
pub(crate) fn name(command: &str) -> String {
    format!("{command}-{:016x}", getrandom::u64().expect("the system has randomness"))
}

/// A text as JSON.
pub(crate) fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let parse = |url: &str| Server::parse(url, "t").map(|it| (it.host.clone(), it.port, it.base.clone(), it.tls.is_some()));
        assert_eq!(parse("http://a:1"), Ok(("a".into(), 1, "".into(), false)));
        assert_eq!(parse("wss://a.b/rooms/"), Ok(("a.b".into(), 443, "/rooms".into(), true)));
        assert_eq!(parse("ws://[::1]:8080"), Ok(("::1".into(), 8080, "".into(), false)));
        for bad in ["", "a", "ftp://a", "http://", "http://me:pass@a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn closes_tell_whether_to_come_back() {
        for code in [4001, 4002, 4003, 4004, 1009] {
            assert!(matches!(closed(code, ""), End::ForGood(_)), "{code}");
        }
        for code in [1000, 1005, 1006, 4100, 4101, 4102, 4103] {
            assert!(matches!(closed(code, ""), End::ForNow(_, None)), "{code}");
        }
        let End::ForNow(_, Some(pause)) = closed(4200, "draining retry_ms=17") else { panic!("come back") };
        assert_eq!(pause.as_millis(), 17);
    }

    #[test]
    fn pauses_stay_bounded() {
        for tries in 0..100 {
            assert!(pause(tries) <= MAX_PAUSE && pause(tries) >= Duration::from_millis(125));
        }
    }
}
