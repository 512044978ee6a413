//! What the processes tell of themselves: figures at `/metrics`, as `docs/telemetry.md` has them, the same by OTLP, and traces.

mod collector;

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    client::Dial,
    http::Call,
    server::{Server, Service, Shape, get, value_of},
};
use collector::{Collector, Span};

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

/// Every name in a text that is one of ours, or one of a process's.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_'));
    words
        .filter(|word| word.starts_with("carillon_") || (word.starts_with("process_") && word.matches('_').count() > 1))
        .collect()
}

#[test]
fn dashboard_and_alerts_use_figures_that_there_are() {
    let known: BTreeSet<String> = documented().into_iter().map(|[name, ..]| name).collect();
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../deploy/observability/grafana/dashboards/carillon.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 40, "the dashboard asks something");
    let rules = include_str!("../../../deploy/observability/rules.yml");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    queries.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")));
    assert!(alerts.len() > 20, "there are alerts");
    for query in queries {
        for name in names(query) {
            let of_histogram = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(known.contains(of_histogram), "{name} of {query} is not in docs/telemetry.md");
        }
    }
    let played = include_str!("../../../deploy/observability/rules.test.yml");
    for alert in alerts {
        assert!(played.contains(&format!(r#"alertname="{alert}""#)), "{alert} is not played in rules.test.yml");
    }
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

const ASKED: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn publish(server: &Server, user: &str, traceparent: &str) {
    let call = Call::new("POST", "/rooms/lobby/messages").header("traceparent", traceparent);
    let answer = call.token(&server.token(user)).json(r#"{"payload":1}"#).to(server).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// Name and service of a span and of all above it.
fn way(span: &Span, spans: &[Span]) -> String {
    let step = format!("{} ({})", span.name, span.service);
    match spans.iter().find(|above| above.id == span.parent) {
        Some(above) => format!("{} > {step}", way(above, spans)),
        None => step,
    }
}

#[tokio::test]
async fn one_publish_is_one_trace() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("http://{address}");
    // Nothing is sampled but what somebody asks for; the hops are told in the log as well.
    let settings = [("otel.endpoint", endpoint.as_str()), ("otel.sample", "0"), ("log.level", "info,carillon_platform=debug")];
    let mut server = Server::shaped(Shape::Cluster, &settings).await;
    let other = server.another_gateway("b").await;
    let mut bob = Dial::to(other.listen).token(&server.token("bob")).connected().await;
    bob.join("lobby").await;
    publish(&server, "backend", "00-00000000000000000000000000000bad-00f067aa0ba902b7-00").await;
    publish(&server, "unknown yet", &format!("00-{ASKED}-00f067aa0ba902b7-01")).await;
    bob.hears(1..=2).await;

    let spans = collector.trace(ASKED, 9).await;
    let top = spans.iter().find(|span| span.name.starts_with("POST")).unwrap();
    assert_eq!(top.parent, "00f067aa0ba902b7", "whoever asked is above all");
    let mut ways: Vec<_> = spans.iter().map(|span| way(span, &spans)).collect();
    ways.sort();
    let post = "POST /rooms/{room}/messages (carillon-gateway)";
    let order = format!("{post} > publish (carillon-gateway) > send (carillon-gateway) > order (carillon-fanout)");
    let expected = [
        post.to_owned(),
        format!("{post} > ask auth (carillon-gateway)"),
        format!("{post} > ask auth (carillon-gateway) > carillon.auth.v1.AuthService/Verify (carillon-auth)"),
        format!("{post} > publish (carillon-gateway)"),
        format!("{post} > publish (carillon-gateway) > send (carillon-gateway)"),
        order.clone(),
        format!("{order} > append (carillon-fanout)"),
        format!("{order} > deliver (carillon-fanout)"),
        format!("{order} > deliver (carillon-fanout) > fan out (carillon-gateway)"),
    ];
    assert_eq!(ways, expected);
    let fan_out = spans.iter().find(|span| span.name == "fan out").unwrap();
    assert_ne!(fan_out.instance, top.instance, "the member is at another gateway");
    assert!(spans.iter().all(|span| span.nanos.0 <= span.nanos.1));
    assert!(collector.trace("00000000000000000000000000000bad", 0).await.is_empty(), "it was not to be traced");
    let logged = server.logged();
    for hop in ["publish", "append", "carillon.auth.v1.AuthService/Verify"] {
        let is_told = |line: &str| line.contains(ASKED) && line.contains(&format!(r#""hop":"{hop}""#));
        assert!(logged.lines().any(is_told), "{hop} has no line with its trace");
    }

    // The end of a process sends what is left.
    server.signal("TERM");
    assert_eq!(server.ended().await, Some(0));
    let sent = collector.figures("carillon-gateway");
    let told: BTreeSet<String> = told(other.admin).await.into_iter().map(|[name, ..]| name).collect();
    assert_eq!(sent, told, "the same figures by either way");
    server.service(Service::Fanout).signal("TERM");
    server.service(Service::Fanout).ended().await;
    assert!(collector.figures("carillon-fanout").contains("carillon_log_append_duration_seconds"));
}

#[tokio::test]
async fn sampled_publishes_begin_a_trace() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("http://{address}");
    let server = Server::shaped(Shape::Serve, &[("otel.endpoint", &endpoint), ("otel.sample", "1")]).await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    ada.count("lobby", 1..=10).await;
    bob.hears(1..=10).await;
    let publishes = collector.named("publish", 10).await;
    assert!(publishes.iter().all(|span| span.parent.is_empty()));
    for publish in publishes {
        let spans = collector.trace(&publish.trace, 6).await;
        let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["append", "deliver", "fan out", "order", "publish", "send"].into());
    }
    server.until_metric("carillon_spans_dropped_total", 0).await;
}

#[tokio::test]
async fn nothing_waits_for_a_collector_that_is_away() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let server = Server::shaped(Shape::Serve, &[("otel.endpoint", &endpoint), ("otel.sample", "1")]).await;
    let mut ada = server.connect("ada").await;
    ada.join("lobby").await;
    ada.count("lobby", 1..=100).await;
    // `publish`, `send`, `order`, `append`, `deliver` and `fan out` of each.
    server.until_metric("carillon_spans_dropped_total", 600).await;
    assert_eq!(server.metric("carillon_spans_sent_total").await, 0);
}
