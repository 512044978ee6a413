//! What an admin is shown: connections and rooms page by page, all gateways, why connections were closed. And who may see it.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::Value;

use crate::{
    client::Dial,
    http::Call,
    server::{Answer, PATIENCE, Server, Shape, run, unix_ms},
};

const ADMIN: &str = r#"[{"rooms":["*"],"can":["admin"]}]"#;

async fn get_with(address: SocketAddr, path: &str, token: &str) -> Answer {
    crate::server::ask(
        address,
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"),
    )
    .await
}

async fn ask(server: &Server, path: &str) -> Value {
    ask_at(server, server.listen, path).await
}

async fn ask_at(server: &Server, address: SocketAddr, path: &str) -> Value {
    let token = server.token_for("root", ADMIN);
    let answer = get_with(address, path, &token).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// Asks until the answer is as wanted: shards add up a few times a second.
async fn until(server: &Server, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until_at(server, server.listen, path, is_so).await
}

async fn until_at(server: &Server, address: SocketAddr, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = std::time::Instant::now();
    loop {
        let answer = ask_at(server, address, path).await;
        if is_so(&answer) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{path}: {answer}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn names(answer: &Value) -> Vec<String> {
    let rooms = answer["rooms"].as_array().unwrap();
    rooms.iter().map(|room| room["room"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn rooms_are_shown_page_by_page() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    for n in 0..30 {
        ada.join(&format!("chat:{n:02}")).await;
    }
    for n in 10..13 {
        bob.join(&format!("chat:{n:02}")).await;
    }
    ada.say("chat:11", 1).await;
    ada.say("chat:11", 2).await;
    // The most members first; of what is said, the head and the rate tell.
    let busiest =
        until(&server, "/admin/api/rooms?prefix=chat:&limit=3", |it| names(it) == ["chat:10", "chat:11", "chat:12"]).await;
    assert_eq!((&busiest["count"], &busiest["rooms"][1]["members"]), (&30.into(), &2.into()));
    let said = until(&server, "/admin/api/rooms?sort=rate&limit=1", |it| it["rooms"][0]["head"] == 2).await;
    assert_eq!(names(&said), ["chat:11"]);
    assert!(said["rooms"][0]["rate"].as_f64().unwrap() > 0.0 && said["rooms"][0]["epoch"].is_string(), "{said}");
    assert_eq!(names(&ask(&server, "/admin/api/rooms?search=T:07").await), ["chat:07"]);

    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = ask(&server, &format!("/admin/api/rooms?prefix=chat:&sort=name&limit=7{after}")).await;
        all.extend(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={}", next.replace(':', "%3A"));
    }
    assert_eq!(all, (0..30).map(|n| format!("chat:{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn connections_are_shown_with_their_doors() {
    let server = Server::start().await;
    let before = unix_ms() - 1000;
    let mut ada = server.connect_as("ada", "phone").await;
    ada.join("lobby").await;
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(server.connect(&format!("user{n}")).await);
    }
    let found = ask(&server, "/admin/api/connections?user=ada").await;
    let shown = &found["connections"][0];
    assert_eq!((&found["count"], &shown["client"], &shown["door"]), (&1.into(), &"phone".into(), &"native".into()));
    // Its own personal room is one.
    assert_eq!((&shown["user"], &shown["rooms"]), (&"ada".into(), &2.into()));
    assert!((before..=unix_ms()).contains(&shown["since"].as_u64().unwrap()), "{shown}");

    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = ask(&server, &format!("/admin/api/connections?limit=4{after}")).await;
        assert_eq!(page["count"], 9);
        all.extend(page["connections"].as_array().unwrap().iter().map(|line| line["user"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    all.sort();
    assert_eq!(all, ["ada", "user0", "user1", "user2", "user3", "user4", "user5", "user6", "user7"]);
}

#[tokio::test]
async fn overview_tells_what_happens_and_why_connections_end() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join("lobby").await;
    ada.say("lobby", 1).await;
    let answer = Call::new("POST", "/users/ada/disconnect").token(&server.token_for("root", ADMIN)).to(&server).await;
    assert_eq!(answer.status, 204);
    ada.until_closed().await;
    let bob = server.connect("bob").await;
    let is_told =
        |it: &Value| it["counts"]["publishes"] == 1 && it["latency"]["publish"]["count"] == 1 && it["closes"][0]["count"] == 1;
    let told = until(&server, "/admin/api/overview", is_told).await;
    assert_eq!(told["closes"], serde_json::json!([{ "code": 4003, "reason": "forbidden", "count": 1 }]));
    assert!(told["latency"]["publish"]["p99Ms"].as_f64().unwrap() > 0.0, "{told}");
    let gateway =
        until(&server, "/admin/api/overview", |it| it["gateways"][0]["connections"]["native"] == 1).await["gateways"].take();
    assert_eq!(gateway.as_array().unwrap().len(), 1);
    assert!(!told["owners"].as_array().unwrap().is_empty(), "{told}");
    assert!(told["startedAt"].as_u64().unwrap() <= unix_ms() && told["version"].is_string());
    bob.close().await;
}

#[tokio::test]
async fn each_gateway_tells_of_all() {
    let server = Server::shaped(Shape::Cluster, &[]).await;
    let other = server.another_gateway("b").await;
    let _ada = Dial::to(other.listen).token(&server.token("ada")).connected().await;
    let sum = |told: &Value| -> u64 {
        let gateways = told["gateways"].as_array().unwrap();
        gateways.iter().map(|gateway| gateway["connections"]["native"].as_u64().unwrap()).sum()
    };
    let told =
        until(&server, "/admin/api/overview", |told| told["gateways"].as_array().unwrap().len() == 2 && sum(told) == 1).await;
    assert_eq!(told["gateway"], told["gateways"][0]["id"], "the one that answers is the first");
}

/// Each login with the permissions that it has in a deployment.
#[tokio::test]
async fn any_gateway_shows_what_all_of_them_hold() {
    let server = Server::guarded().await;
    let other = server.another_gateway("b").await;
    let (mut ada, mut bob) = (server.connect("ada").await, Dial::to(other.listen).token(&server.token("bob")).connected().await);
    let mut phone = Dial::to(other.listen).token(&server.token("ada")).client("phone").connected().await;
    for client in [&mut ada, &mut bob, &mut phone] {
        client.join("hall").await;
    }
    bob.join("hall:b").await;
    bob.say("hall", 1).await;
    let addresses = [server.listen, other.listen];
    for address in addresses {
        let told = until_at(&server, address, "/admin/api/rooms?prefix=hall", |it| it["rooms"][0]["members"] == 3).await;
        assert_eq!(names(&told), ["hall", "hall:b"]);
        let room = &told["rooms"][0];
        assert_eq!((&room["users"], &room["head"], &told["count"]), (&2.into(), &1.into(), &2.into()));
        assert!(told.get("missing").is_none(), "{told}");
        let told = until_at(&server, address, "/admin/api/overview", |it| it["gateways"][1].is_object()).await;
        assert_eq!(told["owners"].as_array().unwrap().len(), 16);
        assert!(told["owners"][0]["fanout"].is_string() && told["owners"][0]["rooms"].is_u64(), "{told}");
    }
    // Page by page each of them once, whoever is asked for which page.
    let (mut shown, mut after) = (BTreeMap::new(), String::new());
    for turn in 0.. {
        let page = ask_at(&server, addresses[turn % 2], &format!("/admin/api/connections?limit=1{after}")).await;
        assert_eq!(page["count"], 3, "{page}");
        for line in page["connections"].as_array().unwrap() {
            let who = format!("{} {}", line["user"].as_str().unwrap(), line["client"].as_str().unwrap());
            assert!(shown.insert(who, line["gateway"].as_str().unwrap().to_owned()).is_none(), "{page}");
        }
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let at: Vec<_> = shown.iter().map(|(who, gateway)| (who.split(' ').next().unwrap(), gateway)).collect();
    assert_eq!((at.len(), at[0].0, at[1].0, at[2].0), (3, "ada", "ada", "bob"));
    assert_eq!(shown["ada phone"], *at[2].1);
    assert_eq!(ask(&server, "/admin/api/connections?user=ada").await["count"], 2);

    // Who does not answer is named, for as long as it counts as there.
    other.signal("STOP");
    let told = until(&server, "/admin/api/connections", |it| it["missing"].is_array()).await;
    assert_eq!((&told["missing"], &told["count"]), (&serde_json::json!([shown["ada phone"]]), &1.into()));
    until(&server, "/admin/api/connections", |it| it.get("missing").is_none()).await;
    other.signal("CONT");
    until(&server, "/admin/api/connections", |it| it["count"] == 3).await;
}

#[tokio::test]
async fn only_admins_are_shown_anything() {
    let server = Server::start().await;
    for path in ["/admin/api/overview", "/admin/api/connections", "/admin/api/rooms"] {
        assert_eq!(Call::new("GET", path).token(&server.token("ada")).to(&server).await.status, 403, "{path}");
        assert_eq!(Call::new("GET", path).to(&server).await.status, 401, "{path}");
        assert_eq!(Call::new("POST", path).token(&server.token_for("root", ADMIN)).to(&server).await.status, 405, "{path}");
    }
    for bad in ["limit=0", "limit=1001", "after=x", "sort=size"] {
        let path = format!("/admin/api/rooms?{bad}");
        assert_eq!(Call::new("GET", &path).token(&server.token_for("root", ADMIN)).to(&server).await.status, 400, "{path}");
    }
}

#[tokio::test]
async fn commands_show_the_same() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for room in ["chat:1", "chat:2", "game"] {
        ada.join(room).await;
    }
    let url = format!("http://{}", server.listen);
    let token = server.token_for("root", ADMIN);
    // Flags, since these variables are no settings.
    let asked = async |arguments: &[&str]| run(&[arguments, &["--url", &url, "--token", &token]].concat(), &[]).await;
    let (code, stdout, stderr) = asked(&["rooms", "chat", "--sort", "name"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, "MEMBERS  HEAD  PER SECOND  ROOM\n1        0     0.0         chat:1\n1        0     0.0         chat:2\n");
    let (_, stdout, _) = asked(&["rooms", "--json", "--prefix", "game"]).await;
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&line["room"], &line["members"]), (&"game".into(), &1.into()));
    let (_, stdout, stderr) = asked(&["rooms", "--limit", "2"]).await;
    assert_eq!((stdout.lines().count(), stderr.as_str()), (3, "2 of 4\n"));
    let (code, stdout, _) = asked(&["connections", "ada"]).await;
    assert!(code == Some(0) && stdout.lines().count() == 2 && stdout.ends_with("ada\n"), "{stdout}");
    assert!(stdout.starts_with("GATEWAY "), "{stdout}");
    let ordinary = server.token("ada");
    let (code, _, stderr) = run(&["rooms", "--url", &url, "--token", &ordinary], &[]).await;
    assert!(code == Some(1) && stderr.contains("403"), "{stderr}");
}
