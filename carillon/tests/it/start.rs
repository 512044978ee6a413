//! Starting: what is printed, what is refused, and with which exit code.

use crate::{
    client::Dial,
    server::{ORIGIN, SECRET, Server, Shape, get, run},
};

/// Nobody listens here, and nobody gets to.
const NOWHERE: &[(&str, &str)] = &[("listen", "127.0.0.1:0"), ("admin_listen", "127.0.0.1:0")];

async fn refused(arguments: &[&str], settings: &[(&str, &str)], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let place = [("data_dir", data_dir.to_str().unwrap())];
    let all: Vec<_> = NOWHERE.iter().chain(&place).chain(settings).copied().collect();
    let (ended, stdout, stderr) = run(arguments, &all).await;
    assert_eq!(ended, Some(code), "{stderr}");
    assert_eq!(stdout, "", "nothing was ready");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
    assert!(!data_dir.exists(), "nothing is written before the settings are good");
}

#[tokio::test]
async fn serve_needs_a_key() {
    refused(&["serve"], &[("origins", ORIGIN)], 64, &["jwt.secret"]).await;
}

#[tokio::test]
async fn serve_needs_origins() {
    refused(&["serve"], &[("jwt.secret", SECRET)], 64, &["origins"]).await;
    // Empty is unset.
    refused(&["serve"], &[("jwt.secret", SECRET), ("origins", "")], 64, &["origins"]).await;
}

#[tokio::test]
async fn bad_settings_are_named() {
    let good = [("jwt.secret", SECRET), ("origins", ORIGIN)];
    let with = |bad: (&'static str, &'static str)| [good[0], good[1], bad];
    refused(&["serve"], &with(("limits.frame_byte", "1")), 64, &["CARILLON_LIMITS__FRAME_BYTE", "CARILLON_LIMITS__FRAME_BYTES"])
        .await;
    refused(&["serve"], &with(("nonsense", "1")), 64, &["CARILLON_NONSENSE"]).await;
    let frame_bytes = ["limits.frame_bytes", "CARILLON_LIMITS__FRAME_BYTES", "expected", "\"many\""];
    refused(&["serve"], &with(("limits.frame_bytes", "many")), 64, &frame_bytes).await;
    refused(&["serve"], &[("jwt.secret", "short"), ("origins", ORIGIN)], 64, &["jwt.secret", "32"]).await;
    refused(&["serve", "--nonsense"], &good, 64, &["--nonsense"]).await;
    refused(&["serve", "--config", "/nowhere/carillon.toml"], &good, 64, &["/nowhere/carillon.toml"]).await;
    refused(&["nonsense"], &[], 64, &["nonsense"]).await;
    refused(&[], &[], 64, &["Usage"]).await;
}

#[tokio::test]
async fn secrets_are_not_printed() {
    let (_, _, stderr) = run(&["serve"], &[("jwt.secret", "too-short-and-secret"), ("origins", ORIGIN)]).await;
    assert!(!stderr.contains("too-short-and-secret"), "{stderr}");
}

#[tokio::test]
async fn help_is_no_error() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["token", "--help"], &["--version"]] {
        let (code, stdout, _) = run(arguments, &[]).await;
        assert_eq!(code, Some(0));
        assert!(!stdout.is_empty());
    }
}

#[tokio::test]
async fn data_folder_has_one_owner() {
    let server = Server::embedded().await;
    let folder = server.data_dir().to_str().unwrap().to_owned();
    let own = [("data_dir", folder.as_str()), ("jwt.secret", SECRET), ("origins", ORIGIN)];
    let all: Vec<_> = NOWHERE.iter().chain(&own).copied().collect();
    let (code, stdout, stderr) = run(&["serve"], &all).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains(&folder), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    server.connect("ada").await.say("lobby", 1).await;
}

#[tokio::test]
async fn taken_port_is_named() {
    let server = Server::embedded().await;
    let folder = tempfile::tempdir().unwrap();
    let listen = server.listen.to_string();
    let (code, _, stderr) = run(
        &["serve"],
        &[
            ("data_dir", folder.path().to_str().unwrap()),
            ("jwt.secret", SECRET),
            ("origins", ORIGIN),
            ("listen", &listen),
            ("admin_listen", "127.0.0.1:0"),
        ],
    )
    .await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&listen), "{stderr}");
}

#[tokio::test]
async fn dev_is_ready_with_two_links() {
    let mut server = Server::bare(Shape::Dev, &[]).await;
    let mut tokens = Vec::new();
    while tokens.len() < 2 {
        let line = server.stdout_line().await;
        if let Some((link, token)) = line.split_once("/#token=") {
            assert!(link.ends_with(&format!("http://{}", server.listen)), "{line}");
            tokens.push(token.trim().to_owned());
        }
    }
    let user = async |server: &Server, token: &str| server.dial().token(token).greeted().await.1.text("userId");
    let users = [user(&server, &tokens[0]).await, user(&server, &tokens[1]).await];
    assert_ne!(users[0], users[1]);

    // Pages of this machine may connect, others not.
    for (origin, status) in [
        (format!("http://{}", server.listen), None),
        ("http://localhost:3000".to_owned(), None),
        ("https://evil.example".to_owned(), Some(403)),
        ("http://localhost.evil.example".to_owned(), Some(403)),
    ] {
        let opened = Dial::to(server.listen).token(&tokens[0]).origin(&origin).open().await;
        assert_eq!(opened.err(), status, "{origin}");
    }
    let page = get(server.listen, "/").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);

    // The key is kept: yesterday's links work today.
    server.kill_and_restart().await;
    assert_eq!(user(&server, &tokens[0]).await, users[0]);
}

#[tokio::test]
async fn health_is_an_exit_code() {
    let server = Server::embedded().await;
    let admin = server.admin.to_string();
    let (code, stdout, _) = run(&["health"], &[("admin_listen", &admin)]).await;
    assert_eq!((code, stdout.as_str()), (Some(0), "ready\n"));
    drop(server);
    let (code, stdout, stderr) = run(&["health"], &[("admin_listen", &admin)]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains(&admin), "{stderr}");
}

#[tokio::test]
async fn serve_shows_no_page() {
    let server = Server::bare(Shape::Serve, &[("jwt.secret", SECRET), ("origins", ORIGIN)]).await;
    assert_eq!(get(server.listen, "/").await.status, 404);
}

#[tokio::test]
async fn token_command_prints_a_token() {
    let server = Server::bare(Shape::Dev, &[]).await;
    let folder = server.data_dir().to_str().unwrap();
    let grants = r#"[{"rooms":["chat:*"],"can":["join"]}]"#;
    let arguments = ["token", "--sub", "grace", "--ttl", "10m", "--grants", grants, "--info", r#"{"name":"Grace"}"#];
    let (code, stdout, stderr) = run(&arguments, &[("data_dir", folder)]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let token = stdout.strip_suffix('\n').expect("one line");
    assert!(!token.contains(char::is_whitespace), "{stdout:?}");
    let (mut grace, connected) = server.dial().token(token).greeted().await;
    assert_eq!(connected.text("userId"), "grace");
    let left_ms = connected.number("expiresAt") - crate::server::unix_ms();
    assert!((590_000..=600_000).contains(&left_ms), "{left_ms}");
    grace.join("chat:1").await;
    grace.ask("join", "news", "").await;
    grace.expect_error("forbidden").await;

    let several = ["token", "--sub", "ada", "--sub", "grace", "--page", "https://chat.example/"];
    let (code, links, _) = run(&several, &[("data_dir", folder)]).await;
    let links: Vec<_> = links.lines().collect();
    assert!(code == Some(0) && links.len() == 2 && links[1].starts_with("grace  https://chat.example/#token=ey"), "{links:?}");

    for wrong in [
        &["token"][..],
        &["token", "--sub", ""],
        &["token", "--sub", "a", "--ttl", "soon"],
        &["token", "--sub", "a", "--grants", "{}"],
        &["token", "--sub", "a", "--info", "[]"],
    ] {
        let (code, stdout, stderr) = run(wrong, &[("data_dir", folder)]).await;
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{wrong:?}");
        assert!(!stderr.is_empty());
    }
}
