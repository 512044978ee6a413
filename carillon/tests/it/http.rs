//! The HTTP door: what a backend or `curl` may ask, and what each mistake is answered.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::server::{Answer, ORIGIN, Server, ask};

/// A request that ends its connection.
pub(crate) struct Call {
    pub(crate) head: String,
    body: Vec<u8>,
}

impl Call {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { head: format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"), body: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json").body(body.as_bytes())
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.head += &format!("content-length: {}\r\n", body.len());
        self.body = body.to_vec();
        self
    }

    pub(crate) async fn to(self, server: &Server) -> Answer {
        let mut request = format!("{}\r\n", self.head).into_bytes();
        request.extend(self.body);
        ask(server.listen, request).await
    }
}

fn post(room: &str, body: &str) -> Call {
    Call::new("POST", &format!("/rooms/{room}/messages")).json(body)
}

/// The status and the `code` of a problem.
fn problem(answer: &Answer) -> (u16, String) {
    assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["status"], answer.status, "{}", answer.body);
    assert!(body["type"].is_string() && body["title"].is_string() && body["detail"].is_string(), "{}", answer.body);
    (answer.status, body["code"].as_str().unwrap().to_owned())
}

fn value(answer: &Answer) -> serde_json::Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("not JSON: {} {}", answer.head, answer.body))
}

#[tokio::test]
async fn published_over_http_is_a_message_like_any_other() {
    let server = Server::start().await;
    let token = server.token("backend");
    let mut ada = server.connect("ada").await;
    ada.join("chat:1/ä").await;
    let answer = post("chat:1%2F%C3%A4", r#"{"payload": {"a":1e400,"a":1.0} }"#).token(&token).to(&server).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let stored = value(&answer);
    assert_eq!(stored.as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "offset", "room", "ts"]);
    assert_eq!((&stored["room"], &stored["offset"]), (&"chat:1/ä".into(), &1.into()));
    let message = ada.expect("message").await;
    assert_eq!(message.json("payload"), r#"{"a":1e400,"a":1.0}"#);
    assert_eq!((message.text("sender").as_str(), message.number("offset")), ("backend", 1));
    assert_eq!(message.text("id"), stored["id"].as_str().unwrap());
    // Not stored, so it has no place.
    let answer = post("chat:1%2F%C3%A4", r#"{"payload":"typing","ephemeral":true}"#).token(&token).to(&server).await;
    assert_eq!((answer.status, value(&answer).as_object().unwrap().len()), (201, 2), "{}", answer.body);
    assert!(ada.expect("message").await.flag("ephemeral"));
}

#[tokio::test]
async fn repeats_are_answered_with_the_first() {
    let server = Server::start().await;
    let token = server.token("backend");
    let first = post("lobby", r#"{"payload":1,"key":"k"}"#).token(&token).to(&server).await;
    assert_eq!(first.status, 201);
    for repeat in [
        post("lobby", r#"{"payload":2,"key":"k"}"#),
        post("lobby", r#"{"payload":2}"#).header("idempotency-key", "k"),
        post("lobby", r#"{"payload":2,"key":"k"}"#).header("idempotency-key", "k"),
    ] {
        let answer = repeat.token(&token).to(&server).await;
        let (first, again) = (value(&first), value(&answer));
        assert_eq!((answer.status, &again["duplicate"]), (200, &true.into()), "{}", answer.body);
        assert_eq!([&again["offset"], &again["id"], &again["ts"]], [&first["offset"], &first["id"], &first["ts"]]);
    }
    let both = post("lobby", r#"{"payload":2,"key":"k"}"#).header("idempotency-key", "other");
    assert_eq!(problem(&both.token(&token).to(&server).await), (400, "bad_request".into()));
}

#[tokio::test]
async fn client_header_excludes_the_senders_own() {
    let server = Server::start().await;
    let token = server.token("ada");
    let (mut phone, mut laptop) = (server.connect_as("ada", "phone").await, server.connect_as("ada", "laptop").await);
    phone.join("lobby").await;
    laptop.join("lobby").await;
    let say = |body| post("lobby", body).token(&token).header("carillon-client", "phone");
    assert_eq!(say(r#"{"payload":1,"key":"first"}"#).to(&server).await.status, 201);
    assert_eq!(say(r#"{"payload":2,"echo":true}"#).to(&server).await.status, 201);
    laptop.hears(1..=2).await;
    // Told in its place, so that it can go on counting.
    let own = phone.expect("own").await;
    assert_eq!((own.number("offset"), own.text("key").as_str()), (1, "first"));
    phone.hears(2..=2).await;
    // In nobody's name: everyone is told.
    assert_eq!(post("lobby", r#"{"payload":3}"#).token(&token).to(&server).await.status, 201);
    phone.hears(3..=3).await;
    laptop.hears(3..=3).await;
}

#[tokio::test]
async fn history_is_read_in_pages() {
    let server = Server::start().await;
    let token = server.token("ada");
    server.connect("ada").await.count("lobby", 1..=5).await;
    let offsets = async |query: &str| {
        let answer = Call::new("GET", &format!("/rooms/lobby/messages{query}")).token(&token).to(&server).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page = value(&answer);
        assert_eq!(page.as_object().unwrap().keys().collect::<Vec<_>>(), ["epoch", "messages", "more"]);
        let offsets: Vec<u64> =
            page["messages"].as_array().unwrap().iter().map(|message| message["offset"].as_u64().unwrap()).collect();
        (offsets, page["more"].as_bool().unwrap())
    };
    assert_eq!(offsets("").await, (vec![1, 2, 3, 4, 5], false));
    assert_eq!(offsets("?after=&before=&limit=").await, (vec![1, 2, 3, 4, 5], false));
    assert_eq!(offsets("?limit=2").await, (vec![4, 5], true));
    assert_eq!(offsets("?before=3&limit=1").await, (vec![2], true));
    assert_eq!(offsets("?after=3").await, (vec![4, 5], false));
    for query in
        ["?after=1&before=2", "?limit=0", "?limit=1001", "?after=-1", "?after=%2B1", "?before=0", "?limit=1.0", "?after=x"]
    {
        let answer = Call::new("GET", &format!("/rooms/lobby/messages{query}")).token(&token).to(&server).await;
        assert_eq!(problem(&answer), (400, "bad_request".into()), "{query}");
    }
}

#[tokio::test]
async fn presence_names_who_is_there() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join("lobby").await;
    let answer = Call::new("GET", "/rooms/lobby/presence").token(&server.token("bob")).to(&server).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"count":1,"members":[{"userId":"ada","connections":1}]}"#));
}

#[tokio::test]
async fn mistakes_have_their_answers() {
    let server = Server::with(&[("limits.frame_bytes", "1000")]).await;
    let token = server.token("ada");
    let nothing = server.token_for("ada", "[]");
    let good = r#"{"payload":1}"#;
    let messages = "/rooms/lobby/messages";
    let get = |path: &str| Call::new("GET", path).token(&token);
    let deep = |depth| format!(r#"{{"payload":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let cases: Vec<(Call, u16, &str)> = vec![
        (post("lobby", good), 401, "unauthorized"),
        (post("lobby", good).token("nonsense"), 401, "unauthorized"),
        (post("lobby", good).header("authorization", "Basic eA=="), 401, "unauthorized"),
        (Call::new("GET", messages), 401, "unauthorized"),
        (Call::new("GET", "/rooms/lobby/presence"), 401, "unauthorized"),
        (post("lobby", good).token(&nothing), 403, "forbidden"),
        (Call::new("GET", messages).token(&nothing), 403, "forbidden"),
        (Call::new("GET", "/rooms/lobby/presence").token(&nothing), 403, "forbidden"),
        (post("user:bob", good).token(&token), 403, "forbidden"),
        (post("lobby", good).token(&token).header("origin", "https://evil.example"), 403, "forbidden"),
        (post("%20a", good).token(&token), 400, "room_invalid"),
        (post("a%0Ab", good).token(&token), 400, "room_invalid"),
        (post(&"x".repeat(129), good).token(&token), 400, "room_invalid"),
        (post("", good).token(&token), 400, "room_invalid"),
        (post("%FF", good).token(&token), 400, "bad_request"),
        (post("lobby", "").token(&token), 400, "bad_request"),
        (post("lobby", "nonsense").token(&token), 400, "bad_request"),
        (post("lobby", "[1]").token(&token), 400, "bad_request"),
        (post("lobby", "{}").token(&token), 400, "bad_request"),
        (post("lobby", r#"{"payload":1,"key":""}"#).token(&token), 400, "bad_request"),
        (post("lobby", r#"{"payload":1,"echo":"yes"}"#).token(&token), 400, "bad_request"),
        (post("lobby", r#"{"payload":1,"payload":2}"#).token(&token), 400, "bad_request"),
        (post("lobby", &deep(65)).token(&token), 400, "bad_request"),
        (post("lobby", good).token(&token).header("idempotency-key", ""), 400, "bad_request"),
        (post("lobby", good).token(&token).header("idempotency-key", &"k".repeat(65)), 400, "bad_request"),
        (post("lobby", good).token(&token).header("carillon-client", "a b"), 400, "bad_request"),
        (
            Call::new("POST", messages).token(&token).header("content-type", "application/json").body(b"{\"payload\":\"\xff\"}"),
            400,
            "bad_request",
        ),
        (Call::new("POST", messages).token(&token).body(good.as_bytes()), 415, "bad_request"),
        (
            Call::new("POST", messages).token(&token).header("content-type", "text/plain").body(good.as_bytes()),
            415,
            "bad_request",
        ),
        (post("lobby", &format!(r#"{{"payload":"{}"}}"#, "x".repeat(987))).token(&token), 413, "payload_too_large"),
        (get("/nothing"), 404, "bad_request"),
        (get("/rooms"), 404, "bad_request"),
        (get("/rooms/a/b/messages"), 404, "bad_request"),
        (get("/rooms/lobby/messages/1"), 404, "bad_request"),
        (Call::new("DELETE", messages).token(&token), 405, "bad_request"),
    ];
    for (call, status, code) in cases {
        let what = call.head.clone();
        let answer = call.to(&server).await;
        assert_eq!(problem(&answer), (status, code.to_owned()), "{what}");
        assert_eq!(answer.head.contains("www-authenticate: bearer"), status == 401, "{what}");
    }
    // What is just within the limits.
    let longest = format!(r#"{{"payload":"{}"}}"#, "x".repeat(986));
    assert_eq!(longest.len(), 1000);
    for body in [longest, deep(64)] {
        assert_eq!(post("lobby", &body).token(&token).to(&server).await.status, 201, "{body}");
    }
    assert_eq!(server.connect("ada").await.history("lobby", "").await.offsets(), [1, 2]);
}

/// Most clients look for an answer once they have written all, and take a connection that is reset meanwhile for a failure.
#[tokio::test]
async fn who_still_writes_can_read_why_not() {
    const LARGE: usize = 4 << 20;
    let server = Server::start().await;
    let ada = server.token("ada");
    let opened = Call::new("GET", "/socket.io/?EIO=4&transport=polling").to(&server).await;
    let open: serde_json::Value = serde_json::from_str(&opened.body[1..]).unwrap();
    let poll = format!("/socket.io/?EIO=4&transport=polling&sid={}", open["sid"].as_str().unwrap());
    let messages = "/rooms/lobby/messages";
    let post = |path: &str| Call::new("POST", path).header("content-type", "application/json");
    for (call, status) in [
        (post(messages), 401),
        (post(messages).token(&ada), 413),
        (post("/rooms/user:bob/messages").token(&ada), 413),
        (Call::new("POST", messages).token(&ada), 415),
        (post("/tokens").token(&ada), 403),
        (post("/nothing"), 404),
        (post("/events/ada"), 405),
        (post(messages).header("origin", "https://evil.example"), 403),
        (post(&poll), 413),
    ] {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        let head = format!("{}content-length: {LARGE}\r\n\r\n", call.head);
        socket.write_all(head.as_bytes()).await.unwrap();
        // Refused by now, where the head alone decides.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        for piece in vec![b'x'; LARGE].chunks(64 << 10) {
            socket.write_all(piece).await.unwrap_or_else(|error| panic!("{}: {error}", call.head));
        }
        let mut answer = String::new();
        let read = tokio::time::timeout(crate::server::PATIENCE, socket.read_to_string(&mut answer)).await.unwrap();
        read.unwrap_or_else(|error| panic!("{}: {error}", call.head));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", call.head);
    }
    // Without end it is not read.
    let mut socket = TcpStream::connect(server.listen).await.unwrap();
    socket.write_all(format!("{}content-length: {}\r\n\r\n", post("/nothing").head, 1u64 << 40).as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut written = 0;
    while socket.write_all(&piece).await.is_ok() {
        written += piece.len();
        assert!(written < 64 << 20, "it is read for ever");
    }
    // Who asks first whether to write is told no, and not to go on.
    let call = post(messages).header("expect", "100-continue").header("content-length", &LARGE.to_string());
    let mut socket = TcpStream::connect(server.listen).await.unwrap();
    socket.write_all(format!("{}\r\n", call.head).as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(crate::server::PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn slow_body_is_not_waited_for() {
    let server = Server::with(&[("limits.handshake_ms", "300")]).await;
    let token = server.token("ada");
    let mut socket = TcpStream::connect(server.listen).await.unwrap();
    let head = format!(
        "POST /rooms/lobby/messages HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 13\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(crate::server::PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("did not come in time"), "{answer}");
    assert!(server.connect("ada").await.history("lobby", "").await.offsets().is_empty());
}

#[tokio::test]
async fn requests_of_a_user_have_one_rate() {
    let server = Server::with(&[("limits.frames_per_second", "1"), ("limits.frames_burst", "5")]).await;
    let token = server.token("ada");
    let say = || post("lobby", r#"{"payload":1}"#).token(&token);
    let mut refused = None;
    for _ in 0..10 {
        let answer = say().to(&server).await;
        if answer.status != 201 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("ten at once are more than five and what comes in meanwhile");
    assert_eq!(problem(&refused), (429, "rate_limited".into()));
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert!((1..=1000).contains(&value(&refused)["retryAfterMs"].as_u64().unwrap()));
    // Others are not made to wait.
    assert_eq!(post("lobby", r#"{"payload":1}"#).token(&server.token("bob")).to(&server).await.status, 201);
}

#[tokio::test]
async fn pages_on_the_list_may_ask() {
    let server = Server::start().await;
    let preflight = |origin: &str| {
        Call::new("OPTIONS", "/rooms/lobby/messages")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
    };
    let allowed = preflight(ORIGIN).to(&server).await;
    assert_eq!(allowed.status, 204, "{}", allowed.head);
    for header in [
        &format!("access-control-allow-origin: {ORIGIN}"),
        "access-control-allow-credentials: true",
        "access-control-allow-methods: get, post",
        "access-control-allow-headers: authorization, carillon-client, content-type, idempotency-key",
        "vary: origin",
    ] {
        assert!(allowed.head.contains(header), "{header} in {}", allowed.head);
    }
    let refused = preflight("https://evil.example").to(&server).await;
    assert_eq!(refused.status, 403);
    assert!(!refused.head.contains("access-control-allow-origin"), "{}", refused.head);
    // Errors can be read too.
    let answer = post("lobby", r#"{"payload":1}"#).header("origin", ORIGIN).to(&server).await;
    assert_eq!(answer.status, 401);
    assert!(answer.head.contains(&format!("access-control-allow-origin: {ORIGIN}")), "{}", answer.head);
    // A page of the server itself needs no entry; that it is one, only the browser can say.
    let same = post("lobby", r#"{"payload":1}"#).header("origin", "http://a").header("sec-fetch-site", "same-origin");
    assert_eq!(same.token(&server.token("ada")).to(&server).await.status, 201);
}

#[tokio::test]
async fn openapi_is_the_committed_file() {
    const COMMITTED: &str = include_str!("../../../gateway/openapi.json");
    let server = Server::start().await;
    let served = Call::new("GET", "/openapi.json").to(&server).await;
    assert_eq!((served.status, served.body.as_str()), (200, COMMITTED));
    let document: serde_json::Value = serde_json::from_str(COMMITTED).unwrap();
    // What it describes is there.
    for (path, methods) in document["paths"].as_object().unwrap() {
        let filled = path.replace("{room}", "lobby").replace("{userId}", "ada").replace("{id}", "ada");
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let answer = Call::new(&method.to_uppercase(), &filled).to(&server).await;
            assert!(matches!(answer.status, 200 | 400 | 401 | 503), "{method} {path}: {}", answer.status);
            let described = &methods[method]["responses"];
            assert!(described.get(answer.status.to_string()).is_some(), "{method} {path}: {}", answer.status);
        }
    }
}
