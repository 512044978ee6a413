//! From what an operator wrote to a value, one reader per kind. A reader's error says what was expected, in words that
//! end the sentence "expected …"; the loader adds the setting, its source and what was found.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use carillon_proto::claims::{Grant, Operation};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::{Hook, LogFormat, Origins, Retention, Secret, Url, duration::format_duration};

/// A value as its source holds it.
pub(super) enum Raw<'a> {
    /// From a flag or the environment: everything is text there.
    Text(&'a str),
    /// From the file, where numbers, texts and lists differ.
    Value(&'a Value),
}

impl Raw<'_> {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Value(value) => value.as_str(),
        }
    }

    fn as_whole(&self) -> Option<u64> {
        match self {
            Self::Text(text) => text.parse().ok(),
            Self::Value(value) => value.as_u64(),
        }
    }

    fn as_fraction(&self) -> Option<f64> {
        match self {
            Self::Text(text) => text.parse().ok(),
            Self::Value(value) => value.as_f64(),
        }
    }

    /// A list, JSON or comma-separated where it is text.
    fn as_list(&self) -> Option<Vec<Value>> {
        match self {
            Self::Value(value) => value.as_array().cloned(),
            Self::Text(text) if text.trim_start().starts_with('[') => serde_json::from_str(text).ok(),
            Self::Text(text) => Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect()),
        }
    }

    /// As an error message shows it.
    pub(super) fn found(&self) -> String {
        let found = match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Value(value) => value.to_string(),
        };
        match found.char_indices().nth(120) {
            Some((end, _)) => format!("{}…", &found[..end]),
            None => found,
        }
    }
}

pub(super) fn optional<T>(read: impl Fn(&Raw<'_>) -> Result<T, String>) -> impl Fn(&Raw<'_>) -> Result<Option<T>, String> {
    move |raw| read(raw).map(Some)
}

pub(super) fn count<N>(range: RangeInclusive<N>) -> impl Fn(&Raw<'_>) -> Result<N, String>
where
    N: TryFrom<u64> + PartialOrd + Display,
{
    move |raw| {
        let number = raw.as_whole().and_then(|number| N::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

pub(super) fn fraction(raw: &Raw<'_>) -> Result<f64, String> {
    raw.as_fraction().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "a number from 0 to 1".to_owned())
}

pub(super) fn address(raw: &Raw<'_>) -> Result<SocketAddr, String> {
    let address = raw.as_text().and_then(|text| text.parse().ok());
    address.ok_or_else(|| "an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080".to_owned())
}

pub(super) fn text(raw: &Raw<'_>) -> Result<String, String> {
    raw.as_text().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| "a text".to_owned())
}

pub(super) fn path(raw: &Raw<'_>) -> Result<PathBuf, String> {
    text(raw).map(PathBuf::from).map_err(|_| "a path".to_owned())
}

pub(super) fn paths(raw: &Raw<'_>) -> Result<Vec<PathBuf>, String> {
    let expected = || "a list of paths".to_owned();
    let list = raw.as_list().ok_or_else(expected)?;
    list.iter().map(|item| path(&Raw::Value(item)).map_err(|_| expected())).collect()
}

pub(super) fn http_path(raw: &Raw<'_>) -> Result<String, String> {
    let fits = |path: &&str| {
        path.len() > 2 && path.starts_with('/') && path.ends_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'?')
    };
    raw.as_text()
        .filter(fits)
        .map(str::to_owned)
        .ok_or_else(|| "a path with a slash at both ends, such as /socket.io/".to_owned())
}

pub(super) fn url(schemes: &'static [&'static str]) -> impl Fn(&Raw<'_>) -> Result<Url, String> {
    move |raw| {
        let url = raw.as_text().and_then(|text| Url::parse(text, schemes));
        url.ok_or_else(|| format!("a URL such as {}://host:port", schemes[0]))
    }
}

pub(super) fn urls(schemes: &'static [&'static str]) -> impl Fn(&Raw<'_>) -> Result<Url, String> {
    move |raw| {
        let urls = raw.as_text().and_then(|text| Url::parse_several(text, schemes));
        urls.ok_or_else(|| format!("one or more URLs such as {}://host:port, separated by commas", schemes[0]))
    }
}

pub(super) fn secret(raw: &Raw<'_>) -> Result<Secret, String> {
    let text = raw.as_text().ok_or_else(|| "a text".to_owned())?;
    Secret::parse(text).ok_or_else(|| format!("{} bytes or more, it has {}", Secret::MIN_BYTES, text.len()))
}

pub(super) fn origins(raw: &Raw<'_>) -> Result<Origins, String> {
    let list = raw.as_list().ok_or_else(|| "a list of origins such as https://app.example.com".to_owned())?;
    let mut origins = Origins::default();
    for item in &list {
        origins.allow(item.as_str().unwrap_or_default()).map_err(|problem| format!("{problem} (in {item})"))?;
    }
    Ok(origins)
}

pub(super) fn retention(raw: &Raw<'_>) -> Result<Vec<Retention>, String> {
    let expected = || r#"a list such as [{"rooms": "chat:*", "messages": 10000, "age": "7d"}]"#.to_owned();
    let list = raw.as_list().ok_or_else(expected)?;
    list.iter().map(|item| Retention::from_json(item).map_err(|problem| format!("{}: {problem}", expected()))).collect()
}

pub(super) fn hooks(raw: &Raw<'_>) -> Result<Vec<Hook>, String> {
    let expected =
        || r#"a list such as [{"url": "https://a", "secret": "whsec_…", "types": ["user.online"], "rooms": "*"}]"#.to_owned();
    let list = raw.as_list().ok_or_else(expected)?;
    list.iter().map(|item| Hook::from_json(item).map_err(|problem| format!("{}: {problem}", expected()))).collect()
}

pub(super) fn default_grants(raw: &Raw<'_>) -> Result<Vec<Grant>, String> {
    let expected = || r#"a list such as [{"rooms": ["chat:*"], "can": ["join", "publish", "history", "presence"]}]"#.to_owned();
    let list = raw.as_list().ok_or_else(expected)?;
    list.into_iter().map(|item| grant(item).ok_or_else(expected)).collect()
}

/// A grant of a token may hold what a newer issuer knows; one of the settings may not, since there it is a typo.
fn grant(item: Value) -> Option<Grant> {
    if item.as_object()?.keys().any(|key| key != "rooms" && key != "can") {
        return None;
    }
    let grant: Grant = serde_json::from_value(item).ok()?;
    (!grant.can.contains(&Operation::Unknown)).then_some(grant)
}

pub(super) fn log_format(raw: &Raw<'_>) -> Result<LogFormat, String> {
    raw.as_text().and_then(LogFormat::parse).ok_or_else(|| "json or text".to_owned())
}

/// A filter also takes a bare module name, which then logs everything; here that is a misspelt level.
pub(super) fn log_filter(raw: &Raw<'_>) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let plain = |part: &str| part.contains(['=', '[']) || is_level(part.trim());
    let fits = |text: &&str| text.split(',').all(plain) && EnvFilter::try_new(text).is_ok();
    raw.as_text()
        .filter(fits)
        .map(str::to_owned)
        .ok_or_else(|| "error, warn, info, debug, trace or off, also by module as in info,carillon_gateway=debug".to_owned())
}

/// As the reference shows a default.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown_as_displayed {
    ($($type:ty),*) => { $(impl Shown for $type { fn shown(&self) -> String { self.to_string() } })* };
}
shown_as_displayed!(u32, u64, usize, f64, String, SocketAddr, LogFormat);

impl Shown for PathBuf {
    fn shown(&self) -> String {
        self.display().to_string()
    }
}

impl Shown for Url {
    fn shown(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Shown for Secret {
    fn shown(&self) -> String {
        "(not shown)".to_owned()
    }
}

impl Shown for Origins {
    fn shown(&self) -> String {
        "none".to_owned()
    }
}

impl Shown for Retention {
    fn shown(&self) -> String {
        format!("rooms {}, messages {}, age {}", self.rooms, self.messages, format_duration(self.age))
    }
}

impl Shown for Hook {
    fn shown(&self) -> String {
        self.url.to_string()
    }
}

impl Shown for Grant {
    fn shown(&self) -> String {
        serde_json::to_string(self).expect("a grant has only text in it")
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> String {
        if self.is_empty() { "none".to_owned() } else { self.iter().map(T::shown).collect::<Vec<_>>().join("; ") }
    }
}
