//! Who is told of what happens, by signed requests.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::Url;

/// A receiver of webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Where it is.
    pub url: Url,
    /// What requests are signed with.
    pub secret: HookSecret,
    /// Of what it is told.
    pub types: Vec<HookType>,
    /// Pattern over room names; `*` matches any run of characters. Of users it does not matter.
    pub rooms: String,
}

/// What may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookType {
    /// A message is in the log.
    MessageStored,
    /// A room has a member, and had none.
    RoomFirstMember,
    /// A room has no member any more.
    RoomLastMember,
    /// A user has a connection, and had none.
    UserOnline,
    /// A user has no connection any more.
    UserOffline,
}

impl HookType {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MessageStored, Self::RoomFirstMember, Self::RoomLastMember, Self::UserOnline, Self::UserOffline];

    /// As it is called in requests and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageStored => "message.stored",
            Self::RoomFirstMember => "room.first_member",
            Self::RoomLastMember => "room.last_member",
            Self::UserOnline => "user.online",
            Self::UserOffline => "user.offline",
        }
    }

    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The key of the signatures: `whsec_` and base64 of 24 to 64 bytes, as Standard Webhooks has it
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
#[derive(Clone, PartialEq, Eq)]
pub struct HookSecret(Vec<u8>);

impl HookSecret {
    /// From its text.
    pub fn parse(text: &str) -> Option<Self> {
        let key = STANDARD.decode(text.strip_prefix("whsec_")?).ok()?;
        (24..=64).contains(&key.len()).then_some(Self(key))
    }

    /// The key. Whoever calls it keeps it out of logs.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Hook {
    /// From a table of the settings. What is wrong is told without the secret.
    pub(super) fn from_json(value: &Value) -> Result<Self, String> {
        let table = value.as_object().ok_or("an entry is no table")?;
        if let Some(key) = table.keys().find(|key| !["url", "secret", "types", "rooms"].contains(&key.as_str())) {
            return Err(format!("{key} is none of url, secret, types, rooms"));
        }
        let text = |name: &str| table.get(name).and_then(Value::as_str);
        let url = text("url").and_then(|url| Url::parse(url, &["http", "https"])).ok_or("url is an http or https address")?;
        let secret = text("secret").and_then(HookSecret::parse).ok_or("secret is whsec_ and base64 of 24 to 64 bytes")?;
        let types = match table.get("types") {
            None => HookType::ALL.to_vec(),
            Some(types) => {
                let known = |kind: &Value| kind.as_str().and_then(HookType::parse);
                let types: Option<Vec<_>> = types.as_array().and_then(|types| types.iter().map(known).collect());
                types
                    .filter(|types| !types.is_empty())
                    .ok_or_else(|| format!("types is a list of {}", HookType::ALL.map(HookType::as_str).join(", ")))?
            }
        };
        let rooms = match table.get("rooms") {
            None => "*",
            Some(_) => text("rooms").filter(|rooms| !rooms.is_empty()).ok_or("rooms is no pattern")?,
        };
        Ok(Self { url, secret, types, rooms: rooms.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_read_or_refused_without_their_secret() {
        let read = |text: &str| Hook::from_json(&serde_json::from_str(text).unwrap());
        let hook =
            read(r#"{"url":"https://a/b","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","types":["user.online"]}"#).unwrap();
        assert_eq!((hook.types.as_slice(), hook.rooms.as_str()), ([HookType::UserOnline].as_slice(), "*"));
        assert_eq!(hook.secret.expose().len(), 24);
        assert!(!format!("{hook:?}").contains("MfKQ"));
        for bad in [
            r#"{"url":"https://a","secret":"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#,
            r#"{"url":"ftp://a","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#,
            r#"{"url":"https://a","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","types":["user.came"]}"#,
            r#"{"url":"https://a","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw","room":"*"}"#,
        ] {
            let problem = read(bad).unwrap_err();
            assert!(!problem.contains("MfKQ"), "{problem}");
        }
    }
}
