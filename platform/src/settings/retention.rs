//! How much of a room is kept.

use std::time::Duration;

use serde_json::Value;

use super::parse_duration;

/// What is kept of the rooms that a pattern matches. Whichever limit is reached first drops the oldest messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Pattern over room names; `*` matches any run of characters.
    pub rooms: String,
    /// The newest so many messages.
    pub messages: u64,
    /// Messages not older than this.
    pub age: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { rooms: "*".to_owned(), messages: 10_000, age: Duration::from_secs(7 * 86_400) }
    }
}

impl Retention {
    /// From a table of the settings; what it leaves out but `rooms` is the default.
    pub(super) fn from_json(value: &Value) -> Result<Self, String> {
        let table = value.as_object().ok_or_else(|| format!("{value} is no table"))?;
        let mut rooms = None;
        let mut retention = Self::default();
        for (key, value) in table {
            match key.as_str() {
                "rooms" => rooms = Some(pattern(value)?),
                "messages" => retention.messages = messages(value)?,
                "age" => retention.age = age(value)?,
                _ => return Err(format!("{key} is none of rooms, messages, age")),
            }
        }
        retention.rooms = rooms.ok_or_else(|| format!("rooms is missing in {value}"))?;
        Ok(retention)
    }
}

fn pattern(value: &Value) -> Result<String, String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| format!("rooms is {value}, no pattern"))
}

fn messages(value: &Value) -> Result<u64, String> {
    value.as_u64().filter(|count| *count > 0).ok_or_else(|| format!("messages is {value}, no whole number above 0"))
}

fn age(value: &Value) -> Result<Duration, String> {
    let age = match value {
        Value::String(text) => parse_duration(text).ok(),
        number => number.as_u64().map(Duration::from_secs),
    };
    age.filter(|age| !age.is_zero()).ok_or_else(|| format!("age is {value}, no duration such as 7d"))
}
