//! Logs go to stderr, so that stdout stays for what a command prints. Nobody logs a token or a payload.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt};

use crate::settings::{Log, LogFormat};

/// Another logger was started before in this process.
#[derive(Debug, thiserror::Error)]
#[error("the log was started twice")]
pub struct StartedTwice;

/// Starts logging, as `log.format` and `log.level` say.
pub fn start(log: &Log) -> Result<(), StartedTwice> {
    let terminal = io::stderr().is_terminal();
    tracing::subscriber::set_global_default(subscriber(log, terminal, io::stderr)).map_err(|_| StartedTwice)
}

fn subscriber<W>(log: &Log, terminal: bool, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter(&log.level)).expect("the settings take only what this accepts");
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let format = log.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_span_list(false)),
        LogFormat::Text => Box::new(lines.with_ansi(terminal)),
    };
    tracing_subscriber::registry().with(lines).with(filter).with(filter_fn(is_discreet))
}

/// Others' libraries tell at `trace` what they carry, the NATS client every message: that is nobody's to read, whatever
/// `log.level` says.
fn is_discreet(of: &Metadata<'_>) -> bool {
    *of.level() != Level::TRACE || of.target().starts_with("carillon")
}

/// The NATS client tells each failed attempt to connect at `info`, twice a second; `crate::nats` says the same once. What
/// the setting says of the client comes later and wins.
fn filter(level: &str) -> String {
    if level.split(',').any(|directive| directive.trim() == "info") {
        format!("async_nats=warn,{level}")
    } else {
        level.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: &Log, terminal: bool) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        tracing::subscriber::with_default(subscriber(log, terminal, move || writer.clone()), || {
            tracing::info!(room = "chat:1", "joined");
            tracing::debug!("too much");
        });
        String::from_utf8(buffer.0.lock().clone()).unwrap()
    }

    #[test]
    fn json_where_nobody_watches() {
        let line: serde_json::Value = serde_json::from_str(&logged(&Log::default(), false)).unwrap();
        assert_eq!((&line["level"], &line["message"], &line["room"]), (&"INFO".into(), &"joined".into(), &"chat:1".into()));
    }

    #[test]
    fn text_on_a_terminal() {
        let text = logged(&Log::default(), true);
        assert!(text.contains("joined") && !text.starts_with('{'), "{text}");
        let forced = Log { format: Some(LogFormat::Json), ..Log::default() };
        assert!(logged(&forced, true).starts_with('{'));
    }

    #[test]
    fn nats_client_is_quieter() {
        let logged_at = |level: &str| {
            let buffer = Buffer::default();
            let writer = buffer.clone();
            let log = Log { level: level.to_owned(), ..Log::default() };
            tracing::subscriber::with_default(subscriber(&log, false, move || writer.clone()), || {
                tracing::info!(target: "async_nats", "event");
            });
            !buffer.0.lock().is_empty()
        };
        let levels = ["info", "info,carillon_gateway=debug", "info,async_nats=info", "debug", "warn", "off"];
        assert_eq!(levels.map(logged_at), [false, false, true, true, false, false]);
    }

    #[test]
    fn level_filters() {
        let log = |level: &str| Log { level: level.to_owned(), ..Log::default() };
        assert_eq!(logged(&log("debug"), false).lines().count(), 2);
        assert_eq!(logged(&log("warn"), false), "");
        assert_eq!(logged(&log("warn,carillon_platform=debug"), false).lines().count(), 2);
    }
}
