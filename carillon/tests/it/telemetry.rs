//! What the processes tell of themselves: figures at `/metrics`, as `docs/telemetry.md` has them.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::server::{Server, Service, get, value_of};

/// Every row of a table of figures in the docs: name, type, labels, and who tells it.
fn documented() -> Vec<[String; 4]> {
    let page = include_str!("../../../docs/telemetry.md");
    let rows = page.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        [0, 1, 2, 3].map(|cell| cells[cell].to_owned())
    });
    rows.collect()
}

/// As many of the docs' columns as the text has: name, type and label.
async fn told(admin: SocketAddr) -> BTreeSet<[String; 3]> {
    let text = get(admin, "/metrics").await.body;
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let figures = kinds.map(|(name, kind)| {
        // None of the figures has two labels, and the bound of a bucket is none.
        let labelled = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('=').map(|it| it.0));
        [name, kind, labelled.unwrap_or_default()].map(str::to_owned)
    });
    figures.collect()
}

async fn assert_documented(program: &str, admin: SocketAddr) {
    let told = told(admin).await;
    let is_told_by = |row: &[String; 4]| row[3].split(", ").any(|it| it == program || it == "all");
    let documented: BTreeSet<_> = documented()
        .into_iter()
        .filter(is_told_by)
        .map(|[name, kind, label, _]| [name, kind, label])
        // A counter by close code has no line before the first close.
        .filter(|[name, ..]| name != "carillon_closes_total")
        .collect();
    let told: BTreeSet<_> = told.into_iter().filter(|[name, ..]| name != "carillon_closes_total").collect();
    let undocumented: Vec<_> = told.difference(&documented).collect();
    let missing: Vec<_> = documented.difference(&told).collect();
    assert!(undocumented.is_empty(), "{program} tells what docs/telemetry.md does not have: {undocumented:?}");
    assert!(missing.is_empty(), "{program} does not tell what docs/telemetry.md has: {missing:?}");
}

#[tokio::test]
async fn figures_are_those_of_the_docs() {
    let mut cluster = Server::cluster().await;
    assert_documented("gateway", cluster.admin).await;
    assert_documented("auth", cluster.service(Service::Auth).admin).await;
    assert_documented("fanout", cluster.service(Service::Fanout).admin).await;
    assert_documented("carillon", Server::embedded().await.admin).await;
}

#[tokio::test]
async fn figures_count_what_happens() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    for number in 1..=20 {
        ada.say("lobby", number).await;
    }
    bob.hears(1..=20).await;
    server.until_metric("carillon_deliveries_sent_total", 20).await;
    let text = get(server.admin, "/metrics").await.body;
    let expected = [
        (r#"carillon_connections{door="websocket"}"#, 2),
        (r#"carillon_frames_received_total{door="websocket"}"#, 21),
        // Beside the deliveries: two times `connected`, `joined`, and an ack for each.
        (r#"carillon_frames_sent_total{door="websocket"}"#, 43),
        ("carillon_publishes_total", 20),
        ("carillon_publish_duration_seconds_count", 20),
        ("carillon_delivery_duration_seconds_count", 20),
        (r#"carillon_publish_duration_seconds_bucket{le="+Inf"}"#, 20),
        (r#"carillon_state{state="ready"}"#, 1),
    ];
    for (name, value) in expected {
        assert_eq!(value_of(name, &text), value, "{name}: {text}");
    }
}
