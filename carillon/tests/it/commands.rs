//! The commands that talk to a running server, as a shell runs them.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::Instant,
};

use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::server::{PATIENCE, Server, carillon, run};

/// A command under way; killed should the test end before it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = carillon(arguments, []);
    command.env("CARILLON_URL", format!("http://{}", server.listen)).env("CARILLON_TOKEN", server.token("ada"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Its exit code, stdout and stderr, once it has read `input`.
async fn done(mut command: Command, input: &'static str) -> (Option<i32>, String, String) {
    let ended = spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = ended.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// `tail`, and the lines of its stdout.
fn tail(server: &Server, arguments: &[&str]) -> (Running, BufReader<ChildStdout>) {
    let mut child = command(server, &[&["tail"], arguments].concat()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (Running(child), lines)
}

async fn next(mut lines: BufReader<ChildStdout>) -> (String, BufReader<ChildStdout>) {
    let read = spawn_blocking(move || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        (line, lines)
    });
    read.await.unwrap()
}

async fn code_of(mut running: Running) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.code();
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn publish_tells_where_messages_are() {
    let server = Server::start().await;
    let mut bob = server.connect("bob").await;
    bob.join("chat:1").await;
    let (code, stdout, stderr) = done(command(&server, &["publish", "chat:1", r#"{"a":1.0}"#, "--key", "k"]), "").await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let first: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&first["room"], &first["offset"]), (&"chat:1".into(), &1.into()));
    let message = bob.expect("message").await;
    assert_eq!((message.json("payload"), message.text("id").as_str()), (r#"{"a":1.0}"#, first["id"].as_str().unwrap()));
    let (_, stdout, _) = done(command(&server, &["publish", "chat:1", "2", "--key", "k"]), "").await;
    let again: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&again["offset"], &again["duplicate"]), (&1.into(), &true.into()));

    let (code, stdout, stderr) = done(command(&server, &["publish", "chat:1"]), "2\n{\"b\":\n3}\n\"x\"").await;
    assert_eq!((code, stdout.lines().count(), stderr.as_str()), (Some(0), 3, ""));
    bob.hears(2..=4).await;
    let (code, stdout, _) = done(command(&server, &["publish", "chat:1", "--ephemeral", "5"]), "").await;
    assert_eq!((code, stdout.contains("offset")), (Some(0), false), "{stdout}");
    assert!(bob.expect("message").await.flag("ephemeral"));
}

#[tokio::test]
async fn what_can_not_be_published_is_told() {
    let server = Server::start().await;
    for (arguments, input, expected, word) in [
        (&["publish", "r", "hello"][..], "", 64, "expected JSON"),
        (&["publish", "r"], "{\n", 64, "expected JSON"),
        (&["publish", " ", "1"], "", 64, "room"),
        (&["publish", "r", "--key", "k"], "1", 64, "--key"),
        (&["publish", "user:bob", "1"], "", 1, "forbidden"),
        (&["publish", "r", "1", "--token", "nonsense"], "", 1, "token"),
        (&["publish", "r", "1", "--url", "http://127.0.0.1:9"], "", 1, "127.0.0.1:9"),
        (&["publish", "r", "1", "--url", "ftp://a"], "", 64, "--url"),
        (&["publish", "r", "1", "--token", ""], "", 64, "CARILLON_TOKEN"),
        (&["tail", "user:bob"], "", 1, "forbidden"),
        (&["tail", "r", "--token", "nonsense"], "", 1, "token"),
        (&["tail", "r", "--url", "http://127.0.0.1:9"], "", 1, "127.0.0.1:9"),
    ] {
        let (code, stdout, stderr) = done(command(&server, arguments), input).await;
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{arguments:?} {stderr}");
        assert!(stderr.contains(word), "{arguments:?} {stderr}");
    }
}

#[tokio::test]
async fn tail_misses_nothing_over_a_restart() {
    let mut server = Server::start().await;
    server.connect_as("ada", "writer").await.count("lobby", 1..=5).await;
    let (_tail, mut lines) = tail(&server, &["lobby", "--json", "--last", "2"]);
    let mut hears = async |expected: u64| {
        let (line, rest) = next(std::mem::replace(&mut lines, BufReader::new(nothing()))).await;
        lines = rest;
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line:?}"));
        assert_eq!((&message["type"], &message["offset"]), (&"message".into(), &expected.into()));
    };
    hears(4).await;
    hears(5).await;
    server.kill_and_restart().await;
    server.connect_as("ada", "writer").await.count("lobby", 6..=8).await;
    for offset in 6..=8 {
        hears(offset).await;
    }
}

/// The stdout of a process that says nothing.
fn nothing() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    child.wait().unwrap();
    stdout
}

#[tokio::test]
async fn tail_shows_who_said_what() {
    let server = Server::start().await;
    server.connect_as("ada", "writer").await.say("lobby", "{\"a\": \"\u{9b}\"}").await;
    let (running, lines) = tail(&server, &["lobby", "--since", "0"]);
    let (line, _lines) = next(lines).await;
    assert!(line.starts_with("#1 20") && line.ends_with(" ada {\"a\": \"\\u{9b}\"}\n"), "{line:?}");
    drop(running);
}

#[tokio::test]
async fn tail_ends_with_its_reader_and_by_signals() {
    let server = Server::start().await;
    server.connect_as("ada", "writer").await.count("lobby", 1..=3).await;
    // `tail | head -1`: nothing further is said, and it ends all the same.
    let (mut running, lines) = tail(&server, &["lobby"]);
    let (line, lines) = next(lines).await;
    assert!(line.starts_with("#1 "), "{line:?}");
    drop(lines);
    let mut stderr = running.0.stderr.take().unwrap();
    assert_eq!(code_of(running).await, Some(0));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    for signal in ["INT", "TERM"] {
        let (running, lines) = tail(&server, &["lobby"]);
        let (_, _lines) = next(lines).await;
        let sent = Command::new("kill").args([format!("-{signal}"), running.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(code_of(running).await, Some(0), "{signal}");
    }
}

#[tokio::test]
async fn shells_and_man_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = run(&["completions", shell], &[]).await;
        assert_eq!(code, Some(0));
        for word in ["publish", "tail", "doctor"] {
            assert!(stdout.contains(word), "{shell} {word}");
        }
    }
    let (code, stdout, _) = run(&["man"], &[]).await;
    assert!(code == Some(0) && stdout.contains(".TH carillon 1") && stdout.contains("carillon\\-tail"), "{stdout}");
    let (code, stdout, _) = run(&["man", "tail"], &[]).await;
    assert!(code == Some(0) && stdout.contains("\\-\\-since"), "{stdout}");
    assert_eq!(run(&["man", "nonsense"], &[]).await.0, Some(64));
}
