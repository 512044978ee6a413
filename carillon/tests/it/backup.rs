//! `carillon backup` of a process under load, and `carillon restore` on another machine: what was acked before is there with its
//! offsets, and whoever knew more than that is told.

use std::fs;

use crate::server::{Server, run};

/// Messages between two looks at whether the backup is made.
const ROUND: u64 = 200;

#[tokio::test]
async fn restored_elsewhere_it_is_the_same_up_to_its_head() {
    let server = Server::embedded().await;
    let mut ada = server.connect("ada").await;
    let payloads = |first: u64| (first..first + ROUND).map(|n| format!(r#"{{"n": {n}}}"#)).collect::<Vec<_>>();
    ada.say_all("lobby", payloads(1)).await;
    let epoch = ada.join("lobby").await.text("epoch");
    ada.leave("lobby").await;
    let (folder, file) = (server.data_dir().to_str().unwrap(), server.data_dir().join("copy"));
    let (file, settings) = (file.to_str().unwrap(), [("data_dir", folder)]);

    let mut said = ROUND;
    let arguments = ["backup", file];
    let mut backup = std::pin::pin!(run(&arguments, &settings));
    let (code, _, stderr) = loop {
        tokio::select! {
            biased;
            done = &mut backup => break done,
            () = ada.say_all("lobby", payloads(said + 1)) => said += ROUND,
        }
    };
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = run(&["backup", file], &settings).await;
    assert_eq!(code, Some(64), "nothing is overwritten: {stderr}");

    let mut other = Server::embedded().await;
    let elsewhere = other.data_dir().to_str().unwrap().to_owned();
    let (code, _, stderr) = run(&["restore", file], &[("data_dir", &elsewhere)]).await;
    assert!(code == Some(1) && stderr.contains("in use"), "{stderr}");
    other.kill().await;
    let (code, _, stderr) = run(&["restore", file], &[("data_dir", &elsewhere)]).await;
    assert!(code == Some(1) && stderr.contains("holds a log already"), "{stderr}");
    fs::remove_dir_all(format!("{elsewhere}/log")).unwrap();
    let (code, stdout, stderr) = run(&["restore", file], &[("data_dir", &elsewhere)]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    other.start_again().await;

    let mut bob = other.connect("bob").await;
    let joined = bob.join_with("lobby", &format!(r#""since":{ROUND},"epoch":"{epoch}""#)).await;
    let head = joined.number("offset");
    assert!(head >= ROUND, "what was acked before is in it: {head}");
    assert!(stdout.starts_with(&format!("{head} messages")), "{stdout}");
    assert_eq!((joined.flag("recovered"), joined.text("reason").as_str()), (false, "epoch"), "{}", joined.raw);
    assert_ne!(joined.text("epoch"), epoch);
    let mut next = 1;
    while next <= head {
        let page = bob.history("lobby", &format!(r#""after":{},"limit":1000"#, next - 1)).await;
        for message in page.objects("messages") {
            assert_eq!((message.number("offset"), message.json("payload")), (next, format!(r#"{{"n": {next}}}"#).as_str()));
            next += 1;
        }
    }
    // It goes on from there.
    assert_eq!(bob.say("lobby", 0).await.number("offset"), head + 1);
}

#[tokio::test]
async fn stopped_log_is_copied_too() {
    let mut server = Server::embedded().await;
    server.connect("ada").await.say("lobby", 1).await;
    server.kill().await;
    let folder = server.data_dir().to_str().unwrap();
    let file = server.data_dir().join("copy");
    let (code, _, stderr) = run(&["backup", file.to_str().unwrap()], &[("data_dir", folder)]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().to_str().unwrap();
    let (code, stdout, _) = run(&["restore", file.to_str().unwrap()], &[("data_dir", place)]).await;
    assert!(code == Some(0) && stdout.starts_with("1 messages"), "{stdout}");

    let empty = tempfile::tempdir().unwrap();
    let nothing = empty.path().join("copy");
    let (code, _, stderr) = run(&["backup", nothing.to_str().unwrap()], &[("data_dir", empty.path().to_str().unwrap())]).await;
    assert!(code == Some(1) && stderr.contains("there is no log"), "{stderr}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made");
    // Half of a backup is none.
    let whole = fs::read(&file).unwrap();
    fs::write(&nothing, &whole[..whole.len() - 1]).unwrap();
    let another = empty.path().join("data");
    let (code, _, stderr) = run(&["restore", nothing.to_str().unwrap()], &[("data_dir", another.to_str().unwrap())]).await;
    assert!(code == Some(1) && stderr.contains("ends in the middle"), "{stderr}");
    assert!(!another.join("log").exists());
}
