//! `carillon doctor` on set-ups that are broken, each in its way: what is wrong is named with its mend, and nothing is changed.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
};

use crate::server::{ORIGIN, SECRET, Server, run};

/// A set-up in which all is well, in a folder of its own.
struct Place {
    folder: tempfile::TempDir,
    settings: Vec<(String, String)>,
}

impl Place {
    fn new(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let mut place = Self { folder, settings: Vec::new() };
        for (name, value) in [
            ("data_dir", data_dir.to_str().unwrap()),
            ("listen", "127.0.0.1:0"),
            ("admin_listen", "127.0.0.1:0"),
            ("jwt.secret", SECRET),
            ("origins", ORIGIN),
        ]
        .iter()
        .chain(settings)
        {
            place.settings.retain(|(known, _)| known != name);
            place.settings.push(((*name).to_owned(), (*value).to_owned()));
        }
        place
    }

    async fn asked(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (code, stdout, stderr) = run(&[&["doctor"], arguments].concat(), &settings).await;
        assert_eq!(stderr, "");
        assert!(!self.folder.path().join("data").exists(), "nothing is made");
        (code, stdout)
    }

    /// One line says what is wrong, in these words.
    async fn is_wrong(&self, arguments: &[&str], about: &str, words: &[&str]) {
        let (code, stdout) = self.asked(arguments).await;
        assert_eq!(code, Some(1), "{stdout}");
        let wrong: Vec<&str> = stdout.lines().filter(|line| line.starts_with("WRONG")).collect();
        let [line] = wrong[..] else { panic!("one thing is wrong: {stdout}") };
        for word in [about].iter().chain(words) {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
        assert!(!stdout.contains(SECRET), "{stdout}");
    }
}

#[tokio::test]
async fn all_is_well() {
    let (code, stdout) = Place::new(&[]).asked(&[]).await;
    assert_eq!(code, Some(0), "{stdout}");
    assert!(!stdout.contains("WRONG") && stdout.contains("ok     keys"), "{stdout}");
}

#[tokio::test]
async fn running_server_is_well() {
    let server = Server::embedded().await;
    let (listen, admin) = (server.listen.to_string(), server.admin.to_string());
    let folder = server.data_dir().to_str().unwrap();
    let place = Place::new(&[("listen", &listen), ("admin_listen", &admin), ("data_dir", folder)]);
    let token = server.token("ada");
    let (code, stdout) = place.asked(&["--token", &token, "--url", &format!("http://{listen}")]).await;
    assert_eq!(code, Some(0), "{stdout}");
    for word in ["a Carillon is at work", "that Carillon's", "accepted, as \"ada\"", "goes with the others"] {
        assert!(stdout.contains(word), "no {word:?} in {stdout}");
    }
}

#[tokio::test]
async fn settings_that_can_not_be_meant_are_named() {
    Place::new(&[("limits.frame_bytes", "many")]).is_wrong(&[], "settings", &["CARILLON_LIMITS__FRAME_BYTES"]).await;
    Place::new(&[("jwt.secret", "short")]).is_wrong(&[], "settings", &["jwt.secret", "32"]).await;
}

#[tokio::test]
async fn missing_and_bad_keys_are_named() {
    Place::new(&[("jwt.secret", "")]).is_wrong(&[], "keys", &["jwt.secret", "openssl rand"]).await;
    Place::new(&[("jwt.secret", "change-me-change-me-change-me-change-me")]).is_wrong(&[], "keys", &["guessed", "openssl"]).await;
    Place::new(&[("jwt.public_keys", "/nowhere.pem")]).is_wrong(&[], "keys", &["jwt.public_keys", "/nowhere.pem"]).await;
}

#[tokio::test]
async fn refused_token_is_named() {
    Place::new(&[]).is_wrong(&["--token", "nonsense"], "token", &["refused", "carillon token"]).await;
    let expired = crate::server::signed(&serde_json::json!({ "sub": "ada", "exp": 1_000_000_000 }));
    Place::new(&[]).is_wrong(&["--token", &expired], "token", &["refused", "expired"]).await;
}

#[tokio::test]
async fn missing_origins_are_named() {
    Place::new(&[("origins", "")]).is_wrong(&[], "origins", &["`origins`", "https://"]).await;
}

#[tokio::test]
async fn taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    Place::new(&[("listen", &address)]).is_wrong(&[], "ports", &["listen", &address, "in use", "ss -ltnp"]).await;
    Place::new(&[("admin_listen", "192.0.2.1:0")]).is_wrong(&[], "ports", &["admin_listen", "no address of this machine"]).await;
    let both = [("listen", "127.0.0.1:48611"), ("admin_listen", "127.0.0.1:48611")];
    Place::new(&both).is_wrong(&[], "ports", &["both", "another port"]).await;
}

#[tokio::test]
async fn bad_tls_files_are_named() {
    Place::new(&[("tls.cert", "/nowhere.pem"), ("tls.key", "/nowhere.key")]).is_wrong(&[], "tls", &["tls.cert"]).await;
    Place::new(&[("tls.cert", "/nowhere.pem")]).is_wrong(&[], "tls", &["tls.key"]).await;
}

#[tokio::test]
async fn limits_that_do_not_fit_are_named() {
    Place::new(&[("limits.outbox_bytes", "2048")]).is_wrong(&[], "limits", &["limits.outbox_bytes", "limits.frame_bytes"]).await;
    Place::new(&[("limits.connections", "90000000")]).is_wrong(&[], "files", &["limits.connections", "LimitNOFILE"]).await;
}

#[tokio::test]
async fn folder_of_another_process_is_named() {
    let server = Server::embedded().await;
    let folder = server.data_dir().to_str().unwrap();
    // Another place, on the same folder.
    Place::new(&[("data_dir", folder)]).is_wrong(&[], "data_dir", &[folder, "in use", "pid"]).await;
    Place::new(&[("data_dir", "/proc/nowhere")]).is_wrong(&[], "data_dir", &["/proc/nowhere", "can't be written"]).await;
}

#[tokio::test]
async fn absent_receiver_of_webhooks_is_named() {
    let hooks = |url: &str| format!(r#"[{{"url":"{url}","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}]"#);
    let words = ["http://127.0.0.1:9/hook", "start the receiver"];
    Place::new(&[("hooks", &hooks("http://127.0.0.1:9/hook"))]).is_wrong(&[], "hooks", &words).await;
    let there = format!("http://{}/hook", says(""));
    let (code, stdout) = Place::new(&[("hooks", &hooks(&there))]).asked(&[]).await;
    assert!(code == Some(0) && stdout.contains("ok     hooks"), "{stdout}");
    let (code, stdout) = Place::new(&[("hooks", r#"[{"url":"http://127.0.0.1:9","secret":"short"}]"#)]).asked(&[]).await;
    assert!(code == Some(1) && stdout.contains("secret is whsec_") && !stdout.contains("short"), "no secret is shown: {stdout}");
}

/// Says one thing to everybody who comes.
fn says(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(text.as_bytes());
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read(&mut [0; 4096]);
        }
    });
    address
}

#[tokio::test]
async fn unfit_nats_is_named() {
    let auth = says("");
    let auth = format!("http://{auth}");
    for (info, words) in [
        (r#"INFO {"version":"2.9.1","jetstream":true,"max_payload":1048576}"#, &["2.9.1", "upgrade"][..]),
        (r#"INFO {"version":"2.12.0","max_payload":1048576}"#, &["no JetStream", "store_dir"]),
        (r#"INFO {"version":"2.15.1","jetstream":true,"max_payload":65536}"#, &["65536", "max_payload"]),
        ("SSH-2.0-OpenSSH_9.6", &["no NATS", "nats.url"]),
    ] {
        let nats = format!("nats://{}", says(info));
        Place::new(&[("nats.url", &nats), ("auth.url", &auth)]).is_wrong(&[], "nats", words).await;
    }
    let alone = format!("nats://{}", says(r#"INFO {"version":"2.15.1","jetstream":true,"max_payload":1048576}"#));
    let three = [("nats.url", alone.as_str()), ("auth.url", auth.as_str()), ("nats.replicas", "3")];
    Place::new(&three).is_wrong(&[], "nats", &["nats.replicas", "cluster"]).await;
    let nobody = [("nats.url", "nats://127.0.0.1:9"), ("auth.url", auth.as_str())];
    Place::new(&nobody).is_wrong(&[], "nats", &["127.0.0.1:9", "start nats-server"]).await;
}

#[tokio::test]
async fn missing_auth_service_is_named() {
    let server = Server::cluster().await;
    let nats = server.nats_url();
    Place::new(&[("nats.url", &nats), ("auth.url", "http://127.0.0.1:9")])
        .is_wrong(&[], "auth", &["auth.url", "carillon-auth"])
        .await;
}

#[tokio::test]
async fn clock_that_is_apart_is_named() {
    let late = says("HTTP/1.1 200 OK\r\nDate: Sat, 01 Feb 2025 00:00:00 GMT\r\n\r\n");
    let url = format!("http://{late}");
    Place::new(&[]).is_wrong(&["--url", &url], "clock", &["jwt.leeway_s", "NTP"]).await;
    Place::new(&[]).is_wrong(&["--url", "http://127.0.0.1:9"], "url", &["does not answer"]).await;
}

#[tokio::test]
async fn silent_key_set_is_named() {
    let settings = [("jwt.secret", ""), ("jwt.jwks_url", "http://127.0.0.1:9/jwks.json")];
    Place::new(&settings).is_wrong(&[], "keys", &["jwt.jwks_url", "does not answer"]).await;
}
